/* SPDX-License-Identifier: MIT */
/* The guest of this process: its client, and what was handed over. */
#include "preload/preload.h"

#include <errno.h>
#include <limits.h>
#include <linux/magic.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/units.h"
#include "preload/settings.h"
#include "preload/wanted.h"
#include "ufd/ufd.h"

#define PATIENCE_NS    (30 * NSEC_PER_SEC)
#define DEFAULT_SOCKET "/run/ufd/io.ufd.manager"
#define MAX_KNOWN      1024 /* as many mappings as a guest may have */

/* A mapping that was handed over. */
struct known {
	uintptr_t start;
	size_t length;
	uint64_t offset;
	dev_t device; /* 0 for anonymous memory */
	ino_t inode;
	char memory[UFD_CLIENT_NAME_BYTES];
};

/*
 * Written by the constructor, then under the lock, which is held while the daemon is waited for. The
 * table of what is known changes under both locks, and may be read under either: those whose
 * mappings are none of ours wait for nobody. What belongs to a process that forked is of no use to
 * its child, which has other memory (it is known by @pid) and may find a lock held for ever.
 */
static struct {
	pthread_mutex_t lock;
	pthread_mutex_t table_lock;
	bool is_on;
	pid_t pid;
	struct ufd_client *client; /* owned; for the process's life */
	struct ufd_client_opts opts;
	struct wanted_list wanted; /* empty: the process is offered */
	struct known known[MAX_KNOWN];
	size_t n_known;
} preload = { .lock = PTHREAD_MUTEX_INITIALIZER, .table_lock = PTHREAD_MUTEX_INITIALIZER };

/* This library's own calls, by way of libufd, are nobody's guest memory. */
static __thread bool is_inside;

static void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void say(const char *format, ...)
{
	char text[1024];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	dprintf(STDERR_FILENO, "libufd-preload: %s\n", text);
}

bool preload_is_on(void)
{
	return preload.is_on && !is_inside;
}

static void enter(void)
{
	pthread_mutex_lock(&preload.lock);
	is_inside = true;
}

static void leave(void)
{
	is_inside = false;
	pthread_mutex_unlock(&preload.lock);
}

/* ---- the client ---- */

