/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The laboratory's userfaultfd: raw ioctls on our own memory, and the messages. */
#include "probe/lab.h"

#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "kernel/features.h"
#include "kernel/uffd.h"

#define FAULT_TIMEOUT_MS 1000
#define NO_FD		 255 /* an exit status that is none */

static const char *const feature_names[] = {
	"PAGEFAULT_FLAG_WP",
	"EVENT_FORK",
	"EVENT_REMAP",
	"EVENT_REMOVE",
	"MISSING_HUGETLBFS",
	"MISSING_SHMEM",
	"EVENT_UNMAP",
	"SIGBUS",
	"THREAD_ID",
	"MINOR_HUGETLBFS",
	"MINOR_SHMEM",
	"EXACT_ADDRESS",
	"WP_HUGETLBFS_SHMEM",
	"WP_UNPOPULATED",
	"POISON",
	"WP_ASYNC",
	"MOVE",
};

#define N_FEATURES (sizeof(feature_names) / sizeof(feature_names[0]))

static void check_features(struct probe_run *run, uint64_t features)
{
	uint64_t has = features_get()->uffd;

	if (!has)
		probe_skip(run, "the kernel has no userfaultfd, or refuses it to us");
	for (size_t i = 0; i < N_FEATURES; i++)
		if (features & ~has & UINT64_C(1) << i)
			probe_skip(run, "the kernel lacks UFFD_FEATURE_%s", feature_names[i]);
	if (features & ~has)
		probe_skip(run, "the kernel lacks userfaultfd features %#llx",
			   (unsigned long long)(features & ~has));
}

/* Skips if the kernel refuses it to us, breaks if it fails otherwise. */
static int open_uffd(struct probe_run *run, enum uffd_way way, uint64_t features)
{
	int fd = -EBADF, r = uffd_open(&fd, way, features);

	if ((r == -EPERM || r == -EACCES) && features & UFFD_FEATURE_EVENT_FORK)
		probe_skip(run, "UFFD_FEATURE_EVENT_FORK is not allowed without CAP_SYS_PTRACE");
	errno = -r;
	probe_must(run, r == 0, "userfaultfd() with UFFDIO_API");
	return fd;
}

int lab_uffd_kernel(struct probe_run *run, uint64_t features)
{
	const struct kernel_features *kernel = features_get();

	check_features(run, features);
	if (!kernel->may_syscall && !kernel->may_device)
		probe_skip(run, "a userfaultfd that sees the kernel's own accesses is not allowed "
				"to us");
	return open_uffd(run, kernel->may_syscall ? UFFD_WAY_SYSCALL : UFFD_WAY_DEVICE, features);
}

int lab_uffd(struct probe_run *run, uint64_t features)
{
	const struct kernel_features *kernel = features_get();

	if (kernel->may_syscall || kernel->may_device)
		return lab_uffd_kernel(run, features);
	check_features(run, features);
	return open_uffd(run, UFFD_WAY_USER_MODE, features);
}

/* The child shares our descriptors but not our memory, so what it opens outlives it here. */
int lab_uffd_of_dead(struct probe_run *run)
{
	const struct kernel_features *kernel = features_get();
	enum uffd_way way = kernel->may_syscall	 ? UFFD_WAY_SYSCALL
			    : kernel->may_device ? UFFD_WAY_DEVICE
						 : UFFD_WAY_USER_MODE;
	int status, fd = -EBADF;
	pid_t child;

	check_features(run, 0);
	child = (pid_t)syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
	probe_must(run, child >= 0, "clone()");
	if (!child)
		_exit(uffd_open(&fd, way, 0) == 0 && fd < NO_FD ? fd : NO_FD);
	while (waitpid(child, &status, 0) < 0)
		probe_must(run, errno == EINTR, "waitpid()");
	errno = EMFILE;
	probe_must(run, WIFEXITED(status) && WEXITSTATUS(status) != NO_FD,
		   "userfaultfd() in a child");
	return WEXITSTATUS(status);
}

static struct uffdio_range range_of(const void *at, size_t length_bytes)
{
	return (struct uffdio_range){ .start = (uintptr_t)at, .len = length_bytes };
}

int lab_try_register(int uffd, void *at, size_t length_bytes, uint64_t modes, uint64_t *ret_ioctls)
{
	struct uffdio_register arg = { .range = range_of(at, length_bytes), .mode = modes };

	if (ioctl(uffd, UFFDIO_REGISTER, &arg) < 0)
		return -errno;
	if (ret_ioctls)
		*ret_ioctls = arg.ioctls;
	return 0;
}

uint64_t lab_register(struct probe_run *run, int uffd, const struct lab_memory *memory,
		      uint64_t modes)
{
	uint64_t ioctls = 0;
	int r = lab_try_register(uffd, memory->at, memory->length_bytes, modes, &ioctls);

	errno = -r;
	probe_must(run, r == 0, "UFFDIO_REGISTER");
	return ioctls;
}

int lab_unregister(int uffd, void *at, size_t length_bytes)
{
	struct uffdio_range arg = range_of(at, length_bytes);

	return ioctl(uffd, UFFDIO_UNREGISTER, &arg) < 0 ? -errno : 0;
}

int lab_copy(int uffd, void *to, const void *from, size_t length_bytes, uint64_t mode,
	     int64_t *ret_field)
{
	struct uffdio_copy arg = {
		.dst = (uintptr_t)to,
		.src = (uintptr_t)from,
		.len = length_bytes,
		.mode = mode,
	};
	int r = ioctl(uffd, UFFDIO_COPY, &arg) < 0 ? -errno : 0;

	if (ret_field)
		*ret_field = arg.copy;
	return r;
}

