/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A process that notices any disturbance. */
/*
 * No signal is ever sent to it, so no call may fail but by its timeout: EINTR, or a restart code of
 * the kernel (512 to 516), means that whoever stopped it did not put it back as it was.
 */
#include "support/target-busy.h"

#include <dirent.h>
#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/units.h"
#include "support/unit.h"

enum { CHECK_S = 20, COMPUTE_ROUNDS = 20000 };

static const struct timespec WAIT = { .tv_nsec = 2 * NSEC_PER_MSEC };

/* Of the target only. */
static struct busy_report *report;
static int full_pipe[2], empty_pipe[2];
static double expected_sum;

static void note_error(const char *what, long result, int error)
{
	if (__atomic_fetch_add(&report->n_errors, 1, __ATOMIC_RELAXED) == 0)
		snprintf(report->first_error, sizeof(report->first_error),
			 "%s: result %ld, errno %d", what, result, error);
}

static void expect(const char *what, long result, long wanted, int wanted_error)
{
	if (result != wanted || (wanted < 0 && errno != wanted_error))
		note_error(what, result, errno);
}

/* Both kinds of registers carry values through all rounds; the compiler keeps them there. */
static __attribute__((noinline)) double compute(void)
{
	uint64_t a = 1, b = 2, c = 3, d = 4, e = 5, f = 6;
	double x = 1, y = 2, z = 3;

	for (int i = 0; i < COMPUTE_ROUNDS; i++) {
		a = a * 6364136223846793005 + b;
		b ^= c >> 7;
		c += d << 3;
		d = d * 31 + e;
		e ^= a >> 13;
		f += e;
		x = x * 0.5 + (double)(f & 0xff);
		y = y * 0.25 + x;
		z += y * 1e-3;
	}
	return x + y + z + (double)(a ^ b ^ c ^ d ^ e ^ f);
}

/* The kernel must find the mask beneath the call's own when the call is repeated. */
static void wait_ppoll(void)
{
	struct pollfd waited = { .fd = empty_pipe[0], .events = POLLIN };
	sigset_t mask;

	sigemptyset(&mask);
	sigaddset(&mask, SIGUSR2);
	expect("ppoll", ppoll(&waited, 1, &WAIT, &mask), 0, 0);
	pthread_sigmask(SIG_SETMASK, NULL, &mask);
	if (!sigismember(&mask, SIGUSR1) || sigismember(&mask, SIGUSR2))
		note_error("signal mask after ppoll", 0, 0);
}

static void wait_futex(void)
{
	uint32_t word = 1;

	expect("futex", syscall(SYS_futex, &word, FUTEX_WAIT, 1, &WAIT, NULL, 0), -1, ETIMEDOUT);
}

static void wait_epoll(void)
{
	static _Thread_local int fd = -1;
	struct epoll_event event;

	if (fd < 0)
		fd = epoll_create1(EPOLL_CLOEXEC);
	expect("epoll_wait", epoll_wait(fd, &event, 1, 2), 0, 0);
}

static void wait_signal(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	expect("sigtimedwait", sigtimedwait(&set, NULL, &WAIT), -1, EAGAIN);
}

static void come_round(enum busy_role role)
{
	char byte;

	switch (role) {
	case BUSY_FUTEX:
		wait_futex();
		break;
	case BUSY_PPOLL:
		wait_ppoll();
		break;
	case BUSY_READ:
		expect("read", read(full_pipe[0], &byte, 1), 1, 0);
		break;
	case BUSY_NANOSLEEP:
		expect("nanosleep", nanosleep(&WAIT, NULL), 0, 0);
		break;
	case BUSY_EPOLL:
		wait_epoll();
		break;
	case BUSY_SIGTIMEDWAIT:
		wait_signal();
		break;
	case BUSY_COMPUTE:
		if (compute() != expected_sum)
			note_error("checksum", 0, 0);
		break;
	case _BUSY_N:
		break;
	}
	__atomic_fetch_add(&report->loops[role], 1, __ATOMIC_RELAXED);
}

static void *run_role(void *role)
{
	for (;;)
		come_round((enum busy_role)(uintptr_t)role);
	return NULL;
}