/* A connection that a sandbox cannot prevent any more. Return: an fd, -1 with errno. */
static int connect_now(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd, error;

	if (strlen(path) >= sizeof(address.sun_path)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	strcpy(address.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
		return fd;
	error = errno;
	if (fd >= 0)
		close(fd);
	errno = error;
	return -1;
}

/* Return: 0, or -1 and why is said. */
static int open_client(void)
{
	const char *error, *path = preload.opts.socket_path;
	int fd = connect_now(path), r;

	if (fd < 0) {
		say("no ufdd answers at %s: %s", path, strerror(errno));
		return -1;
	}
	preload.client = ufd_client_free(preload.client);
	preload.opts.connection = fd;
	r = ufd_client_new(&preload.client, &preload.opts, &error);
	close(fd);
	if (r < 0) {
		say("%s (%s)", error, strerror(-r));
		return -1;
	}
	preload.pid = getpid();
	preload.n_known = 0;
	return 0;
}

static int offer(void)
{
	if (ufd_client_offer(preload.client) == 0)
		return 0;
	say("%s", ufd_client_error(preload.client));
	return -1;
}

/*
 * The daemon may have died since the last call: then wait for the next one, which knows the guest,
 * or is given it anew. Return: 0, or -1 with errno and it is said.
 */
static int await_daemon(void)
{
	uint64_t deadline_ns = clock_now_ns() + PATIENCE_NS;

	ufd_client_dispatch(preload.client);
	while (ufd_client_state(preload.client) == UFD_CLIENT_AWAY) {
		struct pollfd poll_fd = { .fd = ufd_client_fd(preload.client), .events = POLLIN };
		uint64_t now_ns = clock_now_ns();

		if (now_ns >= deadline_ns) {
			say("ufdd is gone and did not come back: %s",
			    ufd_client_error(preload.client));
			errno = EAGAIN;
			return -1;
		}
		poll(&poll_fd, 1, (int)((deadline_ns - now_ns) / NSEC_PER_MSEC) + 1);
		ufd_client_dispatch(preload.client);
	}
	return 0;
}

/* ---- what was handed over ---- */

/* Asked without a lock: a mapping that another thread hands over right now is not yet anybody's. */
static bool is_ours(void)
{
	return __atomic_load_n(&preload.n_known, __ATOMIC_RELAXED) > 0 && preload.pid == getpid();
}

static bool overlaps(const struct known *known, uintptr_t start, size_t length)
{
	return known->start < start + length && start < known->start + known->length;
}

bool preload_holds(const void *address, size_t length)
{
	bool is_held = false;

	if (!is_ours())
		return false;
	pthread_mutex_lock(&preload.table_lock);
	for (size_t i = 0; i < preload.n_known && !is_held; i++)
		is_held = overlaps(&preload.known[i], (uintptr_t)address, length);
	pthread_mutex_unlock(&preload.table_lock);
	return is_held;
}

static void add_known(const struct known *known)
{
	pthread_mutex_lock(&preload.table_lock);
	preload.known[preload.n_known++] = *known;
	pthread_mutex_unlock(&preload.table_lock);
}

static void remove_known(size_t i)
{
	pthread_mutex_lock(&preload.table_lock);
	preload.known[i] = preload.known[--preload.n_known];
	pthread_mutex_unlock(&preload.table_lock);
}

static const struct known *find_inode(dev_t device, ino_t inode)
{
	for (size_t i = 0; i < preload.n_known; i++)
		if (preload.known[i].inode == inode && preload.known[i].device == device && inode)
			return &preload.known[i];
	return NULL;
}

static bool is_name_taken(const char *name)
{
	for (size_t i = 0; i < preload.n_known; i++)
		if (strcmp(preload.known[i].memory, name) == 0)
			return true;
	return false;
}

/* A memory that is known, if all of the view lies in what its views span: others need their own. */
static const struct known *find_memory(const struct known *view)
{
	const struct known *found = NULL;
	uint64_t start = UINT64_MAX, end = 0;

	for (size_t i = 0; i < preload.n_known; i++) {
		const struct known *known = &preload.known[i];

		if (!view->inode || known->inode != view->inode || known->device != view->device ||
		    (found && strcmp(found->memory, known->memory)))
			continue;
		found = known;
		start = known->offset < start ? known->offset : start;
		end = known->offset + known->length > end ? known->offset + known->length : end;
	}
	return found && start <= view->offset && view->offset + view->length <= end ? found : NULL;
}

static void choose_name(struct known *known, int fd)
{
	char name[PATH_MAX] = "anon";
	size_t n, most = sizeof(known->memory) - strlen("@0123456789abcdef") - 1;

	if (known->inode)
		wanted_file_name(fd, name, sizeof(name));
	n = strlen(name);
	/* a long one keeps its end, where it differs from others */
	strcpy(known->memory, n <= most ? name : name + n - most);
	if (*known->memory && !is_name_taken(known->memory))
		return;
	n = strlen(known->memory);
	snprintf(known->memory + n, sizeof(known->memory) - n, "@%llx",
		 (unsigned long long)known->start);
}

/* ---- mappings that come ---- */

/* A file that userfaultfd can serve. */
static bool look_at(const struct view *view, struct known *ret)
{
	struct statfs filesystem;
	struct stat info;

	if (view->flags & MAP_ANONYMOUS || view->fd < 0 || fstat(view->fd, &info) < 0 ||
	    !S_ISREG(info.st_mode) || fstatfs(view->fd, &filesystem) < 0 ||
	    (filesystem.f_type != TMPFS_MAGIC && filesystem.f_type != HUGETLBFS_MAGIC))
		return false;
	ret->device = info.st_dev;
	ret->inode = info.st_ino;
	return true;
}

bool preload_wants(const struct view *view)
{
	struct known seen = {};
	bool is_file, is_wanted = false;

	if (view->prot == PROT_NONE || (view->flags & MAP_TYPE) == 0)
		return false;
	is_file = look_at(view, &seen);
	/* a further view of what is paged is paged, whatever it looks like */
	if (is_file && (view->flags & MAP_TYPE) != MAP_PRIVATE && is_ours()) {
		pthread_mutex_lock(&preload.table_lock);
		is_wanted = find_inode(seen.device, seen.inode) != NULL;
		pthread_mutex_unlock(&preload.table_lock);
	}
	return is_wanted || wanted_find(&preload.wanted, view, is_file);
}

/* Pages of MAP_HUGETLB have the size that its flags say, or the machine's. */
static uint64_t huge_bytes(int flags)
{
	unsigned int shift = ((unsigned int)flags >> MAP_HUGE_SHIFT) & MAP_HUGE_MASK;
	unsigned long long kib = 2048;
	char line[128];
	FILE *file;

	if (shift)
		return UINT64_C(1) << shift;
	file = fopen("/proc/meminfo", "re");
	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "Hugepagesize: %llu kB", &kib) == 1)
			break;
	if (file)
		fclose(file);
	return kib * KIB;
}

