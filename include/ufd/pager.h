/* SPDX-License-Identifier: MIT */
/*
 * libufd-pager: page the memory of other processes, without the daemon.
 *
 * An engine (struct ufd_pager) serves guests. A guest is a name, its memories and the mappers
 * (processes) that map them. Each running guest has one demand thread, which the engine owns; it
 * reads the userfaultfds and fills pages from the memories' sources. The engine never logs and never
 * ends a process unless the guest's policy is UFD_POLICY_KILL. What happens is told by events.
 *
 * A guest is built in this order:
 *	ufd_pager_guest_new(), ufd_pager_guest_add_mapper(), ufd_pager_guest_add_memory(),
 *	ufd_pager_guest_add_mapping() for every view of it, ufd_pager_guest_start().
 * The same calls hot-plug a running guest. Nothing is allocated on the fault path.
 *
 * Threads: calls on one engine and its guests are made by one thread at a time. Those that say
 * "blocks" read /proc or wait for the demand thread (milliseconds), so daemons make them from a job.
 * Lengths and offsets are bytes. File descriptors are borrowed and duplicated, unless said otherwise.
 * Every call returns 0 or a negative errno, and leaves its ret_ parameters alone when it fails.
 */
#ifndef UFD_PAGER_H
#define UFD_PAGER_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifndef UFD_OPTS
#define UFD_OPTS(type, name, ...) struct type name = { .size = sizeof(struct type), __VA_ARGS__ }
#endif

#define UFD_NAME_BYTES 64 /* longest name of a guest or a memory, with its final NUL */

struct ufd_pager;
struct ufd_pager_guest;
struct ufd_source;
struct ufd_read;

/* ---- events ---------------------------------------------------------------------------------- */

enum ufd_event_kind {
	UFD_EVENT_COMPLETED = 1, /* nothing is absent any more */
	UFD_EVENT_GRADUATED,	 /* complete, unregistered, no cost any more; the handles stay */
	UFD_EVENT_MAPPER_ENDED,	 /* value: pid of the process that ended */
	UFD_EVENT_ENDED,	 /* the last process ended: free the guest */
	UFD_EVENT_STALLED, /* bytes cannot be had; value: positive errno. Told once until it recovers */
	UFD_EVENT_RECOVERED, /* stalled pages were filled after all */
	UFD_EVENT_DEADLINE, /* a page has stalled for the guest's deadline; its policy was applied */
	UFD_EVENT_POISONED, /* value: pages */
	UFD_EVENT_KILLED,   /* policy kill; value: pid */
	UFD_EVENT_FOREIGN_MAPPER, /* a process that is not ours mapped a memory that is still lazy; value: pid */
	UFD_EVENT_FOREIGN_TOUCH, /* an absent page appeared in the file; value: 1 if its bytes were restored */
	UFD_EVENT_DISCARD_UNANNOUNCED, /* a present page vanished without an event; it reads zero */
	UFD_EVENT_EXHAUSTED,	  /* no memory or no huge page for a fill; retried with backoff */
	UFD_EVENT_SOURCE_CHANGED, /* the source's file was replaced, cut or written under us */
	UFD_EVENT_LOST,		  /* value: events that did not fit the queue */
	UFD_EVENT_HELD, /* filling is held back before the limit of a memory control group; value: MiB left */
	UFD_EVENT_RELEASED,	 /* there is room again: filling goes on */
	UFD_EVENT_FOREIGN_WRITE, /* the file of a tracked memory was written, nobody knows where */
};

/* Readable; valid during the callback. Grows at the end. */
struct ufd_event {
	size_t size;
	uint64_t time_ns;   /* CLOCK_MONOTONIC */
	const char *memory; /* name, or NULL if it concerns the guest */
	uint64_t offset;    /* in the memory */
	int64_t value;
	uint32_t kind; /* enum ufd_event_kind */
	uint32_t reserved;
	const char
		*path; /* of STALLED, DEADLINE, SOURCE_CHANGED: the file with the bytes, or NULL */
	uint64_t path_offset; /* where in it */
};

