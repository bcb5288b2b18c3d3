/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Attaching to an unmodified process and leaving it again, without its noticing. */
#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "kernel/features.h"
#include "kernel/pidfd.h"
#include "kernel/uffd.h"
#include "refusal.h"
#include "support/target-attach.h"
#include "support/target-busy.h"
#include "support/unit.h"

static bool is_short(void)
{
	return getenv("UFD_TEST_SHORT") != NULL;
}

/* 7 rows of 43 cycles: every kind of call gets interrupted, in the main thread and in others. */
START_TEST(three_hundred_cycles_disturb_nothing)
{
	_cleanup_(freep) char *before = NULL, *after = NULL;
	struct busy busy;
	size_t n;

	busy_start(&busy, _i, false, NULL);
	before = list_fds_of(busy.pid, &n);
	attach_cycles(busy.pid, is_short() ? 8 : 43);
	busy_check(&busy);
	after = list_fds_of(busy.pid, &n);
	ck_assert_str_eq(before, after);
	busy_done(&busy);
}
END_TEST

/* Nobody else to choose: running threads too, which stop anywhere in user mode. */
START_TEST(a_lone_thread_is_not_disturbed)
{
	struct busy busy;

	busy_start(&busy, _i, true, NULL);
	attach_cycles(busy.pid, is_short() ? 3 : 10);
	busy_done(&busy);
}
END_TEST

/* What we hold and what the process keeps are one file. */
START_TEST(the_process_keeps_a_copy_until_detach)
{
	_cleanup_(process_attachment_done) struct process_attachment attachment =
		PROCESS_ATTACHMENT_NONE;
	struct busy busy;
	uint64_t features;
	pid_t pid;

	busy_start(&busy, BUSY_PPOLL, false, NULL);
	attach_to(busy.pid, &attach_opts, &attachment);
	ck_assert_int_eq(attachment.pid, busy.pid);
	ck_assert_int_eq(pidfd_get_pid(attachment.pidfd, &pid), 0);
	ck_assert_int_eq(pid, busy.pid);
	ck_assert_int_eq(uffd_inspect(attachment.uffd, &features), 0);
	ck_assert_uint_eq(features & features_wanted(false), features_wanted(false));
	ck_assert_int_eq(syscall(SYS_kcmp, getpid(), busy.pid, KCMP_FILE, attachment.uffd,
				 attachment.remote_fd),
			 0);

	detach_from(&attachment);
	ck_assert_int_eq(syscall(SYS_kcmp, getpid(), busy.pid, KCMP_FILE, attachment.uffd,
				 attachment.remote_fd),
			 -1);
	ck_assert_int_eq(errno, EBADF);
	busy_done(&busy);
}
END_TEST

START_TEST(detach_does_not_close_what_is_not_ours)
{
	_cleanup_(process_attachment_done) struct process_attachment attachment =
		PROCESS_ATTACHMENT_NONE;
	_cleanup_(refusal_done) struct refusal refusal = {};
	_cleanup_(freep) char *before = NULL, *after = NULL;
	struct process_attachment wrong;
	struct busy busy;
	size_t n;

	busy_start(&busy, BUSY_PPOLL, false, NULL);
	attach_to(busy.pid, &attach_opts, &attachment);
	before = list_fds_of(busy.pid, &n);
	wrong = attachment;
	wrong.remote_fd = 0;
	ck_assert_int_eq(process_detach(&wrong, &attach_opts, &refusal), -ECANCELED);
	ck_assert_str_eq(refusal.error, "io.ufd.guest.CannotAttach");
	after = list_fds_of(busy.pid, &n);
	ck_assert_str_eq(before, after);
	detach_from(&attachment);
	busy_done(&busy);
}
END_TEST

START_TEST(detach_from_a_dead_process_succeeds)
{
	_cleanup_(process_attachment_done) struct process_attachment attachment =
		PROCESS_ATTACHMENT_NONE;
	struct busy busy;

	busy_start(&busy, BUSY_PPOLL, false, NULL);
	attach_to(busy.pid, &attach_opts, &attachment);
	busy_done(&busy);
	detach_from(&attachment);
}
END_TEST

/* What a process that gets signals shares with us. */
struct signal_report {
	uint64_t n_handled;
	uint64_t n_bad; /* calls that failed other than by a signal */
	uint64_t n_loops;
};

static struct signal_report *signal_report;

static void count_signal(int signal)
{
	__atomic_fetch_add(&signal_report->n_handled, 1, __ATOMIC_RELAXED);
}

