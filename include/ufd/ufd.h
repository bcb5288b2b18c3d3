/* SPDX-License-Identifier: MIT */
/*
 * libufd: have the memory of this process paged by ufdd.
 *
 * A client (struct ufd_client) stands for one guest. It makes this process's userfaultfd, describes
 * the memories, hands both to the daemon, and from then on tells it what only this process knows:
 * mappings that come and go, bytes that are discarded, bytes that are written behind the page
 * tables. It has no thread and no signal handler; what happens by itself (the daemon dies, comes
 * back) is handled by ufd_client_dispatch() when ufd_client_fd() is readable.
 *
 * A VMM calls, in this order:
 *	ufd_client_new(), ufd_client_add_memory() for each memory, ufd_client_attach(),
 *	then lets its guest run; ufd_client_detach() and ufd_client_free() at the end.
 *
 * The client keeps the userfaultfd open for life. That is what turns the daemon's death into a
 * stall: without it every page that is still absent would read zero.
 *
 * Every call returns 0 or a negative errno, and leaves its ret_ parameters alone when it fails;
 * ufd_client_error() then says in words what happened and what to do. Calls on one client are made
 * by one thread at a time. Those that ask the daemon block for at most the client's timeout.
 *
 * Lengths and offsets are bytes. File descriptors are borrowed and duplicated, unless said
 * otherwise; in options, 0 or less is "none" (stdin is no memory and no socket).
 */
#ifndef UFD_UFD_H
#define UFD_UFD_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifndef UFD_OPTS
#define UFD_OPTS(type, name, ...) struct type name = { .size = sizeof(struct type), __VA_ARGS__ }
#endif

#define UFD_CLIENT_NAME_BYTES 64 /* longest name of a guest or a memory, with its final NUL */

/* "For ever", "without limit" or "none at all", where 0 means the default. */
#define UFD_CLIENT_FOREVER   UINT64_MAX
#define UFD_CLIENT_NO_LIMIT  UINT64_MAX
#define UFD_CLIENT_NO_WINDOW UINT64_MAX
#define UFD_CLIENT_AT_ONCE   UINT32_MAX

struct ufd_client;

enum ufd_client_flags {
	/*
	 * Faults of system calls and of KVM are not served but fail with EFAULT. Anybody may make
	 * such a userfaultfd; only for programs whose every access is an instruction of their own.
	 * Never chosen by the library itself.
	 */
	UFD_CLIENT_USER_MODE = 1 << 0,
	/*
	 * madvise() of paged memory does not wait for the daemon. Each discard must then be
	 * announced by ufd_client_note_discard(); without this flag the kernel announces those made
	 * by madvise().
	 */
	UFD_CLIENT_NO_REMOVE_EVENTS = 1 << 1,
	/* For libufd-preload: the guest is shown as one of front end `preload`. */
	UFD_CLIENT_PRELOADED = 1 << 2,
};

/* In the enums below 0 is what the daemon is configured to, see ufdd.conf(5). */

/* When bytes cannot be had. */
enum ufd_client_policy {
	UFD_CLIENT_STALL = 1,  /* the thread waits, the daemon retries */
	UFD_CLIENT_POISON = 2, /* after the deadline the page raises SIGBUS (Linux 6.6) */
	UFD_CLIENT_KILL = 3,   /* after the deadline this process is killed */
};

/* How writes will be tracked; fixed for the userfaultfd's life. */
enum ufd_client_track {
	UFD_CLIENT_SCAN = 1, /* asynchronously; the default where the kernel can (Linux 6.7) */
	UFD_CLIENT_WP = 2,   /* by synchronous write-protect faults */
};

/* Other processes that map a memory. */
enum ufd_client_others {
	UFD_CLIENT_OTHERS_REFUSE = 1, /* attach fails and names them */
	UFD_CLIENT_OTHERS_ATTACH = 2, /* they are paged too */
	UFD_CLIENT_OTHERS_EAGER = 3,  /* all is filled before attach returns */
};

