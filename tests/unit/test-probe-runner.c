/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Experiments that hang, crash, flee, lie and grow: each is a row of the result, and nothing stays. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/units.h"
#include "probe/experiment.h"
#include "probe/probe.h"
#include "support/unit.h"

#define SHORT_NS (200 * NSEC_PER_MSEC) /* for who hangs */
#define LONG_NS	 (30 * NSEC_PER_SEC)   /* for who ends by himself, on a busy machine, too */
#define KILLED	 "after 0.2 s and was killed"

/* ---- experiments of a family that misbehaves ---- */

/* What those who are tried tell the test: inherited, shared. */
static struct {
	_Atomic pid_t grandchild;
} * told;

static void answer_yes(struct probe_run *run)
{
	probe_step(run, "asked %d", 1);
	probe_step(run, "heard %s", "yes");
	probe_detail(run, "it said so");
	probe_answer(run, "no");
	probe_answer(run, "yes"); /* the last one counts */
}

static void answer_no(struct probe_run *run)
{
	probe_answer(run, "no");
}

static void answer_nothing(struct probe_run *run)
{
	probe_detail(run, "never told");
}

static void skip(struct probe_run *run)
{
	probe_answer(run, "half a one");
	probe_skip(run, "no %s is free", "huge page");
}

static void break_off(struct probe_run *run)
{
	errno = ENOSPC;
	probe_must(run, false, "mmap of 64 KiB");
}

static void hang(struct probe_run *run)
{
	for (;;)
		pause();
}

static void spin(struct probe_run *run)
{
	for (volatile unsigned int i = 0;; i++)
		;
}

static void hang_deaf(struct probe_run *run)
{
	sigset_t all;

	for (int i = 1; i < NSIG; i++)
		(void)signal(i, SIG_IGN);
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, NULL);
	hang(run);
}

static void hang_stopped(struct probe_run *run)
{
	raise(SIGSTOP);
	hang(run);
}

static void crash(struct probe_run *run)
{
	probe_answer(run, "yes");
	raise(SIGSEGV);
}

static void leave(struct probe_run *run)
{
	probe_answer(run, "yes");
	_exit(3);
}

/* It hangs in the group, as one that waits in a fault would. */
static void leave_grandchild(struct probe_run *run)
{
	pid_t pid = fork();

	if (pid == 0)
		hang_deaf(run);
	told->grandchild = pid;
	probe_answer(run, "yes");
}

static void hang_with_grandchild(struct probe_run *run)
{
	leave_grandchild(run);
	hang(run);
}

static void crash_with_grandchild(struct probe_run *run)
{
	leave_grandchild(run);
	raise(SIGKILL);
}

static void break_in_grandchild(struct probe_run *run)
{
	pid_t pid = fork();

	if (pid == 0)
		probe_break(run, "the grandchild says so");
	waitpid(pid, NULL, 0);
	probe_answer(run, "yes");
}

static void *break_thread(void *run)
{
	probe_break(run, "the thread says so");
}

static void break_in_thread(struct probe_run *run)
{
	pthread_t thread;

	probe_must(run, pthread_create(&thread, NULL, break_thread, run) == 0, "a thread");
	pthread_join(thread, NULL);
}

static void write_a_lot(struct probe_run *run)
{
	for (int i = 0; i < 1000; i++)
		probe_step(run, "%0200d", i);
	probe_answer(run, "%0200d", 1);
	probe_detail(run, "%0900d", 1);
}