/* Called by ufd_pager_dispatch() only. */
typedef void (*ufd_event_fn)(struct ufd_pager_guest *guest, const struct ufd_event *event,
			     void *userdata);

/* ---- the engine ------------------------------------------------------------------------------ */

/**
 * struct ufd_pager_opts - settings of ufd_pager_new()
 * @size:     sizeof this struct, by UFD_OPTS()
 * @on_event: called by ufd_pager_dispatch(); may be NULL
 * @userdata: for @on_event
 */
struct ufd_pager_opts {
	size_t size;
	ufd_event_fn on_event;
	void *userdata;
};

/* An engine without guests. Return: 0, -ENOMEM, -ENOSYS (no userfaultfd or io_uring here), -EINVAL/-E2BIG (options). */
int ufd_pager_new(struct ufd_pager **ret, const struct ufd_pager_opts *opts);

/* Stops every guest as ufd_pager_guest_free() does. NULL is fine. Blocks. Return: NULL. */
struct ufd_pager *ufd_pager_free(struct ufd_pager *pager);

/* Readable when ufd_pager_dispatch() has something to do; owned by the engine. */
int ufd_pager_fd(const struct ufd_pager *pager);

/* Deliver what has happened. Does not block. A callback may free the guest it is told of. */
int ufd_pager_dispatch(struct ufd_pager *pager);

/* ---- sources --------------------------------------------------------------------------------- */

/* Answers of struct ufd_source_ops callbacks beside a negative errno. */
enum ufd_source_answer {
	UFD_SOURCE_DATA = 0,	/* the bytes are in the buffer */
	UFD_SOURCE_ZERO = 1,	/* all of them are zero; the buffer was left alone */
	UFD_SOURCE_PENDING = 2, /* ufd_read_complete() will be called, once, by any thread */
};

/**
 * struct ufd_source_ops - a source of your own
 * @size:   sizeof this struct, by UFD_OPTS()
 * @length: bytes it has; a memory must not be longer
 * @read:   fill @buffer from @offset. Called by the demand thread: must not block or fault on guest
 *	    memory. Return: enum ufd_source_answer or a negative errno. @read is for ufd_read_complete()
 * @extent: what lies at @offset, without reading it: UFD_SOURCE_DATA or UFD_SOURCE_ZERO, and how far
 *	    that holds. Called by the demand thread, must not block. NULL: everything is data
 * @free:   the last reference went; NULL if there is nothing to do
 */
struct ufd_source_ops {
	size_t size;
	uint64_t length;
	int (*read)(void *userdata, uint64_t offset, void *buffer, uint64_t length,
		    struct ufd_read *read);
	int (*extent)(void *userdata, uint64_t offset, uint64_t length, uint64_t *ret_length);
	void (*free)(void *userdata);
};

/* A source with callbacks; the caller holds the reference. */
int ufd_source_new(struct ufd_source **ret, const struct ufd_source_ops *ops, void *userdata);

/**
 * ufd_source_open() - a source from its SPEC
 * @spec:      `zero`, `file:PATH[,offset=N]`, or `backing` (the memory's own file holds the bytes)
 * @fd:        for `file:` without a path: its open file; else -1
 * @ret_error: what is wrong with the SPEC or its file, a static or thread-local text; may be NULL
 *
 * Context: any; opens the file (may block). Return: 0, -EINVAL (SPEC), -errno of the file.
 */
int ufd_source_open(struct ufd_source **ret, const char *spec, int fd, const char **ret_error);

struct ufd_source *ufd_source_ref(struct ufd_source *source);
struct ufd_source *ufd_source_unref(struct ufd_source *source);

/* Finish a pending read: @answer is UFD_SOURCE_DATA, UFD_SOURCE_ZERO or a negative errno. Any thread; does not block. */
void ufd_read_complete(struct ufd_read *read, int answer);

/* ---- guests ---------------------------------------------------------------------------------- */

enum ufd_policy {
	UFD_POLICY_STALL = 0,  /* retry with backoff for ever, and say so */
	UFD_POLICY_POISON = 1, /* after the deadline the page raises SIGBUS (Linux 6.6) */
	UFD_POLICY_KILL = 2,   /* after the deadline the processes of the guest are killed */
};

