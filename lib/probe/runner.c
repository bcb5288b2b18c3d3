/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Checks, one after the other, each in a process of its own.
 *
 * Theory of operation. The child and all that it forks hold one end of a socket pair, the runner the
 * other: a byte of ours starts the experiment once its pidfd is open (so that not even a caller who
 * ignores SIGCHLD makes it end too early), and its hangup says that the last of them has ended. A
 * child that ended or that did not in time is killed together with its process group, before it is
 * reaped: until then its number, and with it the group's, belongs to nobody else. What an experiment
 * said lies in shared memory, and none of it is believed but texts, cut where we cut them.
 *
 * All signals are blocked around fork(): a timer that ticks faster than fork() copies would let the
 * kernel start it again for ever, and no handler of the caller's may run in the child.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/units.h"
#include "kernel/pidfd.h"
#include "probe/confine.h"
#include "probe/probe.h"
#include "probe/run.h"

#define KILLED_WITHIN_NS (2 * NSEC_PER_SEC) /* a process that was killed has ended by then */

/* One check under way. */
struct trial {
	const struct probe_check *check;
	struct probe_run *run; /* shared with the child */
	pid_t pid;
	int pidfd;	   /* owned */
	int life;	   /* owned; our end of the pair */
	bool is_late;	   /* it had to be killed */
	bool is_immortal;  /* and did not end even then */
	bool has_left_one; /* something of it did not end with it */
	bool is_exit_known;
	siginfo_t exit;
};

static void trial_done(struct trial *trial)
{
	closep(&trial->pidfd);
	closep(&trial->life);
}

/* Consumes @fd. The child replaces the first three, which a caller may have closed. */
static int beyond_stdio(int fd)
{
	_cleanup_(closep) int low = fd;

	if (fd > STDERR_FILENO)
		return TAKE_FD(low);
	fd = fcntl(low, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
	return fd < 0 ? -errno : fd;
}

/* The child, from fork() to its end. */
static _Noreturn void run_child(const struct trial *trial, int life, pid_t parent)
{
	char begin;

	confine_self(parent, life);
	while (read(CONFINE_LIFE_FD, &begin, 1) < 0 && errno == EINTR)
		;
	probe_run_try(trial->run, trial->check);
}

/* Its pidfd is open before its experiment begins. Return: 0, or -errno and nothing is left of it. */
static int start(struct trial *trial)
{
	_cleanup_(closep) int life = -EBADF;
	sigset_t all, before;
	pid_t self = getpid();
	int lives[2], error;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, lives) < 0)
		return -errno;
	trial->life = lives[0];
	life = beyond_stdio(lives[1]);
	if (life < 0)
		return life;
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &before);
	trial->pid = fork();
	error = trial->pid < 0 ? -errno : 0;
	if (trial->pid == 0)
		run_child(trial, life, self);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (error)
		return error;
	error = pidfd_open_pid(&trial->pidfd, trial->pid);
	if (error) {
		kill(trial->pid, SIGKILL);
		waitpid(trial->pid, NULL, 0);
		return error;
	}
	setpgid(trial->pid, trial->pid); /* the child does so, too: whoever comes first */
	return send(trial->life, "", 1, MSG_NOSIGNAL) < 0 && errno != EPIPE ? -errno : 0;
}

/* Return: whether it was so before the deadline. */
static bool wait_for(int fd, short events, uint64_t until_ns)
{
	for (;;) {
		struct pollfd poller = { .fd = fd, .events = events };
		uint64_t now_ns = clock_now_ns(), left_ns;
		struct timespec left;

		left_ns = now_ns < until_ns ? until_ns - now_ns : 0;
		left.tv_sec = (time_t)(left_ns / NSEC_PER_SEC);
		left.tv_nsec = (long)(left_ns % NSEC_PER_SEC);
		if (ppoll(&poller, 1, &left, NULL) > 0)
			return true;
		if (!left_ns)
			return false;
	}
}

/* It, and all that it started: also those who wait in a fault that nobody will answer now. */
static void kill_group(const struct trial *trial)
{
	siginfo_t info;

	/* reaped by somebody else: its number may be another's by now */
	if (waitid(P_PIDFD, (id_t)trial->pidfd, &info, WEXITED | WNOHANG | WNOWAIT) < 0 &&
	    errno == ECHILD)
		return;
	kill(-trial->pid, SIGKILL);
	kill(trial->pid, SIGKILL); /* it may not have made its group yet */
}

/* Until nothing of it is left. */
static void finish(struct trial *trial, uint64_t until_ns)
{
	uint64_t killed_until_ns;

	trial->is_late = !wait_for(trial->pidfd, POLLIN, until_ns);
	kill_group(trial);
	killed_until_ns = clock_now_ns() + KILLED_WITHIN_NS;
	trial->is_immortal = !wait_for(trial->pidfd, POLLIN, killed_until_ns);
	if (trial->is_immortal)
		return;
	while (waitid(P_PIDFD, (id_t)trial->pidfd, &trial->exit, WEXITED) < 0)
		if (errno != EINTR)
			break;
	trial->is_exit_known = trial->exit.si_pid == trial->pid;
	trial->has_left_one = !wait_for(trial->life, 0, killed_until_ns);
}