static _Noreturn void take_signals(void)
{
	const struct sigaction action = { .sa_handler = count_signal };
	const struct timespec wait = { .tv_nsec = 1000000 };

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	sigaction(SIGRTMIN, &action, NULL);
	for (;;) {
		__atomic_fetch_add(&signal_report->n_loops, 1, __ATOMIC_RELAXED);
		if (ppoll(NULL, 0, &wait, NULL) < 0 && errno != EINTR)
			signal_report->n_bad++;
	}
}

enum { N_SIGNALS = 20000 };

/* Queued signals are neither merged nor lost, so each is counted. */
static _Noreturn void send_signals(pid_t pid)
{
	for (int i = 0; i < N_SIGNALS; i++)
		while (sigqueue(pid, SIGRTMIN, (union sigval){ i }) < 0)
			if (errno != EAGAIN)
				_exit(1);
	_exit(0);
}

static void await_counter(const uint64_t *counter, uint64_t wanted)
{
	uint64_t deadline_ns = clock_now_ns() + 20 * NSEC_PER_SEC;

	while (__atomic_load_n(counter, __ATOMIC_RELAXED) < wanted) {
		ck_assert_msg(clock_now_ns() < deadline_ns, "%lu instead of %lu",
			      (unsigned long)*counter, (unsigned long)wanted);
		nanosleep(&(struct timespec){ .tv_nsec = 200000 }, NULL);
	}
}

static pid_t start_signal_target(void)
{
	pid_t pid;

	signal_report = mmap(NULL, sizeof(*signal_report), PROT_READ | PROT_WRITE,
			     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ck_assert_ptr_ne(signal_report, MAP_FAILED);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0)
		take_signals();
	await_counter(&signal_report->n_loops, 1);
	return pid;
}

START_TEST(signals_that_arrive_meanwhile_are_delivered)
{
	pid_t target = start_signal_target(), sender = fork();
	int status, n_cycles = 0;

	if (sender == 0)
		send_signals(target);
	while (waitpid(sender, &status, WNOHANG) == 0 || n_cycles < 5) {
		attach_cycles(target, 1);
		n_cycles++;
	}
	await_counter(&signal_report->n_handled, N_SIGNALS);
	ck_assert_uint_eq(signal_report->n_handled, N_SIGNALS);
	ck_assert_uint_eq(signal_report->n_bad, 0);
	kill(target, SIGKILL);
	ck_assert_int_eq(waitpid(target, &status, 0), target);
	ck_assert_int_eq(WTERMSIG(status), SIGKILL);
}
END_TEST

static char state_of(pid_t pid)
{
	_cleanup_(closep) int proc_fd = -EBADF;
	char path[32], text[512] = "";

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	proc_fd = open(path, O_RDONLY | O_CLOEXEC);
	ck_assert_int_gt(read(proc_fd, text, sizeof(text) - 1), 0);
	return strrchr(text, ')')[2];
}

/*
 * Let go by its tracer it is woken, and stops again before it comes to its own code: for as long as it
 * waits for a CPU it counts as running.
 */
static void await_stopped(pid_t pid)
{
	uint64_t deadline_ns = clock_now_ns() + 20 * NSEC_PER_SEC;

	while (state_of(pid) != 'T') {
		ck_assert_msg(clock_now_ns() < deadline_ns, "state %c", state_of(pid));
		nanosleep(&(struct timespec){ .tv_nsec = 200000 }, NULL);
	}
}

START_TEST(a_stopped_process_stays_stopped)
{
	pid_t target = start_signal_target();
	uint64_t n_loops;
	int status;

	kill(target, SIGSTOP);
	ck_assert_int_eq(waitpid(target, &status, WUNTRACED), target);
	n_loops = signal_report->n_loops;
	attach_cycles(target, 1);
	await_stopped(target);
	ck_assert_uint_eq(signal_report->n_loops, n_loops);
	kill(target, SIGCONT);
	await_counter(&signal_report->n_loops, n_loops + 2);
	ck_assert_uint_eq(signal_report->n_bad, 0);
	kill(target, SIGKILL);
	ck_assert_int_eq(waitpid(target, NULL, 0), target);
}
END_TEST

/*
 * Stops and continues without end. The reader of the state may find it either way; it must go on
 * after the last SIGCONT.
 */