enum ufd_track {
	UFD_TRACK_SCAN = 0, /* asynchronous write-protection, read by PAGEMAP_SCAN (Linux 6.7) */
	UFD_TRACK_WP = 1,   /* synchronous write-protect faults */
};

enum ufd_other_mappers {
	UFD_OTHERS_REFUSE =
		0, /* start fails with -EUSERS while a process that is no mapper of the guest maps a memory */
	UFD_OTHERS_EAGER =
		1, /* fill everything before start returns; later mappers are fine then */
	UFD_OTHERS_IGNORE = 2, /* the caller has seen to it (e.g. checked and will add them) */
};

enum ufd_populated {
	UFD_POPULATED_REFUSE = 0, /* -ENOTEMPTY if a page exists where absence was declared */
	UFD_POPULATED_PUNCH = 1,  /* free such pages first (memfd, tmpfs, hugetlbfs) */
	UFD_POPULATED_KEEP = 2,	  /* they count as present */
};

/**
 * struct ufd_pager_guest_opts - settings of ufd_pager_guest_new(); zero is every field's default
 * @size:		sizeof this struct, by UFD_OPTS()
 * @deadline_ns:	for @policy; 0 applies poison or kill at the first failure
 * @background_rate:	bytes a second of background fill, 0 is without limit
 * @window_bytes:	neighbours fetched with a demanded page; 0 is 64 KiB, UFD_NO_WINDOW none
 * @spin_ns:		look for faults this long before sleeping
 * @policy:		enum ufd_policy
 * @track:		enum ufd_track; must agree with how the uffds were made
 * @other_mappers:	enum ufd_other_mappers
 * @populated:		enum ufd_populated
 * @no_background:	1: fill only what is demanded or prefetched
 * @cpu:		1 + the CPU the demand thread stays on, 0 is anywhere
 * @nice:		nice value of the demand thread; needs CAP_SYS_NICE below 0, else it stays 0
 * @may_run:		1: its processes run already, with ranges registered, as UFD_POPULATED_KEEP implies
 */
struct ufd_pager_guest_opts {
	size_t size;
	uint64_t deadline_ns;
	uint64_t background_rate;
	uint64_t window_bytes;
	uint64_t spin_ns;
	uint32_t policy;
	uint32_t track;
	uint32_t other_mappers;
	uint32_t populated;
	uint32_t no_background;
	uint32_t cpu;
	int32_t nice;
	uint32_t may_run;
};
#define UFD_NO_WINDOW UINT64_MAX

/**
 * ufd_pager_guest_new() - a guest that is not running yet
 * @name: 1 to 63 bytes, unique among the engine's guests
 *
 * Return: 0, -EEXIST, -EINVAL, -E2BIG (an option this library does not know), -EOPNOTSUPP (the kernel
 *	   has no poison), -ENOMEM.
 */
int ufd_pager_guest_new(struct ufd_pager *pager, struct ufd_pager_guest **ret, const char *name,
			const struct ufd_pager_guest_opts *opts);

/**
 * ufd_pager_guest_free() - stop paging
 *
 * Stops the demand thread, unregisters and wakes. Pages that are absent read zero from then on:
 * call ufd_pager_guest_finish() first if the process is to live. NULL is fine. Blocks. Return: NULL.
 */
struct ufd_pager_guest *ufd_pager_guest_free(struct ufd_pager_guest *guest);

const char *ufd_pager_guest_name(const struct ufd_pager_guest *guest);
void ufd_pager_guest_set_userdata(struct ufd_pager_guest *guest, void *userdata);
void *ufd_pager_guest_userdata(const struct ufd_pager_guest *guest);

/* The options in force, defaults filled in. */
void ufd_pager_guest_get_opts(const struct ufd_pager_guest *guest,
			      struct ufd_pager_guest_opts *ret);

