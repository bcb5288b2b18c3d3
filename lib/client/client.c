/* SPDX-License-Identifier: MIT */
/* A client: its life, its memories before they are attached, and its words for what went wrong. */
#include "client/client.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/opts.h"
#include "kernel/features.h"
#include "kernel/uapi.h"
#include "kernel/uffd.h"

#define DEFAULT_SOCKET	   "/run/ufd/io.ufd.manager"
#define DEFAULT_TIMEOUT_NS (30 * NSEC_PER_SEC)
#define KNOWN_FLAGS \
	((uint32_t)(UFD_CLIENT_USER_MODE | UFD_CLIENT_NO_REMOVE_EVENTS | UFD_CLIENT_PRELOADED))

static_assert(sizeof(struct ufd_client_opts) == 120, "appended to only");
static_assert(sizeof(struct ufd_client_memory_opts) == 72, "appended to only");
static_assert(sizeof(struct ufd_client_region_opts) == 40, "appended to only");
static_assert(sizeof(struct ufd_client_detach_opts) == 24, "appended to only");

int client_fail(struct ufd_client *client, int error, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(client->error, sizeof(client->error), format, arguments);
	va_end(arguments);
	return error;
}

const char *ufd_client_error(const struct ufd_client *client)
{
	return client->error;
}

uint32_t ufd_client_state(const struct ufd_client *client)
{
	return client->state;
}

int ufd_client_fd(const struct ufd_client *client)
{
	return client->connection.epoll;
}

uint64_t client_deadline(const struct ufd_client *client, uint64_t timeout_ns)
{
	uint64_t now_ns = clock_now_ns();

	if (timeout_ns == 0)
		timeout_ns = client->opts.timeout_ns;
	return timeout_ns > UINT64_MAX - now_ns ? 0 : now_ns + timeout_ns;
}

/* What can be said in a message: JSON text is UTF-8. */
static bool is_text(const char *text)
{
	json_t *string = json_string(text);

	json_decref(string);
	return string != NULL;
}

static int check_opts(const struct ufd_client_opts *opts, const char **ret_error)
{
	if (!opts->guest || !*opts->guest || strlen(opts->guest) >= UFD_CLIENT_NAME_BYTES ||
	    !is_text(opts->guest))
		*ret_error = "a guest's name has 1 to 63 bytes of UTF-8";
	else if (opts->consumer &&
		 (!*opts->consumer || strlen(opts->consumer) >= UFD_CLIENT_NAME_BYTES ||
		  !is_text(opts->consumer)))
		*ret_error = "a consumer's name has 1 to 63 bytes of UTF-8";
	else if (opts->flags & ~KNOWN_FLAGS || opts->reserved[0] || opts->reserved[1])
		*ret_error = "flags has a bit that this library does not know";
	else if (opts->policy > UFD_CLIENT_KILL || opts->track > UFD_CLIENT_WP ||
		 opts->other_mappers > UFD_CLIENT_OTHERS_EAGER ||
		 opts->populated > UFD_CLIENT_POPULATED_KEEP || opts->background > UFD_CLIENT_OFF)
		*ret_error = "an option has a value that this library does not know";
	else if ((opts->background_rate > INT64_MAX &&
		  opts->background_rate != UFD_CLIENT_NO_LIMIT) ||
		 (opts->window_bytes > INT64_MAX && opts->window_bytes != UFD_CLIENT_NO_WINDOW))
		*ret_error = "background_rate or window_bytes is too big";
	else
		return 0;
	return -EINVAL;
}