int lab_copy_byte(int uffd, const struct lab_memory *memory, size_t i, uint8_t byte, uint64_t mode)
{
	void *bytes = malloc(memory->page_bytes);
	int r;

	if (!bytes)
		return -ENOMEM;
	memset(bytes, byte, memory->page_bytes);
	r = lab_copy(uffd, lab_page(memory, i), bytes, memory->page_bytes, mode, NULL);
	free(bytes);
	return r;
}

int lab_zeropage(int uffd, void *to, size_t length_bytes, uint64_t mode, int64_t *ret_field)
{
	struct uffdio_zeropage arg = { .range = range_of(to, length_bytes), .mode = mode };
	int r = ioctl(uffd, UFFDIO_ZEROPAGE, &arg) < 0 ? -errno : 0;

	if (ret_field)
		*ret_field = arg.zeropage;
	return r;
}

int lab_continue(int uffd, void *to, size_t length_bytes, uint64_t mode, int64_t *ret_field)
{
	struct uffdio_continue arg = { .range = range_of(to, length_bytes), .mode = mode };
	int r = ioctl(uffd, UFFDIO_CONTINUE, &arg) < 0 ? -errno : 0;

	if (ret_field)
		*ret_field = arg.mapped;
	return r;
}

int lab_poison(int uffd, void *to, size_t length_bytes, uint64_t mode, int64_t *ret_field)
{
	struct uffdio_poison arg = { .range = range_of(to, length_bytes), .mode = mode };
	int r = ioctl(uffd, UFFDIO_POISON, &arg) < 0 ? -errno : 0;

	if (ret_field)
		*ret_field = arg.updated;
	return r;
}

int lab_move(int uffd, void *to, void *from, size_t length_bytes, uint64_t mode, int64_t *ret_field)
{
	struct uffdio_move arg = {
		.dst = (uintptr_t)to,
		.src = (uintptr_t)from,
		.len = length_bytes,
		.mode = mode,
	};
	int r = ioctl(uffd, UFFDIO_MOVE, &arg) < 0 ? -errno : 0;

	if (ret_field)
		*ret_field = arg.move;
	return r;
}

int lab_protect(int uffd, void *at, size_t length_bytes, uint64_t mode)
{
	struct uffdio_writeprotect arg = { .range = range_of(at, length_bytes), .mode = mode };

	return ioctl(uffd, UFFDIO_WRITEPROTECT, &arg) < 0 ? -errno : 0;
}

int lab_wake(int uffd, void *at, size_t length_bytes)
{
	struct uffdio_range arg = range_of(at, length_bytes);

	return ioctl(uffd, UFFDIO_WAKE, &arg) < 0 ? -errno : 0;
}

/* One message if there is one. */
static bool read_message(struct probe_run *run, int uffd, struct uffd_msg *ret_message)
{
	ssize_t n = read(uffd, ret_message, sizeof(*ret_message));

	if (n == (ssize_t)sizeof(*ret_message))
		return true;
	probe_must(run, n < 0 && (errno == EAGAIN || errno == EINTR), "read() of the userfaultfd");
	return false;
}

/* A fault that was resolved before it is read leaves POLLIN and nothing to read: hence the loop. */
bool lab_message(struct probe_run *run, int uffd, int timeout_ms, struct uffd_msg *ret_message)
{
	uint64_t until_ns = clock_now_ns() + (uint64_t)timeout_ms * 1000 * 1000;

	for (;;) {
		struct pollfd fd = { .fd = uffd, .events = POLLIN };
		uint64_t now_ns = clock_now_ns();
		int n, left_ms = now_ns < until_ns ? (int)((until_ns - now_ns) / 1000000) + 1 : 0;

		n = poll(&fd, 1, left_ms);
		probe_must(run, n >= 0 || errno == EINTR, "poll() of the userfaultfd");
		if (n > 0) {
			errno = EIO;
			probe_must(run, !(fd.revents & (POLLERR | POLLNVAL)),
				   "poll() of the userfaultfd");
			if (read_message(run, uffd, ret_message))
				return true;
		}
		if (n == 0 || now_ns >= until_ns)
			return false;
	}
}

struct uffd_msg lab_fault(struct probe_run *run, int uffd)
{
	struct uffd_msg message = {};

	errno = ETIMEDOUT;
	probe_must(run, lab_message(run, uffd, FAULT_TIMEOUT_MS, &message),
		   "waiting for a message");
	if (message.event != UFFD_EVENT_PAGEFAULT)
		probe_break(run, "event %#x came instead of a fault", message.event);
	probe_step(run, "message: a fault at %#llx, flags %#llx",
		   (unsigned long long)message.arg.pagefault.address,
		   (unsigned long long)message.arg.pagefault.flags);
	return message;
}

bool lab_is_silent(struct probe_run *run, int uffd)
{
	struct uffd_msg message;

	return !read_message(run, uffd, &message);
}

/*
 * Waking takes a thread out of the kernel's queue before the ioctl returns; if its page is still absent
 * it comes back with a message that nobody has read.
 */
bool lab_is_asleep(struct probe_run *run, int uffd)
{
	uint64_t n_unread = 0, n_unresolved = 0;
	int r = uffd_pending(uffd, &n_unread, &n_unresolved);

	errno = -r;
	probe_must(run, r == 0, "looking at who waits");
	return n_unread == 0 && n_unresolved == 1;
}