static void *feed_pipe(void *unused)
{
	for (;;) {
		expect("write", write(full_pipe[1], "x", 1), 1, 0);
		expect("nanosleep of the writer", nanosleep(&WAIT, NULL), 0, 0);
	}
	return NULL;
}

static void start_thread(void *(*run)(void *), void *argument)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, run, argument) != 0)
		_exit(1);
}

static _Noreturn void be_busy(enum busy_role main_role, bool is_alone, void (*prepare)(void))
{
	sigset_t mask;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	sigemptyset(&mask);
	sigaddset(&mask, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &mask, NULL);
	expected_sum = compute();
	if (prepare)
		prepare();
	if (!is_alone || main_role == BUSY_READ)
		start_thread(feed_pipe, NULL);
	if (!is_alone) {
		for (int role = 0; role < _BUSY_N; role++)
			if (role != (int)main_role)
				start_thread(run_role, (void *)(uintptr_t)role);
	}
	run_role((void *)(uintptr_t)main_role);
	_exit(1);
}

void busy_start(struct busy *busy, enum busy_role main_role, bool is_alone, void (*prepare)(void))
{
	report = mmap(NULL, sizeof(*report), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		      0);
	ck_assert_ptr_ne(report, MAP_FAILED);
	ck_assert_int_eq(pipe(full_pipe), 0);
	ck_assert_int_eq(pipe(empty_pipe), 0);
	*busy = (struct busy){ .report = report, .pid = fork() };
	ck_assert_int_ge(busy->pid, 0);
	if (busy->pid == 0)
		be_busy(main_role, is_alone, prepare);

	for (int i = 0; i < 2; i++) {
		close(full_pipe[i]);
		close(empty_pipe[i]);
	}
	if (is_alone)
		for (int role = 0; role < _BUSY_N; role++)
			busy->report->loops[role] = role == (int)main_role ? 0 : UINT64_MAX / 2;
	busy_check(busy);
}

void busy_check(const struct busy *busy)
{
	uint64_t deadline_ns = clock_now_ns() + CHECK_S * NSEC_PER_SEC;

	for (int role = 0; role < _BUSY_N; role++) {
		uint64_t before = __atomic_load_n(&busy->report->loops[role], __ATOMIC_RELAXED);

		/* A call that was under way while it was stopped, and a whole one after it. */
		while (before < UINT64_MAX / 2 &&
		       __atomic_load_n(&busy->report->loops[role], __ATOMIC_RELAXED) < before + 2) {
			ck_assert_int_eq(waitpid(busy->pid, NULL, WNOHANG), 0);
			ck_assert_msg(clock_now_ns() < deadline_ns,
				      "the thread in role %d stands still", role);
			sched_yield();
		}
	}
	ck_assert_msg(busy->report->n_errors == 0, "%lu errors, the first: %s",
		      (unsigned long)busy->report->n_errors, busy->report->first_error);
}

void busy_done(struct busy *busy)
{
	busy_check(busy);
	kill(busy->pid, SIGKILL);
	ck_assert_int_eq(waitpid(busy->pid, NULL, 0), busy->pid);
	munmap(busy->report, sizeof(*busy->report));
}

static int compare_lines(const void *a, const void *b)
{
	return strcmp(a, b);
}

char *list_fds_of(pid_t pid, size_t *ret_n)
{
	enum { MAX_FDS = 256, LINE = 96 };
	char(*lines)[LINE] = calloc(MAX_FDS, LINE);
	struct dirent *entry;
	char path[300], *text;
	size_t n = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	dir = opendir(path);
	ck_assert_ptr_nonnull(dir);
	while ((entry = readdir(dir)) && n < MAX_FDS) {
		char link[64] = "";

		if (entry->d_name[0] == '.')
			continue;
		if (readlinkat(dirfd(dir), entry->d_name, link, sizeof(link) - 1) >= 0)
			snprintf(lines[n++], LINE, "%.20s %s\n", entry->d_name, link);
	}
	closedir(dir);
	qsort(lines, n, LINE, compare_lines);

	text = calloc(n + 1, LINE);
	for (size_t i = 0; i < n; i++)
		strcat(text, lines[i]);
	free(lines);
	*ret_n = n;
	return text;
}