/* Pages that exist where absence was declared. */
enum ufd_client_populated {
	UFD_CLIENT_POPULATED_REFUSE = 1, /* attach fails */
	UFD_CLIENT_POPULATED_PUNCH = 2,	 /* they are freed */
	UFD_CLIENT_POPULATED_KEEP = 3,	 /* they count as present */
};

enum ufd_client_switch {
	UFD_CLIENT_ON = 1,
	UFD_CLIENT_OFF = 2,
};

/* What ufd_client_dispatch() reports. */
enum ufd_client_event {
	UFD_CLIENT_LOST = 1,   /* the daemon or the connection is gone; absent pages stall */
	UFD_CLIENT_RESUMED,    /* it is back, and had not forgotten the guest */
	UFD_CLIENT_REATTACHED, /* it is back, and was given the guest anew */
	UFD_CLIENT_REFUSED,    /* it is back, but see ufd_client_error(); tried again */
	UFD_CLIENT_STRANDED,   /* lost, and no path to connect to: ufd_client_reconnect() */
};

/*
 * @event is an enum ufd_client_event. The callback may call anything on @client but
 * ufd_client_free() and ufd_client_dispatch().
 */
typedef void (*ufd_client_event_fn)(struct ufd_client *client, uint32_t event, void *userdata);

/**
 * struct ufd_client_opts - settings of ufd_client_new(); zero is every field's default but @guest's
 * @size:	      sizeof this struct, by UFD_OPTS()
 * @guest:	      the guest's name, 1 to 63 bytes, unique in the daemon
 * @socket_path:      the daemon's socket; NULL is $UFD_SOCKET, else /run/ufd/io.ufd.manager; beside
 *		      @connection it is used only after that is lost, and NULL is none
 * @on_event:	      called by ufd_client_dispatch(); may be NULL
 * @userdata:	      for @on_event
 * @timeout_ns:	      longest wait of one call; 0 is 30 seconds, or UFD_CLIENT_FOREVER. With
 *		      UFD_CLIENT_OTHERS_EAGER it must be enough to fetch everything
 * @background_rate:  bytes a second of background fill, or UFD_CLIENT_NO_LIMIT
 * @window_bytes:     neighbours fetched with a demanded page, or UFD_CLIENT_NO_WINDOW
 * @flags:	      enum ufd_client_flags; an unknown bit fails with -EINVAL
 * @connection:	      a connected socket of the daemon, used instead of the path
 * @policy:	      enum ufd_client_policy
 * @fault_deadline_s: seconds before @policy is applied, or UFD_CLIENT_AT_ONCE
 * @track:	      enum ufd_client_track
 * @other_mappers:    enum ufd_client_others
 * @populated:	      enum ufd_client_populated
 * @background:	      enum ufd_client_switch: fill everything, not only what is demanded
 * @cpu:	      1 + the CPU that serves the faults, 0 is anywhere
 * @spin_us:	      how long that thread looks for faults before it sleeps
 * @reserved:	      0
 * @consumer:	      one who wants to know which pages are written (ufdctl-dirty(1)), from the first fill
 *		      on; 1 to 63 bytes, NULL is nobody. Not begun anew when the guest is handed over again
 *
 * New fields go to the end, without gaps.
 */
struct ufd_client_opts {
	size_t size;
	const char *guest;
	const char *socket_path;
	ufd_client_event_fn on_event;
	void *userdata;
	uint64_t timeout_ns;
	uint64_t background_rate;
	uint64_t window_bytes;
	uint32_t flags;
	int32_t connection;
	uint32_t policy;
	uint32_t fault_deadline_s;
	uint32_t track;
	uint32_t other_mappers;
	uint32_t populated;
	uint32_t background;
	uint32_t cpu;
	uint32_t spin_us;
	uint32_t reserved[2];
	const char *consumer;
};