static int add_memory(const struct view *view, struct known *known)
{
	bool is_file = known->inode != 0;
	struct wanted *wanted = wanted_find(&preload.wanted, view, is_file);
	const char *source = wanted ? wanted->source : "zero";
	UFD_OPTS(ufd_client_memory_opts, opts, .name = known->memory, .source = source,
		 .address = view->address, .length = view->length, .offset = known->offset);
	int r;

	if (wanted && wanted->is_single && wanted->is_taken) {
		say("a second memory of %zu bytes is mapped, and the source %s is that of the "
		    "first: say which is meant by UFD_MEMORY",
		    view->length, source);
		return -EUSERS;
	}
	choose_name(known, view->fd);
	if (is_file)
		opts.backing = view->fd;
	else if (view->flags & MAP_HUGETLB)
		opts.page_bytes = huge_bytes(view->flags);
	if (wanted && wanted->source_fd >= 0)
		opts.source_fd = wanted->source_fd;
	r = ufd_client_add_memory(preload.client, &opts);
	if (r == 0 && ufd_client_state(preload.client) == UFD_CLIENT_DETACHED) {
		r = ufd_client_attach(preload.client);
		if (r < 0)
			ufd_client_remove_region(preload.client, view->address, view->length);
	}
	if (r == 0 && wanted)
		wanted->is_taken = true;
	return r;
}

static int add_region(const struct view *view, struct known *known, const struct known *memory)
{
	UFD_OPTS(ufd_client_region_opts, opts, .memory = known->memory, .address = view->address,
		 .length = view->length, .offset = known->offset);

	strcpy(known->memory, memory->memory);
	return ufd_client_add_region(preload.client, &opts);
}

/*
 * What the VMM starts from now on is not this guest. Before it, programs may stand that become the
 * VMM by exec, and the environment is for that.
 */
static void end_inheritance(void)
{
	static const char *const names[] = { "LD_PRELOAD", "UFD_GUEST", "UFD_SOURCE", "UFD_MEMORY",
					     "UFD_SETTINGS" };
	const char *preloaded = getenv("LD_PRELOAD");

	/* others may be in that list, who want to be inherited: without a guest we do nothing */
	for (size_t i = preloaded && strpbrk(preloaded, " :") ? 1 : 0;
	     i < sizeof(names) / sizeof(names[0]); i++)
		unsetenv(names[i]);
}

static int hand_over(const struct view *view)
{
	struct known known = {
		.start = (uintptr_t)view->address,
		.length = view->length,
		.offset = view->flags & MAP_ANONYMOUS ? 0 : (uint64_t)view->offset,
	};
	const struct known *memory;
	int r;

	if (preload.pid != getpid() && open_client() < 0) /* a fork: other memory */
		return -1;
	if (preload.n_known == MAX_KNOWN) {
		say("more than %d mappings of guest memory", MAX_KNOWN);
		return -1;
	}
	if (await_daemon() < 0)
		return -1;
	if (!look_at(view, &known))
		known.inode = 0;
	memory = find_memory(&known);
	r = memory ? add_region(view, &known, memory) : add_memory(view, &known);
	if (r < 0) {
		if (r != -EUSERS)
			say("%zu bytes of memory cannot be handed over: %s", view->length,
			    ufd_client_error(preload.client));
		return -1;
	}
	if (preload.n_known == 0)
		end_inheritance();
	add_known(&known);
	return 0;
}

int preload_hand_over(const struct view *view)
{
	int r;

	enter();
	r = hand_over(view);
	leave();
	if (r < 0)
		errno = ENOMEM; /* what a VMM expects of mmap(), and tells its user */
	return r;
}