/**
 * ufd_pager_guest_add_mapper() - a process that maps the guest's memory
 * @uffd:       its userfaultfd, handshake done, O_NONBLOCK
 * @pidfd:      the process
 * @pagemap:    its /proc/PID/pagemap, or -1: opened by us when needed (ptrace-read rights)
 * @ret_mapper: a small number for ufd_pager_guest_add_mapping()
 *
 * Return: 0, -EBADFD (no uffd), -EPROTO (no handshake), -EWOULDBLOCK (blocking uffd),
 *	   -EOPNOTSUPP (asked for FORK, REMAP or UNMAP events, or SIGBUS), -EBUSY (it serves a guest
 *	   already), -ESRCH, -ENOSPC (8 a guest).
 */
int ufd_pager_guest_add_mapper(struct ufd_pager_guest *guest, int uffd, int pidfd, int pagemap,
			       uint32_t *ret_mapper);

enum ufd_memory_kind {
	UFD_MEMORY_ANON =
		0, /* one process's anonymous range; offsets count from its first mapping */
	UFD_MEMORY_SHMEM = 1,	/* memfd or tmpfs, mapped shared */
	UFD_MEMORY_HUGETLB = 2, /* huge pages, mapped shared */
	UFD_MEMORY_PRIVATE = 3, /* a memfd, tmpfs or hugetlbfs file mapped MAP_PRIVATE */
};

/**
 * struct ufd_pager_memory_opts - one memory
 * @size:	sizeof this struct, by UFD_OPTS()
 * @name:	1 to 63 bytes, unique in the guest
 * @length:	bytes, a multiple of @page_bytes
 * @page_bytes:	0 is the system's base page; else a huge page size
 * @source:	where absent pages come from; the memory takes a reference
 * @source_offset: where the memory's first byte lies in the source
 * @backing_offset: where the memory's first byte lies in @backing
 * @backing:	memfd, tmpfs or hugetlbfs file; -1 for UFD_MEMORY_ANON
 * @kind:	enum ufd_memory_kind
 */
struct ufd_pager_memory_opts {
	size_t size;
	const char *name;
	uint64_t length;
	uint64_t page_bytes;
	struct ufd_source *source;
	uint64_t source_offset;
	uint64_t backing_offset;
	int backing;
	uint32_t kind;
};

/**
 * ufd_pager_guest_add_memory() - declare a memory, wholly absent
 * @ret_memory: a small number for the calls below
 *
 * Return: 0, -EINVAL (alignment, kind), -EEXIST (name), -ERANGE (the source is shorter, or the
 *	   backing file), -EBADF (backing of the wrong kind), -ENOSPC (64 a guest, or SPECs too long
 *	   for its ledger), -ENOMEM.
 */
int ufd_pager_guest_add_memory(struct ufd_pager_guest *guest,
			       const struct ufd_pager_memory_opts *opts, uint32_t *ret_memory);

/**
 * ufd_pager_guest_add_mapping() - a view of a memory in one process
 * @address: where it is mapped in @mapper's process, aligned to the page size of the memory
 * @offset:  in the memory
 *
 * Registers the range; with the memory's first mapping of an offset, absence is proved there as
 * the guest's option populated says. Faults raised meanwhile wait. After an error the range is not
 * registered; but with UFD_POPULATED_KEEP or may_run it may be before the start, for a process that ran with it
 * before has threads that wait there. Blocks.
 * Return: 0, -EINVAL (alignment, length), -EEXIST (overlaps another mapping, or shows pages of an
 *	   anonymous or private memory that another one shows already), -EBUSY (another
 *	   userfaultfd is registered there), -EPERM (this mapping cannot be registered), -ESRCH,
 *	   -ENOTEMPTY (*ret_offset, if not NULL, is the page), -EACCES (pagemap), -ENOSPC (1,024 a guest).
 */
int ufd_pager_guest_add_mapping(struct ufd_pager_guest *guest, uint32_t mapper, uint32_t memory,
				uint64_t address, uint64_t length, uint64_t offset,
				uint64_t *ret_offset);

/*
 * Forget a mapping, whole; its waiters are woken. With its last mapping a memory is forgotten too: its
 * number and name are free again, and mapped anew it is a new memory. Discards that began before are heard first: if
 * one does not come to an end, or nobody reads because the guest was not started, the place stays taken until the
 * next change, or the start. Blocks. Return: 0, -ENOENT.
 */