/**
 * ufd_client_new() - a client, and this process's userfaultfd
 * @ret:       new client, owned by the caller; release with ufd_client_free()
 * @opts:      settings; at least the guest's name
 * @ret_error: what failed and what to do, a constant text; may be NULL
 *
 * The userfaultfd is made by userfaultfd(2), else by /dev/userfaultfd; a user-mode-only one is
 * made only when asked for. Nothing is sent yet.
 *
 * Context: Any thread. Does not wait for the daemon.
 * Return:  0, or a negative errno:
 *	    -EINVAL	an option has no meaning, or the name is missing or too long
 *	    -E2BIG	an option this library does not know
 *	    -EPERM	this process may not make a userfaultfd
 *	    -ENOSYS	the kernel has none
 *	    -ENOTSOCK	@opts->connection is no socket
 *	    -ENOMEM, -EMFILE, -ENFILE
 */
int ufd_client_new(struct ufd_client **ret, const struct ufd_client_opts *opts,
		   const char **ret_error);

/**
 * ufd_client_free() - forget the client
 * @client: NULL is fine
 *
 * Does not detach. While a guest is attached its userfaultfd stays open on purpose, until the
 * process ends: the guest lives on, and still survives the daemon's death as a stall.
 *
 * Return: NULL.
 */
struct ufd_client *ufd_client_free(struct ufd_client *client);

/* What the last call that failed was about, and what to do. Valid until the next call. Never NULL.
 */
const char *ufd_client_error(const struct ufd_client *client);

/* ---- memories -------------------------------------------------------------------------------- */

enum ufd_client_memory_flags {
	UFD_CLIENT_PRIVATE = 1 << 0, /* @backing is mapped MAP_PRIVATE */
};

/**
 * struct ufd_client_memory_opts - a memory, and where this process maps it first
 * @size:	sizeof this struct, by UFD_OPTS()
 * @name:	1 to 63 bytes, unique in the guest
 * @source:	where absent bytes come from: `zero`, `file:PATH[,offset=N]`, `file:` with
 *@source_fd, or `backing`: the bytes are in the memory's own file already
 * @address:	start of the mapping
 * @length:	of the mapping
 * @offset:	where in @backing (for anonymous memory: in the memory) the mapping starts
 * @page_bytes: page size of the mapping; 0 is the backing's, the base page for anonymous memory
 * @backing:	memfd, tmpfs or hugetlbfs file; none for anonymous memory
 * @source_fd:	a readable file for `file:` without a path
 * @flags:	enum ufd_client_memory_flags
 * @reserved:	0
 */
struct ufd_client_memory_opts {
	size_t size;
	const char *name;
	const char *source;
	void *address;
	uint64_t length;
	uint64_t offset;
	uint64_t page_bytes;
	int32_t backing;
	int32_t source_fd;
	uint32_t flags;
	uint32_t reserved;
};

/**
 * ufd_client_add_memory() - describe a memory
 *
 * Before ufd_client_attach() it is only noted. On an attached guest it is hot-plug: when the call
 * returns 0 the mapping is paged, and only then may it be touched.
 *
 * Context: Any thread. Blocks if the guest is attached.
 * Return:  0, or a negative errno:
 *	    -EINVAL	name, SPEC, alignment or flags
 *	    -E2BIG	an option this library does not know
 *	    -EEXIST	there is a memory of this name, or the mapping overlaps another
 *	    -EBADF	an fd is no file of the kind asked for
 *	    -ENOTCONN	the daemon is lost; nothing was sent
 *	    and those of ufd_client_attach(). After -ETIMEDOUT, -ECONNRESET, -EPROTO and -ENOMEM
 *	    the daemon may have the mapping: call ufd_client_remove_region() before adding again,
 *	    which says -ENOENT if it has not
 */
int ufd_client_add_memory(struct ufd_client *client, const struct ufd_client_memory_opts *opts);

/**
 * struct ufd_client_region_opts - a further mapping of a memory
 * @size:    sizeof this struct, by UFD_OPTS()
 * @memory:  the memory's name
 * @address: start of the mapping
 * @length:  of the mapping
 * @offset:  where in the memory's backing it starts
 */
