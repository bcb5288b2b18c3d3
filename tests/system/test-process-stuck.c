/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Attaching to processes whose threads wait for pages that nobody brings. */
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "kernel/features.h"
#include "kernel/pidfd.h"
#include "kernel/uffd.h"
#include "support/target-attach.h"
#include "support/unit.h"

/* How a thread touches the absent page. */
enum touch {
	TOUCH_USER,   /* a load */
	TOUCH_KERNEL, /* write(2) from it: sleeps in S, takes a tracer for a signal and repeats the
			 fault */
	TOUCH_PINNED, /* mlock(2): sleeps in D */
};

struct shared {
	int ready;
	int result; /* of the touch: the byte; 0 before */
	void *page;
	int uffd; /* number in the target */
};

struct stuck {
	pid_t pid;
	struct shared *shared;
	int uffd; /* owned; the target's first one, which nobody serves */
};

static _Noreturn void *sleep_for_ever(void *unused)
{
	for (;;)
		pause();
}

static int touch_page(unsigned char *page, enum touch touch)
{
	int pipe_fds[2];
	unsigned char byte = 0;

	switch (touch) {
	case TOUCH_USER:
		return *(volatile unsigned char *)page;
	case TOUCH_KERNEL:
		if (pipe(pipe_fds) < 0 || write(pipe_fds[1], page, 1) != 1 ||
		    read(pipe_fds[0], &byte, 1) != 1)
			return -1;
		return byte;
	case TOUCH_PINNED:
		/* Sanitizers make a nothing of mlock(). */
		return syscall(SYS_mlock, page, 1) < 0 ? -1 : *page;
	}
	return -1;
}

static _Noreturn void be_stuck(struct shared *shared, enum touch touch, bool is_alone)
{
	uint64_t page_bytes = sysconf(_SC_PAGESIZE);
	pthread_t thread;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	shared->page = mmap(NULL, page_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			    -1, 0);
	if (uffd_open(&shared->uffd, UFFD_WAY_SYSCALL, 0) < 0 ||
	    uffd_register(shared->uffd,
			  (struct hva_range){ { (uintptr_t)shared->page }, page_bytes },
			  UFFD_MODE_MISSING, NULL) != 0)
		_exit(1);
	if (!is_alone && pthread_create(&thread, NULL, sleep_for_ever, NULL) != 0)
		_exit(1);
	__atomic_store_n(&shared->ready, 1, __ATOMIC_RELEASE);
	shared->result = touch_page(shared->page, touch);
	sleep_for_ever(NULL);
}