int ufd_pager_guest_remove_mapping(struct ufd_pager_guest *guest, uint32_t mapper, uint64_t address,
				   uint64_t length);

/**
 * ufd_pager_guest_other_mappers() - processes that map a memory and are not mappers of the guest
 * @pids:  filled with at most @n_pids of them
 * @ret_n: how many there are
 *
 * Blocks (reads /proc). Return: 0 or -errno.
 */
int ufd_pager_guest_other_mappers(struct ufd_pager_guest *guest, uint32_t memory, pid_t *pids,
				  size_t n_pids, size_t *ret_n);

/* Begin to serve. Blocks when the option other_mappers asks for it. Return: 0, -EUSERS, -EAGAIN/-ENOMEM (thread). */
int ufd_pager_guest_start(struct ufd_pager_guest *guest);

/* Fill a range soon, before other background work. @length 0: to the end. Return: 0, -EINVAL, -EBUSY (64 are queued). */
int ufd_pager_guest_prefetch(struct ufd_pager_guest *guest, uint32_t memory, uint64_t offset,
			     uint64_t length);

/* The owner discarded, or wrote by another way than a registered mapping. Blocks. Return: 0, -EINVAL. */
int ufd_pager_guest_note_discard(struct ufd_pager_guest *guest, uint32_t memory, uint64_t offset,
				 uint64_t length);
int ufd_pager_guest_note_write(struct ufd_pager_guest *guest, uint32_t memory, uint64_t offset,
			       uint64_t length);

/**
 * ufd_pager_guest_finish() - fill all that is absent, without rate limit
 * @timeout_ns: 0 waits for ever
 *
 * What no living process maps is left out. Blocks. Return: 0 when nothing is absent, -ETIMEDOUT, -ESRCH (the guest ended).
 */
int ufd_pager_guest_finish(struct ufd_pager_guest *guest, uint64_t timeout_ns);

/* ---- outliving this process ------------------------------------------------------------------- */

/*
 * What must survive of a guest is its ledger (a memfd: page states, messages read and not applied,
 * what was being put where, mappings, settings) and its handles: file descriptors that cannot be
 * made again. Whoever keeps duplicates of both beyond the death of this process (a service
 * manager's fd store) lets a successor adopt the guest. As long as one duplicate of each uffd
 * exists, faults wait meanwhile; when the last one is closed, absent pages read zero.
 */
enum ufd_handle_kind {
	UFD_HANDLE_UFFD = 1,	/* id: mapper */
	UFD_HANDLE_PIDFD = 2,	/* id: mapper */
	UFD_HANDLE_PAGEMAP = 3, /* id: mapper; only if the owner passed one */
	UFD_HANDLE_BACKING = 4, /* id: memory */
	UFD_HANDLE_SOURCE = 5,	/* id: memory; only of sources that are a file */
};

struct ufd_handle {
	uint32_t kind; /* enum ufd_handle_kind */
	uint32_t id;
	int fd;
	uint32_t reserved;
};
#define UFD_MAX_HANDLES 160 /* a guest has fewer: they fit one SCM_RIGHTS message */

/* The ledger, borrowed: an fd of a file that grows and never shrinks. */
int ufd_pager_guest_ledger(const struct ufd_pager_guest *guest);

/* The handles there are now; their fds are borrowed, until the guest changes. Return: 0, -ENOSPC (@n_handles is too few). */
int ufd_pager_guest_handles(struct ufd_pager_guest *guest, struct ufd_handle *handles,
			    size_t n_handles, size_t *ret_n);

/*
 * Records of the caller's own in the guest's ledger: tags UFD_OWN_TAG to UFD_OWN_TAG + 15, any id.
 * Replaced as a whole, whole after a crash at any instruction. Return: 0, -ENOSPC (the old record
 * stands), -EINVAL (tag). Getting: 0 with a copy of at most @n_bytes, -ENOENT; *ret_n is its length.
 */
