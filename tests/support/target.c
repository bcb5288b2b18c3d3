/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A process with memory and a userfaultfd of its own. */
#include "support/target.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "kernel/backing.h"
#include "kernel/features.h"
#include "kernel/pidfd.h"
#include "kernel/uffd.h"
#include "support/hugepages.h"
#include "support/unit.h"

enum { ANSWER_MS = 20000 };

/* A function's address means the same in both processes: one is a fork of the other. */
struct question {
	target_work work;
	struct hva at;
	uint64_t argument;
	int socket; /* filled in by the target */
};

uint64_t target_load(struct hva at, uint64_t ignored)
{
	return *(volatile unsigned char *)at.v;
}

uint64_t target_store(struct hva at, uint64_t byte)
{
	*(volatile unsigned char *)at.v = (unsigned char)byte;
	return 0;
}

uint64_t target_discard(struct hva at, uint64_t length_bytes)
{
	if (madvise((void *)at.v, length_bytes, MADV_REMOVE) == 0)
		return 0;
	return target_forget(at, length_bytes);
}

uint64_t target_forget(struct hva at, uint64_t length_bytes)
{
	return madvise((void *)at.v, length_bytes, MADV_DONTNEED) < 0 ? (uint64_t)errno : 0;
}

uint64_t target_unmap(struct hva at, uint64_t length_bytes)
{
	return munmap((void *)at.v, length_bytes) < 0 ? (uint64_t)errno : 0;
}

static void *answer_one(void *argument)
{
	struct question question = *(struct question *)argument;
	uint64_t answer;

	free(argument);
	answer = question.work(question.at, question.argument);
	if (send(question.socket, &answer, sizeof(answer), MSG_NOSIGNAL) < 0)
		_exit(1);
	return NULL;
}

/* What the new process does: a thread a question, until the tester closes the socket. */
static _Noreturn void serve(int socket)
{
	struct question question;
	pthread_t thread;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (recv(socket, &question, sizeof(question), 0) == sizeof(question)) {
		struct question *copy = malloc(sizeof(*copy));

		if (!copy)
			_exit(1);
		*copy = question;
		copy->socket = socket;
		if (pthread_create(&thread, NULL, answer_one, copy) != 0)
			_exit(1);
		pthread_detach(thread);
	}
	_exit(0);
}

void target_ask(struct target *target, target_work work, struct hva at, uint64_t argument)
{
	struct question question = { work, at, argument, -EBADF };

	ck_assert_int_eq(send(target->socket, &question, sizeof(question), MSG_NOSIGNAL),
			 sizeof(question));
}

int target_has_answered(struct target *target, int timeout_ms)
{
	struct pollfd answer = { .fd = target->socket, .events = POLLIN };

	return poll(&answer, 1, timeout_ms) == 1;
}

uint64_t target_answer(struct target *target)
{
	uint64_t answer = 0;

	ck_assert_msg(target_has_answered(target, ANSWER_MS), "the target does not answer");
	ck_assert_msg(recv(target->socket, &answer, sizeof(answer), 0) == sizeof(answer),
		      "the target has ended");
	return answer;
}

uint64_t target_do(struct target *target, target_work work, struct hva at, uint64_t argument)
{
	target_ask(target, work, at, argument);
	return target_answer(target);
}

void target_await_faults(struct target *target, uint64_t n_unread)
{
	uint64_t deadline_ns = clock_now_ns() + ANSWER_MS * NSEC_PER_MSEC;
	uint64_t unread = 0, unresolved;

	while (unread != n_unread) {
		ck_assert_msg(clock_now_ns() < deadline_ns, "%llu faults instead of %llu",
			      (unsigned long long)unread, (unsigned long long)n_unread);
		ck_assert_int_eq(uffd_pending(target->uffd, &unread, &unresolved), 0);
		sched_yield();
	}
}

/* In the target: a uffd of its own address space, under the same number in both. */
static uint64_t open_uffd(struct hva ignored, uint64_t features)
{
	int fd, r;

	r = uffd_open(&fd, features_get()->may_syscall ? UFFD_WAY_SYSCALL : UFFD_WAY_DEVICE,
		      features);
	return (uint64_t)(r < 0 ? r : fd);
}

static void map_memory(struct target *target, enum target_memory memory, uint64_t n_pages)
{
	int flags = memory == TARGET_PRIVATE || memory == TARGET_ANON ? MAP_PRIVATE : MAP_SHARED;
	uint64_t length = n_pages * target->page_bytes;
	uint64_t huge_bytes = memory == TARGET_HUGETLB ? HUGE_BYTES : 0;
	void *start;

	if (memory == TARGET_ANON)
		flags |= MAP_ANONYMOUS;
	else
		ck_assert_int_eq(backing_create(&target->memfd, "target", length, huge_bytes), 0);
	start = mmap(NULL, length, PROT_READ | PROT_WRITE, flags | MAP_NORESERVE,
		     memory == TARGET_ANON ? -1 : target->memfd, 0);
	ck_assert_ptr_ne(start, MAP_FAILED);
	if (memory == TARGET_ANON) /* its pages are to be of the size that it says */
		madvise(start, length, MADV_NOHUGEPAGE);
	target->memory = (struct hva_range){ { (uintptr_t)start }, length };
}

void target_start(struct target *target, enum target_memory memory, uint64_t n_pages,
		  uint64_t features)
{
	int ends[2], fd;

	*target = (struct target){
		.kind = memory, .pidfd = -EBADF, .socket = -EBADF, .uffd = -EBADF, .memfd = -EBADF
	};
	if (memory == TARGET_HUGETLB && !hugepages_are_reserved())
		unit_skip("the host gives no 2 MiB pages");
	if (!features_get()->may_syscall && !features_get()->may_device)
		unit_skip("userfaultfd: %s", strerror(features_get()->syscall_errno));

	target->page_bytes = memory == TARGET_HUGETLB ? HUGE_BYTES
						      : (uint64_t)sysconf(_SC_PAGESIZE);
	map_memory(target, memory, n_pages);
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
	target->pid = fork();
	ck_assert_int_ge(target->pid, 0);
	if (target->pid == 0) {
		close(ends[0]);
		serve(ends[1]);
	}
	close(ends[1]);
	target->socket = ends[0];
	munmap((void *)target->memory.start.v, target->memory.length_bytes);

	ck_assert_int_eq(pidfd_open_pid(&target->pidfd, target->pid), 0);
	fd = (int)target_do(target, open_uffd, target->memory.start, features);
	ck_assert_msg(fd >= 0, "uffd_open: %s", strerror(-fd));
	ck_assert_int_eq(pidfd_get_fd(target->pidfd, fd, &target->uffd), 0);
}

void target_register(struct target *target)
{
	unsigned int modes = UFFD_MODE_MISSING | UFFD_MODE_WP;

	if (target->kind != TARGET_ANON)
		modes |= UFFD_MODE_MINOR;
	ck_assert_int_eq(uffd_register(target->uffd, target->memory, modes, NULL), 0);
}

void target_kill(struct target *target)
{
	if (target->pid <= 0)
		return;
	kill(target->pid, SIGKILL);
	waitpid(target->pid, NULL, 0);
	target->pid = 0;
}

void target_done(struct target *target)
{
	target_kill(target);
	closep(&target->pidfd);
	closep(&target->socket);
	closep(&target->uffd);
	closep(&target->memfd);
}