/* Beyond its texts' ends, as one that went astray. */
static void scribble(struct probe_run *run)
{
	memset((void *)run, 'x', 16 * 1024);
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
static void grow(struct probe_run *run)
{
	void *at = mmap(NULL, (size_t)1 << 30, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			-1, 0);

	probe_answer(run, at == MAP_FAILED ? "refused" : "grew");
}
#endif

static void grow_file(struct probe_run *run)
{
	int fd = memfd_create("grow", MFD_CLOEXEC);

	signal(SIGXFSZ, SIG_IGN);
	probe_answer(run, "%s", probe_errno(ftruncate(fd, 1 << 30) < 0 ? errno : 0));
}

/* Nothing of the caller's reaches it: fds, handlers, masks, output. */
static void look_around(struct probe_run *run)
{
	struct sigaction action;
	struct rlimit limit;
	sigset_t mask;
	int n_fds = 0, n_signals = 0, death = 0;

	for (int fd = 0; fd < 100; fd++)
		n_fds += fcntl(fd, F_GETFD) >= 0;
	sigprocmask(SIG_SETMASK, NULL, &mask);
	for (int i = 1; i < SIGRTMIN; i++) {
		sigaction(i, NULL, &action);
		n_signals += action.sa_handler != SIG_DFL || sigismember(&mask, i);
	}
	getrlimit(RLIMIT_CORE, &limit);
	prctl(PR_GET_PDEATHSIG, &death);
	printf("never to be seen");
	fflush(stdout);
	probe_answer(run, "%d fds, %d signals, core %llu, dies by %d, group %s", n_fds, n_signals,
		     (unsigned long long)limit.rlim_max, death,
		     getpgrp() == getpid() ? "own" : "shared");
}

/* ---- what came of them ---- */

static const struct row {
	struct probe_check check;
	enum probe_result result;
	const char *answer;
	const char *detail; /* a part of it */
	bool is_as_known;
} rows[] = {
	{ { "as-wanted", .wanted = "yes", .run = answer_yes },
	  PROBE_OK,
	  "yes",
	  "it said so",
	  true },
	{ { "any", .run = answer_no }, PROBE_OK, "no", "", true },
	{ { "otherwise", .wanted = "yes", .run = answer_no }, PROBE_DIFFERS, "no", "", false },
	{ { "otherwise-as-known", .wanted = "yes", .known = { { PROBE_KERNEL(5, 0), "no" } },
	    .run = answer_no },
	  PROBE_DIFFERS,
	  "no",
	  "",
	  true },
	{ { "as-wanted-not-known", .wanted = "yes", .known = { { PROBE_KERNEL(5, 0), "no" } },
	    .run = answer_yes },
	  PROBE_OK,
	  "yes",
	  "",
	  false },
	{ { "needed", .wanted = "yes", .is_needed = true, .run = answer_no },
	  PROBE_MISSING,
	  "no",
	  "",
	  false },
	{ { "needed-skipped", .wanted = "yes", .is_needed = true, .run = skip },
	  PROBE_SKIPPED,
	  "",
	  "no huge page is free",
	  false },
	{ { "nothing", .run = answer_nothing }, PROBE_FAILED, "", "without an answer", false },
	{ { "broken", .run = break_off },
	  PROBE_FAILED,
	  "",
	  "mmap of 64 KiB did not work (No space left on device), in break_off()",
	  false },
	{ { "hangs", .run = hang }, PROBE_FAILED, "", KILLED, false },
	{ { "spins", .run = spin }, PROBE_FAILED, "", KILLED, false },
	{ { "deaf", .run = hang_deaf }, PROBE_FAILED, "", KILLED, false },
	{ { "stopped", .run = hang_stopped }, PROBE_FAILED, "", KILLED, false },
	{ { "crashes", .wanted = "yes", .run = crash },
	  PROBE_FAILED,
	  "",
	  "ended by signal 11 (SIGSEGV)",
	  false },
	{ { "leaves", .wanted = "yes", .run = leave },
	  PROBE_FAILED,
	  "",
	  "exited with status 3 and without an answer",
	  false },
	{ { "grandchild", .wanted = "yes", .run = leave_grandchild }, PROBE_OK, "yes", "", true },
	{ { "grandchild-hang", .run = hang_with_grandchild }, PROBE_FAILED, "", KILLED, false },
	{ { "grandchild-crash", .run = crash_with_grandchild },
	  PROBE_FAILED,
	  "",
	  "ended by signal 9 (SIGKILL)",
	  false },
	{ { "grandchild-breaks", .wanted = "yes", .run = break_in_grandchild },
	  PROBE_FAILED,
	  "",
	  "the grandchild says so",
	  false },
	{ { "thread-breaks", .wanted = "yes", .run = break_in_thread },
	  PROBE_FAILED,
	  "",
	  "the thread says so",
	  false },
	{ { "scribbles", .wanted = "yes", .run = scribble },
	  PROBE_FAILED,
	  "",
	  "without an answer",
	  false },
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
	{ { "grows", .wanted = "refused", .run = grow }, PROBE_OK, "refused", "", true },
#endif
	{ { "grows-a-file", .wanted = "EFBIG", .run = grow_file }, PROBE_OK, "EFBIG", "", true },
	{ { "looks-around", .run = look_around },
	  PROBE_OK,
	  "4 fds, 0 signals, core 0, dies by 9, group own",
	  "",
	  true },
};

struct seen {
	unsigned int n;
	enum probe_result result;
	char answer[256], detail[1024], steps[20000];
	bool is_as_known;
};

static void keep(const struct probe_report *report, void *context)
{
	struct seen *seen = context;

	seen->n++;
	seen->result = report->result;
	seen->is_as_known = report->is_as_known;
	snprintf(seen->answer, sizeof(seen->answer), "%s", report->answer);
	snprintf(seen->detail, sizeof(seen->detail), "%s", report->detail);
	snprintf(seen->steps, sizeof(seen->steps), "%s", report->steps);
}

static struct seen try_within(const struct probe_check *check, uint64_t deadline_ns)
{
	struct seen seen = {};

	told = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ck_assert(told != MAP_FAILED);
	prctl(PR_SET_CHILD_SUBREAPER, 1); /* grandchildren become ours when their parent ends */
	ck_assert_int_eq(probe_run(&check, 1, deadline_ns, keep, &seen), 0);
	ck_assert_uint_eq(seen.n, 1);
	return seen;
}

static struct seen try(const struct probe_check *check)
{
	return try_within(check, LONG_NS);
}

static struct seen try_row(const struct row *row)
{
	return try_within(&row->check, strcmp(row->detail, KILLED) ? LONG_NS : SHORT_NS);
}

static void expect(const struct row *row, const struct seen *seen)
{
	ck_assert_msg(seen->result == row->result, "%s: %s (%s)", row->check.id,
		      probe_result_name(seen->result), seen->detail);
	ck_assert_str_eq(seen->answer, row->answer);
	ck_assert_msg(strstr(seen->detail, row->detail) != NULL, "%s: '%s'", row->check.id,
		      seen->detail);
	ck_assert_int_eq(seen->is_as_known, row->is_as_known);
}

/* No child of ours is left, and of theirs none that does not end: none of them would by itself. */
static void expect_nobody_left(void)
{
	if (told->grandchild)
		ck_assert_int_eq(waitpid(told->grandchild, NULL, 0), told->grandchild);
	ck_assert_int_eq(waitpid(-1, NULL, WNOHANG), -1);
	ck_assert_int_eq(errno, ECHILD);
}

START_TEST(each_way_to_end_is_told_apart_and_leaves_nobody)
{
	struct seen seen = try_row(&rows[_i]);

	expect(&rows[_i], &seen);
	expect_nobody_left();
}
END_TEST

static _Atomic unsigned int n_alarms;

static void count_alarm(int signal_number)
{
	n_alarms++;
}

START_TEST(a_storm_of_alarms_changes_nothing)
{
	const struct itimerval often = { { 0, 50 }, { 0, 50 } }, never = {};
	struct sigaction action = { .sa_handler = count_alarm }; /* no SA_RESTART */
	struct seen seen;

	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &often, NULL);
	seen = try_row(&rows[_i]);
	setitimer(ITIMER_REAL, &never, NULL);
	ck_assert_uint_gt(n_alarms, 0);
	expect(&rows[_i], &seen);
	expect_nobody_left();
}
END_TEST