#define UFD_OWN_TAG 64
int ufd_pager_guest_put_record(struct ufd_pager_guest *guest, uint32_t tag, uint32_t id,
			       const void *data, size_t n_bytes);
int ufd_pager_guest_drop_record(struct ufd_pager_guest *guest, uint32_t tag, uint32_t id);
int ufd_pager_guest_get_record(const struct ufd_pager_guest *guest, uint32_t tag, uint32_t id,
			       void *data, size_t n_bytes, size_t *ret_n);

/**
 * struct ufd_pager_adopt_opts - settings of ufd_pager_guest_adopt()
 * @size:      sizeof this struct, by UFD_OPTS()
 * @handles:   those that were kept; borrowed, duplicated where used
 * @n_handles: how many
 * @refetch:   a handle that is missing: find it elsewhere (the process has a duplicate of its
 *	       uffd, and maps the backing). NULL: a missing handle is an error. @ret_fd becomes the
 *	       engine's. Return: 0 or -errno
 * @userdata:  for the callbacks
 * @report:    told in a sentence of each thing that does not fit (a record without its fd, an fd
 *	       without record, a damaged record, a mapping that was only half made); may be NULL
 */
struct ufd_pager_adopt_opts {
	size_t size;
	const struct ufd_handle *handles;
	size_t n_handles;
	int (*refetch)(void *userdata, struct ufd_pager_guest *guest, uint32_t kind, uint32_t id,
		       int *ret_fd);
	void (*report)(void *userdata, const char *sentence);
	void *userdata;
};

/* What is known of a handle that is missing, for @refetch. Readable. */
struct ufd_handle_info {
	size_t size;
	pid_t pid;	      /* of the mapper; of a memory: the first mapper that shows it */
	uint64_t start_ticks; /* of that process: the same field of /proc/PID/stat */
	uint64_t
		address; /* where it shows the memory (or the first one of the mapper); 0: nowhere */
	uint64_t length;
	uint64_t device, inode; /* of a backing or a source */
	const char *spec;	/* of a source; valid until the guest is freed */
};
/* Return: 0, -ENOENT (no record speaks of it), -EINVAL (size). */
int ufd_pager_handle_info(const struct ufd_pager_guest *guest, uint32_t kind, uint32_t id,
			  struct ufd_handle_info *ret);

/**
 * ufd_pager_guest_adopt() - a guest from the ledger that a former process left
 * @ledger:	borrowed, duplicated; nothing is written into it before ufd_pager_guest_start()
 *
 * The guest does not run yet: records can be read, and ufd_pager_guest_start() replays what was
 * read and not applied, takes interrupted fills over, wakes every range and serves. A guest that
 * never was started by the former process, or that it was freeing, is adopted too: *ret_was_started
 * is 0, and it is the caller's to free it, which unregisters. Mappings that were only half made are
 * unregistered by the start; memories that are mapped nowhere are forgotten then. Processes that
 * have ended stay ended, the others are served. A source that is gone is reported, and no error, if no
 * page of its memory is absent. Blocks.
 *
 * Return: 0, -EEXIST (name), -EBADMSG (damaged), -EPROTONOSUPPORT (a newer release wrote it), -ESRCH
 *	   (every process has ended, or there was none yet), -EBADF (a handle is missing), -ESTALE (a
 *	   source is no longer what it was), -ENOMEM, -errno of a file. What was wrong has been reported.
 */
int ufd_pager_guest_adopt(struct ufd_pager *pager, struct ufd_pager_guest **ret, int ledger,
			  const struct ufd_pager_adopt_opts *opts, int *ret_was_started);

/**
 * ufd_pager_guest_leave() - stop paging, but leave everything as it is, for a successor
 *
 * The demand thread stops between two pieces of work; nothing is unregistered or woken; the guest
 * is freed and its fds closed here. The caller has seen to it that duplicates of every uffd exist.
 * NULL is fine. Blocks. Return: NULL.
 */
struct ufd_pager_guest *ufd_pager_guest_leave(struct ufd_pager_guest *guest);