struct ufd_client_region_opts {
	size_t size;
	const char *memory;
	void *address;
	uint64_t length;
	uint64_t offset;
};

/**
 * ufd_client_add_region() - describe a further mapping of a memory
 *
 * As ufd_client_add_memory(), and
 * Return: -ENOENT, there is no such memory.
 */
int ufd_client_add_region(struct ufd_client *client, const struct ufd_client_region_opts *opts);

/**
 * ufd_client_remove_region() - a mapping is about to go away
 *
 * Call it before munmap(). Waiters are woken; absent pages of it read zero from then on. A memory
 * without a mapping is forgotten.
 *
 * Context: Any thread. Blocks if the guest is attached.
 * Return:  0, or a negative errno:
 *	    -ENOENT	there is no such mapping
 *	    -ENOTCONN	the daemon is lost: keep the mapping, and call again when it is back
 *	    -ETIMEDOUT, -ECONNRESET: the same
 */
int ufd_client_remove_region(struct ufd_client *client, void *address, uint64_t length);

/* ---- the guest ------------------------------------------------------------------------------- */

/**
 * ufd_client_attach() - hand the guest over
 *
 * Returns 0 once every mapping is registered and proved; from then on it may be touched.
 *
 * Context: Any thread. Blocks.
 * Return:  0, or a negative errno:
 *	    -EALREADY	it is attached
 *	    -EEXIST	another guest has this name
 *	    -EINVAL	a mapping is unaligned, overlaps another, or is not what was described
 *	    -EBADF	an fd is of the wrong kind
 *	    -ENODATA	a source cannot be used
 *	    -EUSERS	other processes map a memory
 *	    -ENOTEMPTY	pages exist where absence was declared
 *	    -ENOENT, -ECONNREFUSED  no daemon listens there
 *	    -EPERM, -EACCES	the daemon, or its socket, is not for us
 *	    -ENOSPC	the daemon is at a limit
 *	    -EOPNOTSUPP	the daemon's kernel or environment lacks something
 *	    -ENOSYS	the daemon is too old for the call
 *	    -EREMOTEIO	the daemon refuses for another reason
 *	    -ETIMEDOUT	no answer in time
 *	    -ECONNRESET	the daemon went away
 *	    -EPROTO	what answered is no ufdd
 *	    -ENOTCONN	the inherited connection is used up: see ufd_client_reconnect()
 *	    -ENOMEM	of this process
 *	    or an errno that the daemon met
 *	    After -ETIMEDOUT, -ECONNRESET, -EPROTO and -ENOMEM it may be attached all the same:
 *	    ufd_client_detach() before trying again, which says -EINVAL if it cannot be
 */
int ufd_client_attach(struct ufd_client *client);

/**
 * ufd_client_offer() - let others bring this process
 *
 * For a VMM that does not know yet what its memory is to be filled with, or whether it will be paged
 * at all: gives the daemon the userfaultfd, for those who say so later by ufdctl-guest(1) or
 * ufdctl-restore(1). They need not trace the process then. The guest is described, named and ended by
 * them; memories of this client play no part. An offer lasts as long as its connection, which
 * ufd_client_free() and the daemon's end close: offer again then.
 *
 * Context: Any thread. Blocks.
 * Return:  0, or a negative errno:
 *	    -EALREADY	the guest is attached
 *	    and those of ufd_client_attach() about the daemon
 */
int ufd_client_offer(struct ufd_client *client);

/**
 * struct ufd_client_detach_opts - settings of ufd_client_detach()
 * @size:	 sizeof this struct, by UFD_OPTS()
 * @timeout_ns:	 longest wait; 0 is the client's, or UFD_CLIENT_FOREVER
 * @no_populate: 1: do not fill absent pages first; fails if there are any
 * @reserved:	 0
 */
