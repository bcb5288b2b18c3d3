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

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "attach/inject-thread.h"
#include "attach/inject-tracee.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/units.h"
#include "kernel/pidfd.h"
#include "kernel/proc-maps.h"

enum {
	MAX_THREADS_TRIED = 8,
	THREAD_SLICE_MS = 250, /* how long one thread may take to stop while others are left */
	ALARM_GRACE_MS = 500,
	SCRATCH_BYTES = 4096,
};

static const uint64_t UFFD_FLAGS = O_CLOEXEC | O_NONBLOCK;

/* One visit: a stopped thread and what goes wrong with it. */
struct visit {
	const struct inject_target *target;
	struct inject_reply *reply;
	struct tracee tracee; /* the one that stopped */
	struct tracee seized[MAX_THREADS_TRIED];
	size_t n_seized;
	int mem_fd;	  /* owned */
	uint64_t scratch; /* a page of the target's, 0 if none */
};

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

/* From here to disarm_alarm() nothing of the target is changed, so dying is harmless. */
static void arm_alarm(uint64_t deadline_ns)
{
	uint64_t now = clock_now_ns();
	uint64_t left = (deadline_ns > now ? deadline_ns - now : 0) +
			ALARM_GRACE_MS * NSEC_PER_MSEC;
	struct itimerval timer = {
		.it_value = { left / NSEC_PER_SEC, left % NSEC_PER_SEC / NSEC_PER_USEC },
	};

	setitimer(ITIMER_REAL, &timer, NULL);
}

static void disarm_alarm(void)
{
	setitimer(ITIMER_REAL, &(struct itimerval){}, NULL);
}

/* Keeps the first reason: what follows is the way back. */
static int fail(struct inject_reply *reply, int outcome, int error, int number)
{
	if (reply->outcome == _INJECT_DONE) {
		reply->outcome = outcome;
		reply->error = error;
		reply->number = number;
	}
	return outcome;
}

/* An outcome or -errno of the rooms below, as a reply. */
static int fail_with(struct inject_reply *reply, int result)
{
	if (result == -ESRCH)
		return fail(reply, INJECT_GONE, 0, 0);
	return result < 0 ? fail(reply, INJECT_FAILED, -result, -1) : fail(reply, result, 0, 0);
}

/* The address of a `syscall` instruction, 0 if there is none. Return: 0 or -errno. */
static int find_instruction(const struct visit *visit, uint64_t *ret_address)
{
	_cleanup_(proc_maps_done) struct proc_maps maps = {};
	unsigned char code[4 * 4096];
	int r;

	r = proc_maps_read(visit->target->pid, &maps);
	if (r < 0)
		return r;
	for (size_t i = 0; i < maps.n_maps; i++) {
		const struct proc_map *map = &maps.maps[i];
		ssize_t n;

		if (strcmp(map->name, "[vdso]") != 0)
			continue;
		n = pread(visit->mem_fd, code, min_u64(sizeof(code), map->range.length_bytes),
			  map->range.start.v);
		for (ssize_t at = 0; at + 1 < n; at++) {
			if (code[at] == 0x0f && code[at + 1] == 0x05) {
				*ret_address = map->range.start.v + at;
				return 0;
			}
		}
	}
	*ret_address = 0;
	return 0;
}

/* Nothing tells when a thread leaves D state, or its tracer leaves it: look again, ever more
 * rarely. */
static bool pause_before_retry(const struct inject_target *target, uint64_t *pause_ns)
{
	if (clock_now_ns() >= target->deadline_ns)
		return false;
	*pause_ns = *pause_ns ? min_u64(2 * *pause_ns, 20 * NSEC_PER_MSEC) : NSEC_PER_MSEC;
	nanosleep(&(struct timespec){ .tv_nsec = *pause_ns }, NULL);
	return true;
}

/*
 * An earlier helper of ours may still be letting go, or undoing what a dead ufdd began. Any other
 * tracer is there to stay.
 */
static bool is_helper(const struct inject_target *target, pid_t tid)
{
	_cleanup_(closep) int fd = -EBADF;
	char path[32], name[sizeof(INJECT_HELPER_NAME)] = "";
	struct thread_status status;

	if (thread_read_status(target->proc_fd, tid, &status) < 0)
		return false;
	if (status.tracer == 0)
		return true; /* gone by now */
	snprintf(path, sizeof(path), "/proc/%d/comm", status.tracer);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 || (read(fd, name, sizeof(name) - 1) == sizeof(name) - 1 &&
			  strcmp(name, INJECT_HELPER_NAME) == 0);
}