/* ---- mappings that go ---- */

static int forget(size_t i)
{
	struct known *known = &preload.known[i];

	if (await_daemon() < 0)
		return -1;
	if (ufd_client_remove_region(preload.client, (void *)known->start, known->length) < 0) {
		say("a mapping of memory `%s` cannot go: %s", known->memory,
		    ufd_client_error(preload.client));
		errno = EAGAIN;
		return -1;
	}
	remove_known(i);
	return 0;
}

int preload_forget(const void *address, size_t length)
{
	uintptr_t start = (uintptr_t)address;
	int r = 0;

	if (!preload_holds(address, length))
		return 0;
	enter();
	for (size_t i = preload.n_known; i > 0 && r == 0; i--) {
		const struct known *known = &preload.known[i - 1];

		/* a piece needs no word: fills of it find nothing, and nobody can wait there */
		if (start <= known->start && known->start + known->length <= start + length)
			r = forget(i - 1);
	}
	leave();
	return r;
}

/* ---- discards ---- */

static int note_hole(const struct known *known, uint64_t start, uint64_t end)
{
	uint64_t first = known->offset > start ? known->offset : start;
	uint64_t known_end = known->offset + known->length;
	uint64_t last = known_end < end ? known_end : end;
	int r;

	if (first >= last)
		return 0;
	if (await_daemon() < 0)
		return -1;
	r = ufd_client_note_discard(preload.client, known->memory, first, last - first);
	/* pieces of a page are zeroed in place, which is a store like any other */
	if (r == 0 || r == -EINVAL || r == -ETIMEDOUT || r == -ECONNRESET)
		return 0;
	say("a discard cannot be announced: %s", ufd_client_error(preload.client));
	errno = EAGAIN;
	return -1;
}

int preload_note_hole(int fd, uint64_t offset, uint64_t length)
{
	struct stat info;
	int r = 0;

	if (!is_ours() || fstat(fd, &info) < 0 || length > UINT64_MAX - offset)
		return 0; /* the call itself says what is wrong */
	enter();
	for (size_t i = 0; i < preload.n_known && r == 0; i++) {
		const struct known *known = &preload.known[i];

		if (known->inode && known->inode == info.st_ino && known->device == info.st_dev)
			r = note_hole(known, offset, offset + length);
	}
	leave();
	return r;
}

/* ---- the beginning ---- */

/* Return: 0, or -1 and why is said. */
static int read_environment(void)
{
	const char *memory = secure_getenv("UFD_MEMORY"), *source = secure_getenv("UFD_SOURCE");
	const char *path = secure_getenv("UFD_SOCKET"), *error;

	preload.opts = (struct ufd_client_opts){
		.size = sizeof(preload.opts),
		.guest = secure_getenv("UFD_GUEST"),
		.socket_path = path && *path ? path : DEFAULT_SOCKET,
		.flags = UFD_CLIENT_PRELOADED,
	};
	if ((memory && *memory) || (source && *source)) {
		if (wanted_parse(&preload.wanted, memory, source, &error) < 0) {
			say("%s", error);
			return -1;
		}
		if (!preload.opts.guest) {
			say("UFD_SOURCE or UFD_MEMORY is set, but no UFD_GUEST, the guest's name");
			return -1;
		}
	}
	if (settings_parse(&preload.opts, secure_getenv("UFD_SETTINGS"), &error) < 0) {
		say("%s", error);
		return -1;
	}
	if (!preload.opts.guest)
		preload.opts.guest = "offered";
	/* the environment is the VMM's, and it may write there */
	preload.opts.guest = strdup(preload.opts.guest);
	preload.opts.socket_path = strdup(preload.opts.socket_path);
	return preload.opts.guest && preload.opts.socket_path ? 0 : -1;
}

__attribute__((constructor)) static void preload_begin(void)
{
	bool is_offered;

	is_inside = true;
	if (read_environment() < 0)
		_exit(EXIT_FAILURE);
	is_offered = preload.wanted.n_list == 0;
	if (open_client() < 0 || (is_offered && offer() < 0)) {
		/* An offer is for later, and nothing depends on it. Absent pages would be zeros. */
		if (!is_offered)
			_exit(EXIT_FAILURE);
	}
	preload.is_on = !is_offered;
	is_inside = false;
}