START_TEST(stops_and_continues_that_arrive_meanwhile_take_effect)
{
	pid_t target = start_signal_target(), sender = fork();
	int status, n_cycles = 0;
	uint64_t n_loops;

	if (sender == 0) {
		for (int i = 0; i < 3000; i++) {
			kill(target, SIGSTOP);
			kill(target, SIGCONT);
		}
		_exit(0);
	}
	while (waitpid(sender, &status, WNOHANG) == 0 || n_cycles < 20) {
		attach_cycles(target, 1);
		n_cycles++;
	}
	n_loops = signal_report->n_loops;
	await_counter(&signal_report->n_loops, n_loops + 2);
	ck_assert_uint_eq(signal_report->n_bad, 0);
	kill(target, SIGKILL);
	ck_assert_int_eq(waitpid(target, NULL, 0), target);
}
END_TEST

/* A process that dies in the middle is a refusal, and nothing of the helper is left. */
START_TEST(death_at_any_moment_is_a_refusal)
{
	for (int i = 0; i < 40; i++) {
		_cleanup_(process_attachment_done) struct process_attachment attachment =
			PROCESS_ATTACHMENT_NONE;
		_cleanup_(refusal_done) struct refusal refusal = {};
		pid_t target = start_signal_target(), killer = fork();
		int r;

		if (killer == 0) {
			usleep(i * 60);
			kill(target, SIGKILL);
			_exit(0);
		}
		r = process_attach(target, &attach_opts, &attachment, &refusal);
		if (r < 0)
			ck_assert_str_eq(refusal.error, "io.ufd.guest.CannotAttach");
		ck_assert_int_eq(waitpid(target, NULL, 0), target);
		ck_assert_int_eq(waitpid(killer, NULL, 0), killer);
		munmap(signal_report, sizeof(*signal_report));
	}
}
END_TEST

/*
 * A restartable sequence that never ends by itself: only an abort leads out. A thread that was
 * stopped in it must be aborted, or it would think that nobody had been on its CPU meanwhile.
 */
static _Noreturn void loop_in_rseq(uint64_t *n_aborts)
{
	struct rseq *rseq = (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	asm volatile("	.pushsection __rseq_cs, \"aw\"\n"
		     "	.balign 32\n"
		     "3:	.long 0, 0\n"
		     "	.quad 1f, 2f - 1f, 4f\n"
		     "	.popsection\n"
		     "0:	leaq 3b(%%rip), %%rax\n"
		     "	movq %%rax, 8(%[rseq])\n"
		     "1:	pause\n"
		     "	jmp 1b\n"
		     "2:	ud2\n"
		     "	.byte 0x0f, 0xb9, 0x3d\n" /* an instruction that holds the signature */
		     "	.long 0x53053053\n"
		     "4:	lock incq (%[n])\n"
		     "	jmp 0b\n"
		     :
		     : [rseq] "r"(rseq), [n] "r"(n_aborts)
		     : "rax", "memory", "cc");
	__builtin_unreachable();
}

START_TEST(a_restartable_sequence_is_aborted)
{
	uint64_t *n_aborts = mmap(NULL, sizeof(*n_aborts), PROT_READ | PROT_WRITE,
				  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t target;

	ck_assert_ptr_ne(n_aborts, MAP_FAILED);
	if (__rseq_size == 0)
		unit_skip("the C library registers no rseq");
	target = fork();
	ck_assert_int_ge(target, 0);
	if (target == 0)
		loop_in_rseq(n_aborts);
	await_counter(n_aborts, 1);
	for (int i = 0; i < 10; i++) {
		uint64_t before;

		attach_cycles(target, 1);
		before = __atomic_load_n(n_aborts, __ATOMIC_RELAXED);
		await_counter(n_aborts, before + 1);
	}
	kill(target, SIGKILL);
	ck_assert_int_eq(waitpid(target, NULL, 0), target);
}
END_TEST

int main(void)
{
	return unit_run("process-attach",
			(struct unit_test[]){
				{ "three_hundred_cycles_disturb_nothing",
				  three_hundred_cycles_disturb_nothing, _BUSY_N },
				{ "a_lone_thread_is_not_disturbed", a_lone_thread_is_not_disturbed,
				  _BUSY_N },
				UNIT(the_process_keeps_a_copy_until_detach),
				UNIT(detach_does_not_close_what_is_not_ours),
				UNIT(detach_from_a_dead_process_succeeds),
				UNIT(signals_that_arrive_meanwhile_are_delivered),
				UNIT(a_stopped_process_stays_stopped),
				UNIT(stops_and_continues_that_arrive_meanwhile_take_effect),
				UNIT(death_at_any_moment_is_a_refusal),
				UNIT(a_restartable_sequence_is_aborted),
				{},
			});
}
