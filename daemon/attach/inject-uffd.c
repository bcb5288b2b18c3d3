/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* userfaultfd by injected system calls. */
/*
 * The privilege to trap kernel-mode faults is asked of whoever makes the call, so the target itself
 * needs it, or an open /dev/userfaultfd. That is pushed in as any fd is handed to another process:
 * over a socket pair, which the target makes and of which we take one end. The few bytes for it lie
 * in a page that is mapped for the occasion: below the stack pointer of a thread we know nothing
 * about may lie another's memory.
 */
#include "attach/inject-uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "attach/inject-visit.h"
#include "base/files.h"
#include "kernel/pidfd.h"

enum { SCRATCH_BYTES = 4096 };

static const uint64_t UFFD_FLAGS = O_CLOEXEC | O_NONBLOCK;

/* What the scratch page holds. Laid out for the target: it is x86-64 like us. */
struct scratch {
	int pair[2];
	char byte;
	struct iovec part;
	struct msghdr message;
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control;
};

static void close_remote(struct visit *visit, int fd)
{
	long ignored;

	if (fd >= 0)
		VISIT_CALL_CHECKED(visit, SYS_close, &ignored, fd);
}

static int read_scratch(struct visit *visit, uint64_t scratch, struct scratch *ret)
{
	if (pread(visit->mem_fd, ret, sizeof(*ret), scratch) == sizeof(*ret))
		return 0;
	return visit_fail(visit, INJECT_FAILED, errno, SYS_pread64);
}

/*
 * Where the target's recvmsg() will put what it receives. Not by /proc/PID/mem, which only the
 * target's own user may open for writing.
 */
static int write_scratch(struct visit *visit, uint64_t scratch)
{
	const struct scratch content = {
		.part = {
			.iov_base = (void *)(scratch + offsetof(struct scratch, byte)),
			.iov_len = 1,
		},
		.message = {
			.msg_iov = (void *)(scratch + offsetof(struct scratch, part)),
			.msg_iovlen = 1,
			.msg_control = (void *)(scratch + offsetof(struct scratch, control)),
			.msg_controllen = sizeof(content.control),
		},
	};
	const struct iovec from = { (void *)&content, sizeof(content) };
	const struct iovec to = { (void *)scratch, sizeof(content) };

	if (process_vm_writev(visit->target->pid, &from, 1, &to, 1, 0) == sizeof(content))
		return 0;
	return visit_fail(visit, INJECT_FAILED, errno, SYS_process_vm_writev);
}

/* Puts the fd into the socket whose other end the target reads. */
static int post_device(struct visit *visit, int remote_socket, int device_fd)
{
	_cleanup_(closep) int socket = -EBADF;
	int r;

	r = pidfd_get_fd(visit->target->pidfd, remote_socket, &socket);
	if (r == 0)
		r = inject_send(socket, "", 1, &device_fd, 1);
	return r == 0 ? 0 : visit_fail(visit, INJECT_FAILED, -r, SYS_pidfd_getfd);
}

