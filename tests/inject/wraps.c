/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The wrapped functions: each asks the board first. `--wrap` of the linker renames calls to them from
 * our own objects only; libraries call the real ones. Names in 64 are what <fcntl.h> and its like make
 * of the plain ones when off_t has 64 bits, as everywhere here.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "inject/board.h"
#include "inject/live.h"
#include "inject/wraps.h"

#define CALLER __builtin_return_address(0)

/* Declare, and open the definition of, a wrapper. */
#define WRAP(type, name, ...)            \
	type __real_##name(__VA_ARGS__); \
	type __wrap_##name(__VA_ARGS__); \
	type __wrap_##name(__VA_ARGS__)

/* One that only fails. */
#define WRAP_PLAIN(type, name, call, failed, parameters, arguments) \
	type __real_##name parameters;                              \
	type __wrap_##name parameters;                              \
	type __wrap_##name parameters                               \
	{                                                           \
		int error = board_verdict(call, 0, CALLER);         \
                                                                    \
		if (error) {                                        \
			errno = error;                              \
			return failed;                              \
		}                                                   \
		return __real_##name arguments;                     \
	}

/* ---- memory ---- */

static void *count(void *block, const void *caller)
{
	if (block && board_is_loud())
		live_add(block, caller);
	return block;
}

/* errno is set. */
static bool has_no_memory(enum board_call call, const void *caller)
{
	int error = board_verdict(call, 0, caller);

	if (error)
		errno = error;
	return error != 0;
}

WRAP(void *, malloc, size_t size)
{
	return has_no_memory(CALL_MALLOC, CALLER) ? NULL : count(__real_malloc(size), CALLER);
}

WRAP(void *, calloc, size_t n, size_t size)
{
	return has_no_memory(CALL_CALLOC, CALLER) ? NULL : count(__real_calloc(n, size), CALLER);
}

static void *moved(void *old, void *block, const void *caller)
{
	if (block)
		live_remove(old);
	return count(block, caller);
}

WRAP(void *, realloc, void *old, size_t size)
{
	return has_no_memory(CALL_REALLOC, CALLER) ? NULL
						   : moved(old, __real_realloc(old, size), CALLER);
}

WRAP(void *, reallocarray, void *old, size_t n, size_t size)
{
	return has_no_memory(CALL_REALLOCARRAY, CALLER)
		       ? NULL
		       : moved(old, __real_reallocarray(old, n, size), CALLER);
}

WRAP(char *, strdup, const char *text)
{
	return has_no_memory(CALL_STRDUP, CALLER) ? NULL : count(__real_strdup(text), CALLER);
}

WRAP(char *, strndup, const char *text, size_t n)
{
	return has_no_memory(CALL_STRNDUP, CALLER) ? NULL : count(__real_strndup(text, n), CALLER);
}

WRAP(void, free, void *block)
{
	live_remove(block);
	__real_free(block);
}

WRAP(void *, mmap64, void *at, size_t length, int protection, int flags, int fd, off_t offset)
{
	void *start;

	if (has_no_memory(CALL_MMAP, CALLER))
		return MAP_FAILED;
	start = __real_mmap64(at, length, protection, flags, fd, offset);
	return start == MAP_FAILED ? start : count(start, CALLER);
}

WRAP(int, munmap, void *start, size_t length)
{
	live_remove(start);
	return __real_munmap(start, length);
}

/* ---- ioctl ---- */

/* Where the fills say how far they came; they begin alike: address, (source,) length. */
struct fill {
	uint64_t *length;
	int64_t *done;
};

static bool is_fill(unsigned long request, void *argument, struct fill *ret)
{
	struct uffdio_copy *copy = argument;
	struct uffdio_zeropage *zero = argument;
	struct uffdio_continue *map = argument;

	switch (request) {
	case UFFDIO_COPY:
		*ret = (struct fill){ (uint64_t *)&copy->len, (int64_t *)&copy->copy };
		return true;
	case UFFDIO_ZEROPAGE:
		*ret = (struct fill){ (uint64_t *)&zero->range.len, (int64_t *)&zero->zeropage };
		return true;
	case UFFDIO_CONTINUE:
		*ret = (struct fill){ (uint64_t *)&map->range.len, (int64_t *)&map->mapped };
		return true;
	default:
		return false;
	}
}