/* Keep the ledgers of new guests as files in this directory (a tmpfs), in place of memfds: for those without
 * an fd store. @path NULL: memfds again. Return: 0, -ENOTDIR, -EMEDIUMTYPE (no tmpfs), -errno. */
int ufd_pager_set_ledger_directory(struct ufd_pager *pager, const char *path);

/*
 * For a watchdog that asks every second or less often: has every demand thread turned its loop since
 * the last call? Any thread. Return: 1 or 0; *ret_guest, if not NULL, is the name of one that has not
 * (valid until the next call).
 */
int ufd_pager_is_alive(struct ufd_pager *pager, const char **ret_guest);

/* ---- looking --------------------------------------------------------------------------------- */

/* Readable. Counts since start; grows at the end. */
struct ufd_guest_stats {
	size_t size;
	uint64_t faults_missing, faults_minor, faults_wp;
	uint64_t faults_stale; /* the page was there already, or on its way */
	uint64_t removes;      /* REMOVE events */
	uint64_t pages_demand, pages_window, pages_background;
	uint64_t pages_zero; /* of those: filled with zeros or left as holes */
	uint64_t filled_bytes, source_bytes;
	uint64_t source_errors;
	uint64_t foreign_touches;
	uint64_t discards_unannounced;
	uint64_t exhausted; /* fills that met an empty pool or no memory */
	uint64_t wakes, retries;
	uint64_t poisoned_pages;
	uint64_t stalled_pages;						   /* now */
	uint64_t absent_bytes, present_bytes, removed_bytes, length_bytes; /* now */
	uint64_t fault_p50_ns, fault_p90_ns, fault_p99_ns, fault_max_ns;
	uint64_t n_mappings, n_memories;
	uint32_t is_complete, is_graduated, is_ended;
	uint32_t is_held;	 /* filling is held back before a memory limit, now */
	uint64_t held;		 /* times that it was */
	uint64_t faults_strange; /* at addresses that belong to no mapping we know */
	uint64_t
		frames_cached; /* of packed images: pieces taken from a frame that was unpacked before */
	uint64_t frames_unpacked; /* frames unpacked */
	/* of tracking (ufd/pager-dirty.h) */
	uint64_t dirty_reads, dirty_scans; /* epochs taken, calls of PAGEMAP_SCAN */
	uint64_t dirty_pages;		   /* that scans reported, through whichever mapping */
	uint64_t dirty_uncertain_bytes;	   /* reported, and perhaps not written */
	uint64_t dirty_unarmed_bytes;	   /* of those: the kernel does not track them (any more) */
	uint64_t dirty_strange_writes;	   /* files that were written, nobody knows where */
};

/* Any thread. @stats->size must be set (UFD_OPTS()); a shorter, older struct is filled as far as it goes. */
int ufd_pager_guest_stats(struct ufd_pager_guest *guest, struct ufd_guest_stats *stats);

/* Readable. */
struct ufd_memory_stats {
	size_t size;
	const char *name; /* the guest's; valid while the memory is */
	uint64_t length_bytes, page_bytes;
	uint64_t absent_bytes, filling_bytes, present_bytes, removed_bytes;
	uint64_t stalled_pages;
	uint32_t kind, n_mappings;
};

/* Return: 0, -ENOENT for a number beyond the last memory. */
int ufd_pager_memory_stats(struct ufd_pager_guest *guest, uint32_t memory,
			   struct ufd_memory_stats *stats);

/* Readable. */
struct ufd_mapping_info {
	size_t size;
	uint64_t address, length, offset;
	uint32_t mapper, memory;
	pid_t pid;
	uint32_t reserved;
};

/* The @index-th mapping of the guest. Return: 0, -ENOENT beyond the last. */
int ufd_pager_mapping_info(struct ufd_pager_guest *guest, uint32_t index,
			   struct ufd_mapping_info *ret);

/* The absent, filling, ... state of each page is not copied out; how many bytes of a range are absent is. */
int ufd_pager_guest_absent(struct ufd_pager_guest *guest, uint32_t memory, uint64_t offset,
			   uint64_t length, uint64_t *ret_absent_bytes);

#ifdef __cplusplus
}
#endif
#endif