/* Return: 0 or -errno with @ret_error. */
static int open_uffd(struct ufd_client *client, const char **ret_error)
{
	uint64_t features = features_wanted(client->opts.track == UFD_CLIENT_WP);
	int r;

	if (client->opts.flags & UFD_CLIENT_NO_REMOVE_EVENTS)
		features &= ~(uint64_t)UFFD_FEATURE_EVENT_REMOVE;
	client->is_scan = features & UFFD_FEATURE_WP_ASYNC;
	if (client->opts.flags & UFD_CLIENT_USER_MODE) {
		*ret_error = "this kernel or its seccomp filter does not allow userfaultfd(2)";
		return uffd_open(&client->uffd, UFFD_WAY_USER_MODE, features);
	}
	r = uffd_open(&client->uffd, UFFD_WAY_SYSCALL, features);
	if (r == -EPERM || r == -ENOSYS) {
		int by_device = uffd_open(&client->uffd, UFFD_WAY_DEVICE, features);

		if (by_device == 0)
			return 0;
	}
	if (r == -EPERM)
		*ret_error = "this process may not make a userfaultfd: give it access to "
			     "/dev/userfaultfd or CAP_SYS_PTRACE, or set "
			     "vm.unprivileged_userfaultfd=1";
	else if (r == -ENOSYS)
		*ret_error = "this kernel has no userfaultfd (CONFIG_USERFAULTFD)";
	else
		*ret_error = "userfaultfd(2) failed";
	return r;
}

static int open_timer(struct ufd_client *client)
{
	client->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (client->timer < 0)
		return -errno;
	return connection_poll_also(&client->connection, client->timer);
}

/* Where the daemon is: an inherited connection needs no path, but may have one for later. */
static int open_way(struct ufd_client *client, const struct ufd_client_opts *opts,
		    const char **ret_error)
{
	const char *path = opts->socket_path;
	int r;

	if (!path && opts->connection <= 0)
		path = secure_getenv("UFD_SOCKET");
	if ((!path || !*path) && opts->connection <= 0)
		path = DEFAULT_SOCKET;
	r = connection_init(&client->connection, path, opts->connection);
	if (r == -ENOTSOCK || r == -EBADF)
		*ret_error = "the connection is no socket";
	return r == -EBADF ? -ENOTSOCK : r;
}

int ufd_client_new(struct ufd_client **ret, const struct ufd_client_opts *given,
		   const char **ret_error)
{
	_cleanup_(ufd_client_freep) struct ufd_client *client = NULL;
	struct ufd_client_opts opts;
	const char *unused;
	int r;

	ret_error = ret_error ? ret_error : &unused;
	*ret_error = "the options come from a newer library than this one";
	r = opts_load(&opts, sizeof(opts), given);
	if (r < 0)
		return r;
	r = check_opts(&opts, ret_error);
	if (r < 0)
		return r;

	*ret_error = "out of memory or file descriptors";
	client = calloc(1, sizeof(*client));
	if (!client)
		return -ENOMEM;
	client->uffd = client->pagemap = client->timer = -EBADF;
	client->connection = (struct connection){ .inherited = -EBADF, .epoll = -EBADF };
	client->opts = opts;
	client->opts.timeout_ns = opts.timeout_ns ? opts.timeout_ns : DEFAULT_TIMEOUT_NS;
	client->opts.socket_path = NULL;
	client->opts.consumer = NULL;
	client->opts.guest = strdup(opts.guest);
	if (!client->opts.guest)
		return -ENOMEM;
	client->opts.consumer = opts.consumer ? strdup(opts.consumer) : NULL;
	if (opts.consumer && !client->opts.consumer)
		return -ENOMEM;
	r = open_way(client, &opts, ret_error);
	if (r < 0)
		return r;
	r = open_timer(client);
	if (r < 0)
		return r;
	r = open_uffd(client, ret_error);
	if (r < 0)
		return r;
	/* Without it the daemon opens it, if it has the right to. */
	client->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	*ret = TAKE_PTR(client);
	return 0;
}

struct ufd_client *ufd_client_free(struct ufd_client *client)
{
	if (!client)
		return NULL;
	/* Closing the last handle of a paged memory would turn its absent pages to zeros. */
	if (client->state != UFD_CLIENT_DETACHED || client->is_uncertain)
		TAKE_FD(client->uffd);
	connection_done(&client->connection);
	memories_done(&client->memories);
	closep(&client->uffd);
	closep(&client->pagemap);
	closep(&client->timer);
	free((char *)client->opts.guest);
	free((char *)client->opts.consumer);
	free(client);
	return NULL;
}