/* Return: 0, INJECT_TRACED, -errno. */
static int await_no_tracer(const struct inject_target *target)
{
	struct thread_status status;
	uint64_t pause_ns = 0;
	int r;

	for (;;) {
		r = thread_read_status(target->proc_fd, target->pid, &status);
		if (r < 0 || status.tracer == 0)
			return r;
		if (!is_helper(target, target->pid) || !pause_before_retry(target, &pause_ns))
			return INJECT_TRACED;
	}
}

/* One of the threads seized so far that has stopped by now. */
static bool find_stopped(struct visit *visit)
{
	for (size_t i = 0; i < visit->n_seized; i++) {
		if (tracee_await_stop(&visit->seized[i], 0) == 0) {
			visit->tracee = visit->seized[i];
			return true;
		}
	}
	return false;
}

/* Return: 0 with a stopped thread, INJECT_HUNG, INJECT_TRACED, INJECT_THREAD_GONE, other outcomes.
 */
static int stop_another(struct visit *visit)
{
	const struct inject_target *target = visit->target;
	struct tracee *tracee = &visit->seized[visit->n_seized];
	pid_t tried[MAX_THREADS_TRIED];
	uint64_t slice_ns;
	int r;

	if (visit->n_seized == MAX_THREADS_TRIED)
		return INJECT_HUNG;
	for (size_t i = 0; i < visit->n_seized; i++)
		tried[i] = visit->seized[i].tid;
	*tracee = visit->tracee;
	r = thread_choose(target->proc_fd, target->pid, tried, visit->n_seized, &tracee->tid);
	if (r == 0)
		r = tracee_seize(tracee);
	if (r == INJECT_TRACED && !is_helper(target, tracee->tid))
		return -EBUSY;
	if (r != 0)
		return r;

	visit->n_seized++;
	slice_ns = clock_now_ns() + THREAD_SLICE_MS * NSEC_PER_MSEC;
	r = tracee_await_stop(tracee, min_u64(slice_ns, target->deadline_ns));
	if (r == 0)
		visit->tracee = *tracee;
	return r;
}

/*
 * Stops one thread. Others that were asked and did not stop in time are let go by the end of the
 * calling thread, which is near.
 */
static int stop_thread(struct visit *visit)
{
	uint64_t pause_ns = 0;

	for (;;) {
		int r = find_stopped(visit) ? 0 : stop_another(visit);

		if (r == -EBUSY)
			return INJECT_TRACED;
		if (r != INJECT_HUNG && r != INJECT_TRACED && r != INJECT_THREAD_GONE)
			return r;
		if (!pidfd_is_alive(visit->target->pidfd)) /* a zombie stops as little as a hung one */
			return INJECT_GONE;
		if (!pause_before_retry(visit->target, &pause_ns))
			return r == INJECT_THREAD_GONE ? INJECT_GONE : r;
	}
}

static void visit_end(struct visit *visit)
{
	closep(&visit->mem_fd);
}

/* Return: 0 with a prepared thread, or an outcome that is in the reply already. */
static int visit_begin(struct visit *visit, const struct inject_target *target,
		       struct inject_reply *reply)
{
	int r;

	*visit = (struct visit){ .target = target, .reply = reply, .mem_fd = -EBADF };
	arm_alarm(target->deadline_ns);

	if (!pidfd_is_alive(target->pidfd))
		return fail(reply, INJECT_GONE, 0, 0);
	r = await_no_tracer(target);
	if (r != 0)
		return fail_with(reply, r);
	visit->mem_fd = openat(target->proc_fd, "mem", O_RDWR | O_CLOEXEC);
	if (visit->mem_fd < 0)
		return fail(reply,
			    errno == EACCES || errno == EPERM ? INJECT_FORBIDDEN : INJECT_FAILED,
			    errno, SYS_openat);

	visit->tracee = (struct tracee){
		.pid = target->pid,
		.proc_fd = target->proc_fd,
		.mem_fd = visit->mem_fd,
	};
	r = find_instruction(visit, &visit->tracee.syscall_address);
	if (r < 0)
		return fail_with(reply, r);
	r = stop_thread(visit);
	if (r != 0)
		return fail_with(reply, r);
	r = tracee_prepare(&visit->tracee);
	if (r == 0 && visit->tracee.syscall_address == 0)
		r = INJECT_NO_VDSO; /* told last: a 32-bit process has none either */
	if (r == 0)
		return 0;

	tracee_release(&visit->tracee);
	return fail_with(reply, r == INJECT_THREAD_GONE ? INJECT_GONE : r);
}

/* Lets the thread go. A thread that is gone needs no more help, and took nothing with it but
 * itself. */