static int receive_device(struct visit *visit, uint64_t scratch, int remote_socket, int *ret_device)
{
	struct scratch content;
	long result;
	int r;

	r = VISIT_CALL_CHECKED(visit, SYS_recvmsg, &result, remote_socket,
			       (scratch + offsetof(struct scratch, message)),
			       MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (r != 0)
		return r;
	r = read_scratch(visit, scratch, &content);
	if (r != 0)
		return r;
	/* The kernel cuts the fd off when there is no room for it. */
	if (content.message.msg_flags & MSG_CTRUNC ||
	    content.message.msg_controllen < CMSG_LEN(sizeof(int)))
		return visit_fail(visit, INJECT_NO_FDS, EMFILE, SYS_recvmsg);
	memcpy(ret_device, CMSG_DATA(&content.control.header), sizeof(*ret_device));
	return 0;
}

/* A device fd inside the target; the socket pair is gone again on every way out. */
static int push_through_pair(struct visit *visit, uint64_t scratch, int device_fd, int *ret_device)
{
	struct scratch content;
	long result;
	int r;

	r = write_scratch(visit, scratch);
	if (r == 0)
		r = VISIT_CALL_CHECKED(visit, SYS_socketpair, &result, AF_UNIX,
				       SOCK_SEQPACKET | SOCK_CLOEXEC, 0, scratch);
	if (r != 0)
		return r;
	r = read_scratch(visit, scratch, &content);
	if (r != 0)
		return r;

	r = post_device(visit, content.pair[0], device_fd);
	if (r == 0)
		r = receive_device(visit, scratch, content.pair[1], ret_device);
	close_remote(visit, content.pair[0]);
	close_remote(visit, content.pair[1]);
	return r;
}

static int push_device(struct visit *visit, int device_fd, int *ret_device)
{
	uint64_t scratch;
	long result;
	int r;

	r = VISIT_CALL_CHECKED(visit, SYS_mmap, &result, 0, SCRATCH_BYTES, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (r != 0)
		return r;
	scratch = result;
	r = push_through_pair(visit, scratch, device_fd, ret_device);
	VISIT_CALL_CHECKED(visit, SYS_munmap, &result, scratch, SCRATCH_BYTES);
	return r;
}

/* The number that somebody gave for /dev/userfaultfd must not mean another device. */
static int check_remote_device(struct visit *visit, int remote_device)
{
	struct stat expected, found;
	char path[32];

	snprintf(path, sizeof(path), "fd/%d", remote_device);
	if (fstatat(visit->target->proc_fd, path, &found, 0) < 0 || !S_ISCHR(found.st_mode))
		return visit_fail(visit, INJECT_NO_DEVICE, 0, remote_device);
	if (stat("/dev/userfaultfd", &expected) == 0 && expected.st_rdev != found.st_rdev)
		return visit_fail(visit, INJECT_NO_DEVICE, 0, remote_device);
	return 0;
}

static int create_by_device(struct visit *visit, int remote_device, int *ret_remote)
{
	long result;
	int r;

	r = VISIT_CALL_CHECKED(visit, SYS_ioctl, &result, remote_device, USERFAULTFD_IOC_NEW,
			       UFFD_FLAGS);
	if (r == 0)
		*ret_remote = result;
	return r;
}

static int create_by_pushing(struct visit *visit, int device_fd, int *ret_remote)
{
	int remote_device = -1, r;

	r = push_device(visit, device_fd, &remote_device);
	if (r != 0)
		return r;
	r = create_by_device(visit, remote_device, ret_remote);
	close_remote(visit, remote_device);
	return r;
}

/* The uffd inside the target, by the first way that is open. */
static int create_remote(struct visit *visit, int device_fd, int remote_device, int *ret_remote)
{
	long result;
	int r;

	if (remote_device >= 0) {
		r = check_remote_device(visit, remote_device);
		return r != 0 ? r : create_by_device(visit, remote_device, ret_remote);
	}

	r = VISIT_CALL(visit, SYS_userfaultfd, &result, UFFD_FLAGS);
	if (r != 0)
		return r;
	if (result == -EPERM && device_fd >= 0)
		return create_by_pushing(visit, device_fd, ret_remote);
	if (result == -EPERM)
		return visit_fail(visit, INJECT_UNPRIVILEGED, EPERM, SYS_userfaultfd);
	if (result == -EMFILE || result == -ENFILE)
		return visit_fail(visit, INJECT_NO_FDS, -result, SYS_userfaultfd);
	if (result < 0)
		return visit_fail(visit, INJECT_FAILED, -result, SYS_userfaultfd);
	*ret_remote = result;
	return 0;
}

void inject_create(const struct inject_target *target, int device_fd, int remote_device,
		   int *ret_fd, struct inject_reply *reply)
{
	_cleanup_(closep) int fd = -EBADF;
	int r, remote_fd = -1;
	struct visit visit;

	r = visit_begin(&visit, target, reply);
	if (r == 0)
		r = create_remote(&visit, device_fd, remote_device, &remote_fd);
	if (r == 0) {
		r = pidfd_get_fd(target->pidfd, remote_fd, &fd);
		if (r < 0)
			visit_fail(&visit, r == -EPERM ? INJECT_FORBIDDEN : INJECT_FAILED, -r,
				   SYS_pidfd_getfd);
	}
	if (reply->outcome != _INJECT_DONE)
		close_remote(&visit, remote_fd);
	visit_leave(&visit);

	if (reply->outcome == _INJECT_DONE) {
		reply->remote_fd = remote_fd;
		*ret_fd = TAKE_FD(fd);
	}
}

/* Each userfaultfd has an inode of its own (since Linux 5.12). */
static bool is_remote_fd(const struct inject_target *target, const char *number, int uffd)
{
	struct stat ours, theirs;
	char path[32];

	snprintf(path, sizeof(path), "fd/%.16s", number);
	return fstat(uffd, &ours) == 0 && fstatat(target->proc_fd, path, &theirs, 0) == 0 &&
	       ours.st_dev == theirs.st_dev && ours.st_ino == theirs.st_ino;
}

static int count_remote_fds(const struct inject_target *target, int uffd)
{
	_cleanup_(closedirp) DIR *dir = NULL;
	struct dirent *entry;
	int n = 0, fd;

	fd = openat(target->proc_fd, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	dir = fdopendir(fd);
	if (!dir) {
		closep(&fd);
		return 0;
	}
	while ((entry = readdir(dir)))
		if (entry->d_name[0] != '.' && is_remote_fd(target, entry->d_name, uffd))
			n++;
	return n;
}

void inject_close(const struct inject_target *target, int uffd, int remote_fd,
		  struct inject_reply *reply)
{
	struct visit visit;
	char number[16];

	snprintf(number, sizeof(number), "%d", remote_fd);
	if (visit_begin(&visit, target, reply) == 0) {
		if (is_remote_fd(target, number, uffd))
			close_remote(&visit, remote_fd);
		else
			visit_fail(&visit, INJECT_NOT_OURS, 0, remote_fd);
	}
	visit_leave(&visit);
	reply->n_left = count_remote_fds(target, uffd);
}