struct ufd_client_detach_opts {
	size_t size;
	uint64_t timeout_ns;
	uint32_t no_populate;
	uint32_t reserved;
};

/**
 * ufd_client_detach() - end paging
 * @opts: settings, or NULL for the defaults
 *
 * By default every absent page is filled first. The memories stay described: a client that attaches
 * again hands them over as they are, existing pages present and all others zero.
 *
 * Context: Any thread. Blocks.
 * Return:  0, or a negative errno:
 *	    -EINVAL	it is not attached, or an option has no meaning
 *	    -EBUSY	pages are absent, and @opts->no_populate is set
 *	    -ENOTCONN	the daemon is lost
 *	    -ETIMEDOUT, -ECONNRESET: it may be attached still; call again when dispatch has
 *			found the daemon
 *	    and those of ufd_client_attach()
 */
int ufd_client_detach(struct ufd_client *client, const struct ufd_client_detach_opts *opts);

/**
 * ufd_client_note_discard() - bytes are about to be discarded
 * @memory: the memory's name
 * @offset: as in struct ufd_client_memory_opts
 * @length: whole pages
 *
 * Call it before the hole punch or madvise(): the bytes read zero from then on, whether they were
 * ever fetched or not. The client remembers the range, for a daemon that comes back without its
 * memory of the guest.
 *
 * Context: Any thread. Blocks if the guest is attached.
 * Return:  0, or a negative errno:
 *	    -EINVAL	not whole pages, outside of what is mapped, or the guest is not attached
 *	    -ENOENT	no such memory
 *	    -ENOTCONN	the daemon is lost, it was not told: do not discard now
 *	    -ETIMEDOUT, -ECONNRESET: it may have been told: do discard. Until they are written the
 *	    bytes may be zero or the source's
 */
int ufd_client_note_discard(struct ufd_client *client, const char *memory, uint64_t offset,
			    uint64_t length);

/**
 * ufd_client_note_write() - bytes were written other than through a described mapping
 *
 * For example by pwrite() to the backing. Write whole pages, call this, and only then let the
 * guest know of the bytes. Arguments and returns are those of ufd_client_note_discard(); after
 * an error the bytes are in place, but a dirty tracker may miss them.
 */
int ufd_client_note_write(struct ufd_client *client, const char *memory, uint64_t offset,
			  uint64_t length);

/* ---- what happens by itself ------------------------------------------------------------------ */

/* Readable when ufd_client_dispatch() has something to do; the client's, the same for its life. */
int ufd_client_fd(const struct ufd_client *client);

/**
 * ufd_client_dispatch() - look after the connection
 *
 * Notices that the daemon is gone, looks for it again with growing pauses (10 ms to 1 s), and
 * hands the guest over anew when it is back. libufd(3) says why no byte is lost. Trouble is
 * reported by the event callback, not by the return value.
 *
 * Context: Any thread. Does not block, but for a hand-over of thousands of mappings to a daemon that
 *	    does not read: one second.
 * Return:  0, or -ENOMEM (call again).
 */
int ufd_client_dispatch(struct ufd_client *client);

/**
 * ufd_client_reconnect() - go on with another connection
 * @connection: a connected socket of the daemon
 *
 * For processes that cannot connect by themselves: after UFD_CLIENT_STRANDED, whoever started this
 * process connects and passes the socket in. ufd_client_dispatch() then does the rest.
 *
 * Context: Any thread. Does not block.
 * Return:  0, -ENOTSOCK, -EALREADY (the connection stands), or a negative errno of dup.
 */
int ufd_client_reconnect(struct ufd_client *client, int connection);

enum ufd_client_state {
	UFD_CLIENT_DETACHED = 0,
	UFD_CLIENT_ATTACHED = 1,
	UFD_CLIENT_AWAY = 2, /* attached, but the daemon is lost */
};

/* Return: enum ufd_client_state. */
uint32_t ufd_client_state(const struct ufd_client *client);

#ifdef __cplusplus
}
#endif
#endif