START_TEST(a_caller_that_ignores_its_children_learns_the_same)
{
	const struct probe_check fine = { "fine", .wanted = "yes", .run = answer_yes };
	const struct probe_check crashing = { "crashes", .run = crash };
	struct seen seen;

	signal(SIGCHLD, SIG_IGN);
	seen = try(&fine);
	ck_assert_int_eq(seen.result, PROBE_OK);
	seen = try(&crashing);
	ck_assert_int_eq(seen.result, PROBE_FAILED);
	ck_assert_str_eq(seen.detail, "its process ended without an answer");
}
END_TEST

/* What the caller had printed and not written yet is written once, by the caller. */
START_TEST(the_output_of_the_caller_is_his)
{
	const struct probe_check check = { "looks", .run = look_around };
	FILE *file = tmpfile(), *before = stdout;
	char text[64] = "";

	ck_assert_ptr_nonnull(file);
	stdout = file;
	fprintf(file, "once");
	try(&check);
	stdout = before;
	rewind(file);
	ck_assert_ptr_nonnull(fgets(text, sizeof(text), file));
	ck_assert_str_eq(text, "once");
	fclose(file);
}
END_TEST

START_TEST(too_long_texts_are_cut)
{
	const struct probe_check check = { "writes", .run = write_a_lot };
	struct seen seen = try(&check);

	ck_assert_int_eq(seen.result, PROBE_OK);
	ck_assert_uint_eq(strlen(seen.answer), 63);
	ck_assert_uint_eq(strlen(seen.detail), 255);
	ck_assert_uint_gt(strlen(seen.steps), 10000);
	ck_assert_uint_lt(strlen(seen.steps), 16 * 1024);
}
END_TEST

START_TEST(steps_are_lines_in_their_order)
{
	const struct probe_check check = { "yes", .run = answer_yes };
	struct seen seen = try(&check);

	ck_assert_str_eq(seen.steps, "asked 1\nheard yes\n");
}
END_TEST

