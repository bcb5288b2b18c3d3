/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the host's kernel answers, asked after every start. */
#include "probing.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/units.h"
#include "job.h"
#include "kernel/thread.h"
#include "log-ids.h"
#include "log.h"
#include "probe/probe.h"

#define QUIET_S	       1 /* by then those who waited for a start have been served */
#define DEADLINE_NS    (10 * NSEC_PER_SEC)
#define LOOK_MS	       20 /* whether the daemon ends */
#define MAX_LINE_BYTES 256

/* ---- the program that tries ---- */

static void tell(const struct probe_report *report, void *context)
{
	printf("%s %s %s\n", probe_result_name(report->result), report->check->id, report->answer);
}

int probing_main(void)
{
	const struct probe_check *const *all;
	const struct probe_check *chosen[64];
	size_t n_all, n = 0;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_NAME, "ufdd-probe"); /* not "exe" */
	all = probe_checks(&n_all);
	for (size_t i = 0; i < n_all && n < sizeof(chosen) / sizeof(chosen[0]); i++)
		if (all[i]->is_for_start)
			chosen[n++] = all[i];
	if (probe_run(chosen, n, NSEC_PER_SEC, tell, NULL) < 0)
		return EXIT_FAILURE;
	return fflush(stdout) ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* ---- the daemon ---- */

/* Of what probing_main() says: logged if it is worth it. */
static void read_line(const char *line)
{
	char result[16], id[64], answer[64] = "";
	const struct probe_check *check;

	if (sscanf(line, "%15s %63s %63[^\n]", result, id, answer) < 2)
		return;
	check = probe_find(id);
	if (!check || !check->wanted ||
	    (strcmp(result, probe_result_name(PROBE_DIFFERS)) &&
	     strcmp(result, probe_result_name(PROBE_MISSING))))
		return;
	log_warning(LOG_FIELDS(.message_id = LOG_ID_KERNEL),
		    "this kernel says '%.63s' where paging wants '%s' (%s: %s): %s", answer,
		    check->wanted, check->id, check->title, check->consequence);
}

/* @ret_out: what it says; owned. Return: 0 or -errno. */
static int spawn(pid_t *ret_pid, int *ret_out)
{
	char name[] = "ufdd", option[] = "--probe-start";
	char *const arguments[] = { name, option, NULL };
	_cleanup_(closep) int to_read = -EBADF, to_write = -EBADF;
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	sigset_t none;
	int pair[2], r;

	if (pipe2(pair, O_CLOEXEC) < 0)
		return -errno;
	to_read = pair[0];
	to_write = pair[1];
	posix_spawnattr_init(&attributes);
	sigemptyset(&none);
	posix_spawnattr_setsigmask(&attributes, &none);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
	posix_spawn_file_actions_init(&actions);
	r = posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
	if (r == 0)
		r = posix_spawn_file_actions_adddup2(&actions, to_write, STDOUT_FILENO);
	if (r == 0) /* whatever became of the file meanwhile: the same program */
		r = posix_spawn(ret_pid, "/proc/self/exe", &actions, &attributes, arguments,
				environ);
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attributes);
	if (r == 0)
		*ret_out = TAKE_FD(to_read);
	return -r;
}

/* Its next bytes. Return: how many; 0 at its end, at ours, or when it is too late. */
static ssize_t read_some(const struct job *job, int fd, char *ret, size_t n_ret)
{
	struct pollfd poller = { .fd = fd, .events = POLLIN };
	ssize_t n;

	while (poll(&poller, 1, LOOK_MS) <= 0)
		if (job_is_cancelled(job) || clock_now_ns() > job_deadline_ns(job))
			return 0;
	n = read(fd, ret, n_ret);
	return n < 0 ? 0 : n;
}

static void read_lines(const struct job *job, int fd)
{
	char text[MAX_LINE_BYTES + 1], *end;
	size_t n_text = 0;
	ssize_t n;

	while ((n = read_some(job, fd, text + n_text, MAX_LINE_BYTES - n_text)) > 0) {
		n_text += (size_t)n;
		text[n_text] = '\0';
		while ((end = strchr(text, '\n'))) {
			*end++ = '\0';
			read_line(text);
			n_text -= (size_t)(end - text);
			memmove(text, end, n_text + 1);
		}
		if (n_text == MAX_LINE_BYTES)
			return; /* no line of ours is so long */
	}
}

static void probing_run(struct job *job, void *data)
{
	_cleanup_(closep) int out = -EBADF;
	pid_t pid;
	int r;

	thread_set_nice(
		THREAD_BULK_NICE); /* the program's as well, from its first instruction on */
	r = spawn(&pid, &out);
	if (r < 0) {
		log_debug(LOG_SWITCH_CONTROL, LOG_FIELDS(.error = r), "the kernel is not tried");
		return;
	}
	read_lines(job, out);
	kill(pid, SIGKILL); /* it has ended, or nobody waits for it any more */
	waitpid(pid, NULL, 0);
}

static void probing_done(void *data)
{
}

static void on_quiet(evutil_socket_t fd, short what, void *userdata)
{
	static const struct job_ops ops = { .run = probing_run, .done = probing_done };
	int r = job_start(userdata, &ops, clock_now_ns() + DEADLINE_NS, NULL, NULL);

	if (r < 0)
		log_debug(LOG_SWITCH_CONTROL, LOG_FIELDS(.error = r), "the kernel is not tried");
}

void probing_start(struct event_base *base, struct jobs *jobs)
{
	const struct timeval quiet = { .tv_sec = QUIET_S };

	if (event_base_once(base, -1, EV_TIMEOUT, on_quiet, jobs, &quiet) < 0)
		log_debug(LOG_SWITCH_CONTROL, LOG_FIELDS(), "the kernel is not tried");
}