/* Returns when the main thread waits for its page. */
static void stuck_start(struct stuck *stuck, enum touch touch, bool is_alone)
{
	uint64_t deadline_ns = clock_now_ns() + 20 * NSEC_PER_SEC, unread = 0, unresolved;
	int pidfd;

	if (!features_get()->may_syscall)
		unit_skip("userfaultfd(2) is not allowed");
	stuck->shared = mmap(NULL, sizeof(*stuck->shared), PROT_READ | PROT_WRITE,
			     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ck_assert_ptr_ne(stuck->shared, MAP_FAILED);
	stuck->pid = fork();
	ck_assert_int_ge(stuck->pid, 0);
	if (stuck->pid == 0)
		be_stuck(stuck->shared, touch, is_alone);
	while (!__atomic_load_n(&stuck->shared->ready, __ATOMIC_ACQUIRE)) {
		ck_assert_msg(clock_now_ns() < deadline_ns, "the target does not start");
		sched_yield();
	}
	ck_assert_int_eq(pidfd_open_pid(&pidfd, stuck->pid), 0);
	ck_assert_int_eq(pidfd_get_fd(pidfd, stuck->shared->uffd, &stuck->uffd), 0);
	closep(&pidfd);
	while (unread == 0) {
		ck_assert_msg(clock_now_ns() < deadline_ns, "no fault");
		ck_assert_int_eq(uffd_pending(stuck->uffd, &unread, &unresolved), 0);
	}
}

/* Brings the page: the target goes on with the right byte, however it was touched. */
static void stuck_done(struct stuck *stuck)
{
	uint64_t deadline_ns = clock_now_ns() + 20 * NSEC_PER_SEC, done;
	uint64_t page_bytes = sysconf(_SC_PAGESIZE);
	_cleanup_(freep) unsigned char *page = malloc(page_bytes);

	ck_assert_int_eq(stuck->shared->result, 0);
	memset(page, 77, page_bytes);
	ck_assert_int_eq(uffd_copy(stuck->uffd, (struct hva){ (uintptr_t)stuck->shared->page },
				   page, page_bytes, 0, &done),
			 0);
	while (__atomic_load_n(&stuck->shared->result, __ATOMIC_ACQUIRE) == 0)
		ck_assert_msg(clock_now_ns() < deadline_ns, "the target does not go on");
	ck_assert_int_eq(stuck->shared->result, 77);
	kill(stuck->pid, SIGKILL);
	ck_assert_int_eq(waitpid(stuck->pid, NULL, 0), stuck->pid);
	closep(&stuck->uffd);
	munmap(stuck->shared, sizeof(*stuck->shared));
}

static const struct {
	enum touch touch;
	bool is_alone;
	bool attaches;
} cases[] = {
	{ TOUCH_USER, true, true },    { TOUCH_USER, false, true },   { TOUCH_KERNEL, false, true },
	{ TOUCH_PINNED, false, true }, { TOUCH_KERNEL, true, false }, { TOUCH_PINNED, true, false },
};

/* The runtime of ThreadSanitizer has a thread of its own, which can always be stopped. */
#ifdef __SANITIZE_THREAD__
#define HAS_SPARE_THREAD true
#else
#define HAS_SPARE_THREAD false
#endif

START_TEST(a_process_that_waits_for_a_page_is_attached_or_refused_unharmed)
{
	struct process_opts opts = attach_opts;
	struct stuck stuck;
	uint64_t start_ns;

	if (HAS_SPARE_THREAD && cases[_i].is_alone)
		unit_skip("ThreadSanitizer gives every process a thread that can be stopped");
	if (!cases[_i].attaches)
		opts.timeout_ns = 600 * NSEC_PER_MSEC;
	stuck_start(&stuck, cases[_i].touch, cases[_i].is_alone);
	start_ns = clock_now_ns();
	for (int i = 0; i < (cases[_i].attaches ? 10 : 1); i++) {
		_cleanup_(process_attachment_done) struct process_attachment attachment =
			PROCESS_ATTACHMENT_NONE;

		if (cases[_i].attaches) {
			attach_to(stuck.pid, &opts, &attachment);
			detach_from(&attachment);
		} else {
			expect_refusal(stuck.pid, &opts, "wait in the kernel");
		}
	}
	/* a single attach that waits for its timeout is too much, a slow machine is not */
	ck_assert_uint_lt(clock_now_ns() - start_ns, 30 * NSEC_PER_SEC);
	stuck_done(&stuck);
}
END_TEST

/* What was refused has left nothing: no tracer, no flag. */
START_TEST(a_refused_process_can_be_attached_later)
{
	struct process_opts opts = attach_opts;
	struct stuck stuck;

	if (HAS_SPARE_THREAD)
		unit_skip("ThreadSanitizer gives every process a thread that can be stopped");
	opts.timeout_ns = 300 * NSEC_PER_MSEC;
	stuck_start(&stuck, TOUCH_PINNED, true);
	expect_refusal(stuck.pid, &opts, "wait in the kernel");
	ck_assert_int_eq(
		uffd_unregister(stuck.uffd, (struct hva_range){ { (uintptr_t)stuck.shared->page },
								sysconf(_SC_PAGESIZE) }),
		0);
	attach_cycles(stuck.pid, 3);
	kill(stuck.pid, SIGKILL);
	ck_assert_int_eq(waitpid(stuck.pid, NULL, 0), stuck.pid);
	closep(&stuck.uffd);
}
END_TEST

int main(void)
{
	return unit_run(
		"process-stuck",
		(struct unit_test[]){
			UNIT_TABLE(a_process_that_waits_for_a_page_is_attached_or_refused_unharmed,
				   cases),
			UNIT(a_refused_process_can_be_attached_later),
			{},
		});
}