START_TEST(the_rest_goes_on_after_one_that_hangs)
{
	const struct probe_check hanging = { "hangs", .run = hang };
	const struct probe_check fine = { "fine", .wanted = "yes", .run = answer_yes };
	const struct probe_check *const checks[] = { &fine, &hanging, &fine };
	struct seen seen = {};

	ck_assert_int_eq(probe_run(checks, 3, NSEC_PER_SEC, keep, &seen), 0);
	ck_assert_uint_eq(seen.n, 3);
	ck_assert_int_eq(seen.result, PROBE_OK);
	ck_assert_int_eq(probe_run(checks, 3, NSEC_PER_SEC, NULL, NULL), 0);
}
END_TEST

/* The experiment's process ends with whoever tries it: it would hold memory and faults for ever. */
START_TEST(an_experiment_ends_with_its_runner)
{
	const struct probe_check check = { "hangs", .run = hang_with_grandchild };
	const struct probe_check *checks = &check;
	pid_t runner, experiment;

	told = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	runner = fork();
	if (runner == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		probe_run(&checks, 1, 600 * NSEC_PER_SEC, NULL, NULL);
		_exit(0);
	}
	while (!told->grandchild)
		sched_yield();
	experiment = getpgid(told->grandchild);
	kill(runner, SIGKILL);
	ck_assert_int_eq(waitpid(runner, NULL, 0), runner);
	ck_assert_int_eq(waitpid(experiment, NULL, 0), experiment);
	kill(told->grandchild, SIGKILL); /* experiments that fork ask for its death themselves */
	ck_assert_int_eq(waitpid(told->grandchild, NULL, 0), told->grandchild);
}
END_TEST

START_TEST(no_process_at_all_is_an_error)
{
	const struct probe_check fine = { "fine", .wanted = "yes", .run = answer_yes };
	const struct probe_check *check = &fine;
	struct rlimit before, none;
	struct seen seen = {};
	int error;

	/* root is not bound by the number of processes, but everybody is by that of fds */
	getrlimit(RLIMIT_NOFILE, &before);
	none = (struct rlimit){ .rlim_max = before.rlim_max };
	setrlimit(RLIMIT_NOFILE, &none);
	error = probe_run(&check, 1, LONG_NS, keep, &seen);
	setrlimit(RLIMIT_NOFILE, &before);
	ck_assert_int_eq(error, -EMFILE);
	ck_assert_uint_eq(seen.n, 1);
	ck_assert_int_eq(seen.result, PROBE_FAILED);
	ck_assert_str_eq(seen.detail, "no process could be started for it (Too many open files)");
}
END_TEST

START_TEST(the_nearest_known_kernel_is_the_newest_not_after)
{
	const struct probe_check check = {
		.wanted = "kept",
		.known = { { PROBE_KERNEL(5, 10), "a" }, { PROBE_KERNEL(6, 7), "b" } },
	};
	const struct probe_check open = { .wanted = "kept" }, any = {};
	const struct probe_check setting = { .wanted = "on", .is_of_host = true };

	ck_assert_str_eq(probe_expected(&check, PROBE_KERNEL(4, 19)), "a");
	ck_assert_str_eq(probe_expected(&check, PROBE_KERNEL(6, 6)), "a");
	ck_assert_str_eq(probe_expected(&check, PROBE_KERNEL(6, 7)), "b");
	ck_assert_str_eq(probe_expected(&check, PROBE_KERNEL(7, 0)), "b");
	ck_assert_str_eq(probe_expected(&open, PROBE_KERNEL(6, 1)), "kept");
	ck_assert_ptr_null(probe_expected(&any, PROBE_KERNEL(6, 1)));
	ck_assert_ptr_null(probe_expected(&setting, PROBE_KERNEL(6, 1)));
	ck_assert_uint_ge(probe_kernel(), PROBE_KERNEL(5, 0));
}
END_TEST

START_TEST(errnos_have_names)
{
	ck_assert_str_eq(probe_errno(0), "ok");
	ck_assert_str_eq(probe_errno(-EEXIST), "EEXIST");
	ck_assert_str_eq(probe_errno(EFAULT), "EFAULT");
	ck_assert_str_eq(probe_errno(4000), "an errno without a name");
}
END_TEST

int main(void)
{
	return unit_run("probe-runner",
			(struct unit_test[]){
				UNIT_TABLE(each_way_to_end_is_told_apart_and_leaves_nobody, rows),
				UNIT_TABLE(a_storm_of_alarms_changes_nothing, rows),
				UNIT(a_caller_that_ignores_its_children_learns_the_same),
				UNIT(the_output_of_the_caller_is_his),
				UNIT(too_long_texts_are_cut),
				UNIT(steps_are_lines_in_their_order),
				UNIT(the_rest_goes_on_after_one_that_hangs),
				UNIT(an_experiment_ends_with_its_runner),
				UNIT(no_process_at_all_is_an_error),
				UNIT(the_nearest_known_kernel_is_the_newest_not_after),
				UNIT(errnos_have_names),
				{},
			});
}