/* ---- memories -------------------------------------------------------------------------------- */

static int check_region(struct ufd_client *client, const struct client_memory *memory,
			const struct region *region)
{
	if (!memory_is_aligned(memory, region))
		return client_fail(client, -EINVAL,
				   "mapping %#llx of memory %s, %llu bytes, offset %llu: not whole "
				   "pages of %llu bytes",
				   (unsigned long long)region->range.start.v, memory->name,
				   (unsigned long long)region->range.length_bytes,
				   (unsigned long long)region->offset_bytes,
				   (unsigned long long)memory->page_bytes);
	if (memories_overlap(&client->memories, region->range))
		return client_fail(client, -EEXIST,
				   "mapping %#llx of memory %s overlaps one described before",
				   (unsigned long long)region->range.start.v, memory->name);
	return 0;
}

/* Tell an attached daemon of one more region. */
static int hot_add(struct ufd_client *client, const struct client_memory *memory,
		   const struct region *region, bool is_first)
{
	_cleanup_(request_done) struct request request = {};
	int r;

	if (client->state == UFD_CLIENT_DETACHED)
		return 0;
	r = request_add_region(&request, client->opts.guest, memory, region, is_first);
	if (r < 0)
		return client_fail(client, r, "cannot add mapping: out of memory");
	return client_call(client, "cannot add mapping", "io.ufd.guest.AddRegions", &request,
			   client_deadline(client, 0), NULL);
}

int ufd_client_add_memory(struct ufd_client *client, const struct ufd_client_memory_opts *given)
{
	_cleanup_(client_memory_freep) struct client_memory *memory = NULL;
	struct ufd_client_memory_opts opts;
	const char *error;
	struct region region;
	int r;

	r = opts_load(&opts, sizeof(opts), given);
	if (r < 0)
		return client_fail(client, r,
				   "the memory's options come from a newer library than this one");
	r = client_memory_new(&memory, &opts, &error);
	if (r < 0)
		return client_fail(client, r, "cannot add memory: %s", error);
	if (!is_text(memory->name) || !is_text(memory->source))
		return client_fail(client, -EINVAL,
				   "cannot add memory: its name or source is not UTF-8");
	if (memories_find(&client->memories, memory->name))
		return client_fail(client, -EEXIST, "there is a memory %s already", memory->name);

	region = (struct region){ { { (uintptr_t)opts.address }, opts.length }, opts.offset };
	r = check_region(client, memory, &region);
	if (r < 0)
		return r;
	/* Into the lists first: what the daemon has accepted must not be lost for lack of memory.
	 */
	if (memory_add_region(memory, &region) < 0 || memories_add(&client->memories, memory) < 0)
		return client_fail(client, -ENOMEM, "cannot add memory: out of memory");
	r = hot_add(client, memory, &region, true);
	if (r < 0) {
		memories_remove_region(&client->memories, region.range);
		memory = NULL;
		return r;
	}
	memory->is_handed_over = client->state != UFD_CLIENT_DETACHED;
	TAKE_PTR(memory);
	return 0;
}

int ufd_client_add_region(struct ufd_client *client, const struct ufd_client_region_opts *given)
{
	struct ufd_client_region_opts opts;
	struct client_memory *memory;
	struct region region;
	int r;

	r = opts_load(&opts, sizeof(opts), given);
	if (r < 0)
		return client_fail(client, r,
				   "the mapping's options come from a newer library than this one");
	memory = opts.memory ? memories_find(&client->memories, opts.memory) : NULL;
	if (!memory)
		return client_fail(client, -ENOENT, "cannot add mapping: there is no memory %s",
				   opts.memory ? opts.memory : "without a name");

	region = (struct region){ { { (uintptr_t)opts.address }, opts.length }, opts.offset };
	r = check_region(client, memory, &region);
	if (r < 0)
		return r;
	if (memory_add_region(memory, &region) < 0)
		return client_fail(client, -ENOMEM, "cannot add mapping: out of memory");
	r = hot_add(client, memory, &region, false);
	if (r < 0)
		memories_remove_region(&client->memories, region.range);
	return r;
}
