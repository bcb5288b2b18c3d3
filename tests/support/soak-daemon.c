/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The daemon that a soak run kills. */
#include "support/soak-daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"

#define LOOK_US 1000

static _Noreturn void give_up(const char *what)
{
	perror(what);
	exit(2);
}

/*
 * ufdd itself, and not the manager's child that is about to become it, nor its own one that is about
 * to become its helper: that one is in its session, and may outlive it.
 */
static bool is_daemon(pid_t pid)
{
	char path[64], program[4096];
	const char *name;
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/exe", pid);
	n = readlink(path, program, sizeof(program) - 1);
	if (n < 0)
		return false;
	program[n] = '\0';
	name = strrchr(program, '/');
	return name && !strcmp(name, "/ufdd") && getsid(pid) == pid;
}

static pid_t find_in_group(const char *group)
{
	char path[4200];
	pid_t pid, found = 0;
	FILE *procs;

	snprintf(path, sizeof(path), "%s/cgroup.procs", group);
	procs = fopen(path, "re");
	if (!procs)
		return 0; /* the group comes with the first process */
	while (!found && fscanf(procs, "%d", &pid) == 1)
		if (is_daemon(pid))
			found = pid;
	fclose(procs);
	return found;
}

static pid_t start(const struct soak_daemon *daemon)
{
	pid_t pid = fork();

	if (pid < 0)
		give_up("fork");
	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	execl(daemon->program, daemon->program, "--socket", daemon->socket_path, "--state-dir",
	      daemon->state_dir, NULL);
	_exit(127);
}

bool soak_daemon_await(struct soak_daemon *daemon, uint64_t deadline_ns)
{
	if (daemon->pidfd >= 0)
		return true;
	do {
		daemon->pid = daemon->group ? find_in_group(daemon->group) : start(daemon);
		daemon->pidfd = daemon->pid ? pidfd_open(daemon->pid, 0) : -1;
		if (daemon->pidfd >= 0)
			return true;
		if (daemon->pid && errno != ESRCH)
			give_up("pidfd_open");
		usleep(LOOK_US);
	} while (clock_now_ns() < deadline_ns);
	return false;
}

bool soak_daemon_is_dead(const struct soak_daemon *daemon)
{
	struct pollfd end = { .fd = daemon->pidfd, .events = POLLIN };

	return daemon->pidfd >= 0 && poll(&end, 1, 0) == 1;
}

static void await_end(struct soak_daemon *daemon)
{
	struct pollfd end = { .fd = daemon->pidfd, .events = POLLIN };

	while (poll(&end, 1, -1) < 0)
		if (errno != EINTR)
			give_up("poll");
}

void soak_daemon_kill(struct soak_daemon *daemon, struct soak_kill *ret)
{
	ret->before_ns = clock_now_ns();
	if (pidfd_send_signal(daemon->pidfd, SIGKILL, NULL, 0) < 0 && errno != ESRCH)
		give_up("kill");
	ret->after_ns = clock_now_ns();
	await_end(daemon);
	ret->dead_ns = clock_now_ns();
	if (!daemon->group)
		waitpid(daemon->pid, NULL, 0);
	closep(&daemon->pidfd);
	daemon->pidfd = -EBADF;
}

void soak_daemon_done(struct soak_daemon *daemon)
{
	struct soak_kill last;

	if (daemon->pidfd >= 0 && !daemon->group)
		soak_daemon_kill(daemon, &last);
	closep(&daemon->pidfd);
	daemon->pidfd = -EBADF;
}