int __real_ioctl(int fd, unsigned long request, ...);
int __wrap_ioctl(int fd, unsigned long request, ...);

/* As the kernel does it: what was done is told, and the errno is always EAGAIN. */
static int do_half(int fd, unsigned long request, void *argument, const struct fill *fill)
{
	uint64_t length = *fill->length,
		 page = length >= 2 * (UINT64_C(2) << 20) ? UINT64_C(2) << 20 : 4096;
	int r;

	if (length < 2 * page)
		return __real_ioctl(fd, request, argument);
	*fill->length = length / 2 / page * page;
	r = __real_ioctl(fd, request, argument);
	*fill->length = length;
	if (r == 0)
		errno = EAGAIN;
	return -1;
}

int __wrap_ioctl(int fd, unsigned long request, ...)
{
	int error = board_verdict(CALL_IOCTL, (uint32_t)request, CALLER);
	struct fill fill;
	va_list arguments;
	void *argument;

	va_start(arguments, request);
	argument = va_arg(arguments, void *);
	va_end(arguments);
	if (!error)
		return __real_ioctl(fd, request, argument);
	if (!is_fill(request, argument, &fill)) {
		errno = error;
		return -1;
	}
	if (error == INJECT_PARTIAL)
		return do_half(fd, request, argument, &fill);
	*fill.done = -error;
	errno = error;
	return -1;
}

/* ---- file descriptors ---- */

#define WRAP_OPEN(name, call, parameters, ...)                           \
	int __real_##name parameters;                                    \
	int __wrap_##name parameters;                                    \
	int __wrap_##name parameters                                     \
	{                                                                \
		int error = board_verdict(call, 0, CALLER);              \
		va_list arguments;                                       \
		mode_t mode = 0;                                         \
                                                                         \
		va_start(arguments, flags);                              \
		if (flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE) \
			mode = va_arg(arguments, mode_t);                \
		va_end(arguments);                                       \
		if (error) {                                             \
			errno = error;                                   \
			return -1;                                       \
		}                                                        \
		return __real_##name(__VA_ARGS__, flags, mode);          \
	}
WRAP_OPEN(open64, CALL_OPEN, (const char *path, int flags, ...), path)
WRAP_OPEN(openat64, CALL_OPENAT, (int folder, const char *path, int flags, ...), folder, path)

int __real_fcntl64(int fd, int command, ...);
int __wrap_fcntl64(int fd, int command, ...);
int __wrap_fcntl64(int fd, int command, ...)
{
	int error = board_verdict(CALL_FCNTL, (uint32_t)command, CALLER);
	va_list arguments;
	long argument;

	va_start(arguments, command);
	argument = va_arg(arguments, long);
	va_end(arguments);
	if (error) {
		errno = error;
		return -1;
	}
	return __real_fcntl64(fd, command, argument);
}

long __real_syscall(long number, ...);
long __wrap_syscall(long number, ...);
long __wrap_syscall(long number, ...)
{
	int error = board_verdict(CALL_SYSCALL, (uint32_t)number, CALLER);
	long values[6];
	va_list arguments;

	va_start(arguments, number);
	for (unsigned int i = 0; i < 6; i++)
		values[i] = va_arg(arguments, long);
	va_end(arguments);
	if (error) {
		errno = error;
		return -1;
	}
	return __real_syscall(number, values[0], values[1], values[2], values[3], values[4],
			      values[5]);
}

WRAP_PLAIN(FILE *, fopen64, CALL_FOPEN, NULL, (const char *path, const char *mode), (path, mode))
WRAP_PLAIN(DIR *, opendir, CALL_OPENDIR, NULL, (const char *path), (path))
WRAP_PLAIN(int, memfd_create, CALL_MEMFD_CREATE, -1, (const char *name, unsigned int flags),
	   (name, flags))