static void visit_leave(struct visit *visit)
{
	int r = tracee_release(&visit->tracee);

	if (r == INJECT_THREAD_GONE)
		fail(visit->reply, INJECT_GONE, 0, 0);
	else if (r < 0)
		fail(visit->reply, INJECT_FAILED, -r, SYS_ptrace);
}

#define CALL(visit, number, ret, ...) \
	visit_call(visit, number, (const uint64_t[6]){ __VA_ARGS__ }, ret)

/* Return: 0 with the call's own result, or an outcome that is in the reply already. */
static int visit_call(struct visit *visit, long number, const uint64_t arguments[6],
		      long *ret_result)
{
	int r;

	disarm_alarm();
	r = tracee_call(&visit->tracee, number, arguments, ret_result, visit->target->deadline_ns);
	if (r == 0)
		return 0;
	if (r < 0)
		return fail(visit->reply, INJECT_FAILED, -r, number);
	return fail(visit->reply, r == INJECT_THREAD_GONE ? INJECT_GONE : r, 0, number);
}

/* Return: 0 if the call succeeded, else an outcome that is in the reply already. */
static int visit_call_checked(struct visit *visit, long number, const uint64_t arguments[6],
			      long *ret_result)
{
	int r = visit_call(visit, number, arguments, ret_result);

	if (r != 0 || *ret_result >= 0)
		return r;
	if (*ret_result == -EMFILE || *ret_result == -ENFILE)
		return fail(visit->reply, INJECT_NO_FDS, -*ret_result, number);
	return fail(visit->reply, INJECT_FAILED, -*ret_result, number);
}

#define CALL_CHECKED(visit, number, ret, ...) \
	visit_call_checked(visit, number, (const uint64_t[6]){ __VA_ARGS__ }, ret)

static void close_remote(struct visit *visit, int fd)
{
	long ignored;

	if (fd >= 0)
		CALL_CHECKED(visit, SYS_close, &ignored, fd);
}

static uint64_t scratch_address(const struct visit *visit, size_t offset)
{
	return visit->scratch + offset;
}

static int read_scratch(struct visit *visit, void *bytes, size_t n, size_t offset)
{
	if (pread(visit->mem_fd, bytes, n, scratch_address(visit, offset)) == (ssize_t)n)
		return 0;
	return fail(visit->reply, INJECT_FAILED, errno, SYS_pread64);
}

/* Where the target's recvmsg() will put what it receives. */
static int write_scratch(struct visit *visit)
{
	const struct scratch content = {
		.part = {
			.iov_base = (void *)scratch_address(visit, offsetof(struct scratch, byte)),
			.iov_len = 1,
		},
		.message = {
			.msg_iov = (void *)scratch_address(visit, offsetof(struct scratch, part)),
			.msg_iovlen = 1,
			.msg_control = (void *)scratch_address(visit,
							       offsetof(struct scratch, control)),
			.msg_controllen = sizeof(content.control),
		},
	};

	if (pwrite(visit->mem_fd, &content, sizeof(content), visit->scratch) == sizeof(content))
		return 0;
	return fail(visit->reply, INJECT_FAILED, errno, SYS_pwrite64);
}

/* Puts the fd into the socket whose other end the target reads. */
static int post_device(struct visit *visit, int remote_socket, int device_fd)
{
	_cleanup_(closep) int socket = -EBADF;
	int r;

	r = pidfd_get_fd(visit->target->pidfd, remote_socket, &socket);
	if (r == 0)
		r = inject_send(socket, "", 1, &device_fd, 1);
	return r == 0 ? 0 : fail(visit->reply, INJECT_FAILED, -r, SYS_pidfd_getfd);
}