/* What became of a process that did not say how its experiment ended. */
static void explain_end(const struct trial *trial, char *ret, size_t n_ret)
{
	const char *name;

	if (!trial->is_exit_known) {
		snprintf(ret, n_ret, "its process ended without an answer");
	} else if (trial->exit.si_code == CLD_EXITED) {
		snprintf(ret, n_ret, "its process exited with status %d and without an answer",
			 trial->exit.si_status);
	} else {
		name = sigabbrev_np(trial->exit.si_status);
		snprintf(ret, n_ret, "its process was ended by signal %d (SIG%s)",
			 trial->exit.si_status, name ? name : "?");
	}
}

/* Why the experiment failed; "" if it did not. */
static void explain_failure(const struct trial *trial, uint64_t deadline_ns, char *ret,
			    size_t n_ret)
{
	int ending = atomic_load_explicit(&trial->run->ending, memory_order_acquire);
	double seconds = (double)deadline_ns / NSEC_PER_SEC;

	*ret = '\0';
	if (trial->is_immortal)
		snprintf(ret, n_ret, "it hung for %.3g s and cannot be killed", seconds);
	else if (trial->is_late)
		snprintf(ret, n_ret, "it had not ended after %.3g s and was killed", seconds);
	else if (trial->has_left_one)
		snprintf(ret, n_ret, "it left a process behind that does not end");
	else if (ending == PROBE_ENDING_BROKEN)
		snprintf(ret, n_ret, "%s", trial->run->detail);
	else if (ending != PROBE_ENDING_RETURNED && ending != PROBE_ENDING_SKIPPED)
		explain_end(trial, ret, n_ret);
	else if (ending == PROBE_ENDING_RETURNED && !trial->run->answer[0])
		snprintf(ret, n_ret, "it ended without an answer");
}

static enum probe_result judge(const struct probe_check *check, const char *answer)
{
	if (!check->wanted || strcmp(answer, check->wanted) == 0)
		return PROBE_OK;
	return check->is_needed ? PROBE_MISSING : PROBE_DIFFERS;
}

/* Whatever an experiment wrote over its texts, they end where they must. */
static void end_texts(struct probe_run *run)
{
	run->answer[sizeof(run->answer) - 1] = '\0';
	run->detail[sizeof(run->detail) - 1] = '\0';
	run->steps[sizeof(run->steps) - 1] = '\0';
}

static void fill_report(struct probe_report *report, const struct trial *trial, const char *failure)
{
	struct probe_run *run = trial->run;
	const char *expected = probe_expected(trial->check, probe_kernel());

	report->check = trial->check;
	report->answer = "";
	report->detail = run->detail;
	report->steps = run->steps;
	if (*failure) {
		report->result = PROBE_FAILED;
		report->detail = failure;
	} else if (atomic_load_explicit(&run->ending, memory_order_acquire) ==
		   PROBE_ENDING_SKIPPED) {
		report->result = PROBE_SKIPPED;
	} else {
		report->answer = run->answer;
		report->result = judge(trial->check, run->answer);
		report->is_as_known = !expected || strcmp(expected, run->answer) == 0;
	}
}

/* Return: 0, or -errno if its process could not be started; it is reported in any case. */
static int try_check(struct probe_run *run, const struct probe_check *check, uint64_t deadline_ns,
		     void (*reported)(const struct probe_report *report, void *context),
		     void *context)
{
	_cleanup_(trial_done) struct trial trial = {
		.check = check, .run = run, .pidfd = -EBADF, .life = -EBADF
	};
	struct probe_report report = {};
	char failure[PROBE_DETAIL_BYTES];
	uint64_t started_ns = clock_now_ns();
	int error;

	memset(run, 0, sizeof(*run));
	error = start(&trial);
	if (error) {
		snprintf(failure, sizeof(failure), "no process could be started for it (%s)",
			 strerror(-error));
	} else {
		finish(&trial, clock_add_ns(started_ns, deadline_ns));
		end_texts(run);
		explain_failure(&trial, deadline_ns, failure, sizeof(failure));
	}
	fill_report(&report, &trial, failure);
	report.took_ns = clock_now_ns() - started_ns;
	if (reported)
		reported(&report, context);
	return error;
}

int probe_run(const struct probe_check *const *checks, size_t n_checks, uint64_t deadline_ns,
	      void (*reported)(const struct probe_report *report, void *context), void *context)
{
	struct probe_run *run;
	size_t n_started = 0;
	int error, first_error = 0;

	run = mmap(NULL, sizeof(*run), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (run == MAP_FAILED)
		return -errno;
	for (size_t i = 0; i < n_checks; i++) {
		error = try_check(run, checks[i], deadline_ns, reported, context);
		if (!error)
			n_started++;
		else if (!first_error)
			first_error = error;
	}
	munmap(run, sizeof(*run));
	return n_started ? 0 : first_error;
}

const char *probe_expected(const struct probe_check *check, unsigned int kernel)
{
	const struct probe_known *known = check->known;
	const char *answer = known[0].since ? known[0].answer : check->wanted;

	if (check->is_of_host)
		return NULL;
	for (size_t i = 0; i < sizeof(check->known) / sizeof(check->known[0]); i++)
		if (known[i].since && known[i].since <= kernel)
			answer = known[i].answer;
	return answer;
}

unsigned int probe_kernel(void)
{
	unsigned int major = 0, minor = 0;
	struct utsname name;

	if (uname(&name) < 0 || sscanf(name.release, "%u.%u", &major, &minor) != 2)
		return 0; /* older than all that is known */
	return PROBE_KERNEL(major, minor);
}