WRAP_PLAIN(int, eventfd, CALL_EVENTFD, -1, (unsigned int value, int flags), (value, flags))
WRAP_PLAIN(int, pidfd_open, CALL_PIDFD_OPEN, -1, (pid_t pid, unsigned int flags), (pid, flags))
WRAP_PLAIN(int, pidfd_getfd, CALL_PIDFD_GETFD, -1, (int pidfd, int fd, unsigned int flags),
	   (pidfd, fd, flags))
WRAP_PLAIN(int, socket, CALL_SOCKET, -1, (int domain, int type, int protocol),
	   (domain, type, protocol))
WRAP_PLAIN(int, timerfd_create, CALL_TIMERFD_CREATE, -1, (int clock, int flags), (clock, flags))
WRAP_PLAIN(int, epoll_create1, CALL_EPOLL_CREATE1, -1, (int flags), (flags))
struct epoll_event;
WRAP_PLAIN(int, epoll_ctl, CALL_EPOLL_CTL, -1,
	   (int epoll, int what, int fd, struct epoll_event *event), (epoll, what, fd, event))

/* ---- files, sockets ---- */

WRAP_PLAIN(int, fstat64, CALL_FSTAT, -1, (int fd, struct stat *stat), (fd, stat))
WRAP_PLAIN(int, ftruncate64, CALL_FTRUNCATE, -1, (int fd, off_t length), (fd, length))
WRAP_PLAIN(int, fallocate64, CALL_FALLOCATE, -1, (int fd, int mode, off_t offset, off_t length),
	   (fd, mode, offset, length))
WRAP_PLAIN(off_t, lseek64, CALL_LSEEK, -1, (int fd, off_t offset, int whence), (fd, offset, whence))
WRAP_PLAIN(ssize_t, read, CALL_READ, -1, (int fd, void *buffer, size_t n), (fd, buffer, n))
WRAP_PLAIN(ssize_t, pread64, CALL_PREAD, -1, (int fd, void *buffer, size_t n, off_t offset),
	   (fd, buffer, n, offset))
WRAP_PLAIN(ssize_t, preadv64v2, CALL_PREADV2, -1,
	   (int fd, const struct iovec *iov, int n, off_t offset, int flags),
	   (fd, iov, n, offset, flags))
WRAP_PLAIN(ssize_t, pwrite64, CALL_PWRITE, -1, (int fd, const void *bytes, size_t n, off_t offset),
	   (fd, bytes, n, offset))
WRAP_PLAIN(ssize_t, process_vm_writev, CALL_PROCESS_VM_WRITEV, -1,
	   (pid_t pid, const struct iovec *from, unsigned long n_from, const struct iovec *to,
	    unsigned long n_to, unsigned long flags),
	   (pid, from, n_from, to, n_to, flags))
WRAP_PLAIN(ssize_t, sendmsg, CALL_SENDMSG, -1, (int fd, const struct msghdr *message, int flags),
	   (fd, message, flags))
WRAP_PLAIN(ssize_t, recvmsg, CALL_RECVMSG, -1, (int fd, struct msghdr *message, int flags),
	   (fd, message, flags))

/* ---- threads and rings, which say their errno another way ---- */

WRAP(int, pthread_create, pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *),
     void *userdata)
{
	int error = board_verdict(CALL_PTHREAD_CREATE, 0, CALLER);

	return error ? error : __real_pthread_create(thread, attributes, run, userdata);
}

WRAP(int, io_uring_queue_init_params, unsigned int n, struct io_uring *ring,
     struct io_uring_params *params)
{
	int error = board_verdict(CALL_URING_INIT, 0, CALLER);

	return error ? -error : __real_io_uring_queue_init_params(n, ring, params);
}

WRAP(int, io_uring_submit_and_get_events, struct io_uring *ring)
{
	int error = board_verdict(CALL_URING_GET_EVENTS, 0, CALLER);

	return error ? -error : __real_io_uring_submit_and_get_events(ring);
}

WRAP(int, io_uring_submit_and_wait_timeout, struct io_uring *ring, struct io_uring_cqe **cqe,
     unsigned int n, struct __kernel_timespec *timeout, sigset_t *mask)
{
	int error = board_verdict(CALL_URING_WAIT, 0, CALLER);

	return error ? -error
		     : __real_io_uring_submit_and_wait_timeout(ring, cqe, n, timeout, mask);
}