static int receive_device(struct visit *visit, int remote_socket, int *ret_device)
{
	struct scratch content;
	long result;
	int r;

	r = CALL_CHECKED(visit, SYS_recvmsg, &result, remote_socket,
			 scratch_address(visit, offsetof(struct scratch, message)),
			 MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (r != 0)
		return r;
	r = read_scratch(visit, &content, sizeof(content), 0);
	if (r != 0)
		return r;
	/* The kernel cuts the fd off when there is no room for it. */
	if (content.message.msg_flags & MSG_CTRUNC ||
	    content.message.msg_controllen < CMSG_LEN(sizeof(int)))
		return fail(visit->reply, INJECT_NO_FDS, EMFILE, SYS_recvmsg);
	memcpy(ret_device, CMSG_DATA(&content.control.header), sizeof(*ret_device));
	return 0;
}

/* A device fd inside the target; the socket pair is gone again on every way out. */
static int push_through_pair(struct visit *visit, int device_fd, int *ret_device)
{
	int pair[2];
	long result;
	int r;

	r = write_scratch(visit);
	if (r == 0)
		r = CALL_CHECKED(visit, SYS_socketpair, &result, AF_UNIX,
				 SOCK_SEQPACKET | SOCK_CLOEXEC, 0, visit->scratch);
	if (r != 0)
		return r;
	r = read_scratch(visit, pair, sizeof(pair), offsetof(struct scratch, pair));
	if (r != 0)
		return r;

	r = post_device(visit, pair[0], device_fd);
	if (r == 0)
		r = receive_device(visit, pair[1], ret_device);
	close_remote(visit, pair[0]);
	close_remote(visit, pair[1]);
	return r;
}

static int push_device(struct visit *visit, int device_fd, int *ret_device)
{
	long result;
	int r;

	r = CALL_CHECKED(visit, SYS_mmap, &result, 0, SCRATCH_BYTES, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (r != 0)
		return r;
	visit->scratch = result;
	r = push_through_pair(visit, device_fd, ret_device);
	CALL_CHECKED(visit, SYS_munmap, &result, visit->scratch, SCRATCH_BYTES);
	return r;
}

/* The number that somebody gave for /dev/userfaultfd must not mean another device. */
static int check_remote_device(struct visit *visit, int remote_device)
{
	struct stat expected, found;
	char path[32];

	snprintf(path, sizeof(path), "fd/%d", remote_device);
	if (fstatat(visit->target->proc_fd, path, &found, 0) < 0 || !S_ISCHR(found.st_mode))
		return fail(visit->reply, INJECT_NO_DEVICE, 0, remote_device);
	if (stat("/dev/userfaultfd", &expected) == 0 && expected.st_rdev != found.st_rdev)
		return fail(visit->reply, INJECT_NO_DEVICE, 0, remote_device);
	return 0;
}

/* The uffd inside the target, by the first way that is open. */
static int create_remote(struct visit *visit, int device_fd, int remote_device, int *ret_remote)
{
	bool is_pushed = false;
	long result;
	int r;

	if (remote_device >= 0) {
		r = check_remote_device(visit, remote_device);
	} else {
		r = CALL(visit, SYS_userfaultfd, &result, UFFD_FLAGS);
		if (r != 0 || result >= 0) {
			*ret_remote = result;
			return r;
		}
		if (result == -EMFILE || result == -ENFILE)
			return fail(visit->reply, INJECT_NO_FDS, -result, SYS_userfaultfd);
		if (result != -EPERM)
			return fail(visit->reply, INJECT_FAILED, -result, SYS_userfaultfd);
		if (device_fd < 0)
			return fail(visit->reply, INJECT_UNPRIVILEGED, EPERM, SYS_userfaultfd);
		r = push_device(visit, device_fd, &remote_device);
		is_pushed = r == 0;
	}
	if (r != 0)
		return r;

	r = CALL_CHECKED(visit, SYS_ioctl, &result, remote_device, USERFAULTFD_IOC_NEW, UFFD_FLAGS);
	if (is_pushed)
		close_remote(visit, remote_device);
	if (r == 0)
		*ret_remote = result;
	return r;
}

void inject_create(const struct inject_target *target, int device_fd, int remote_device,
		   int *ret_fd, struct inject_reply *reply)
{
	_cleanup_(visit_end) struct visit visit;
	_cleanup_(closep) int fd = -EBADF;
	int r, remote_fd = -1;

	if (visit_begin(&visit, target, reply) != 0) {
		disarm_alarm();
		return;
	}
	if (create_remote(&visit, device_fd, remote_device, &remote_fd) == 0) {
		r = pidfd_get_fd(target->pidfd, remote_fd, &fd);
		if (r < 0)
			fail(reply, r == -EPERM ? INJECT_FORBIDDEN : INJECT_FAILED, -r,
			     SYS_pidfd_getfd);
	}
	if (reply->outcome != _INJECT_DONE)
		close_remote(&visit, remote_fd);
	visit_leave(&visit);
	disarm_alarm();

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
	struct dirent *entry;
	int n = 0, fd;
	DIR *dir;

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
	closedir(dir);
	return n;
}

void inject_close(const struct inject_target *target, int uffd, int remote_fd,
		  struct inject_reply *reply)
{
	_cleanup_(visit_end) struct visit visit;
	char number[16];

	snprintf(number, sizeof(number), "%d", remote_fd);
	if (visit_begin(&visit, target, reply) == 0) {
		if (is_remote_fd(target, number, uffd))
			close_remote(&visit, remote_fd);
		else
			fail(reply, INJECT_NOT_OURS, 0, remote_fd);
		visit_leave(&visit);
	}
	disarm_alarm();
	reply->n_left = count_remote_fds(target, uffd);
}
