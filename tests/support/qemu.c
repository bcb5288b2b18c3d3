/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Starting and stopping QEMU for a test. */
#include "support/qemu.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/units.h"
#include "support/unit.h"

#define PROGRAM		 "/usr/bin/qemu-system-x86_64"
#define START_TIMEOUT_NS (20 * NSEC_PER_SEC)
#define MAX_ARGUMENTS	 64

static _Noreturn void run(const struct qemu *qemu, const char *const *options, pid_t parent)
{
	const char *arguments[MAX_ARGUMENTS] = {
		PROGRAM, "-nodefaults", "-display", "none",	"-accel",
		"tcg",	 "-m",		"16M",	    "-machine", "pc,memory-backend=ram0",
	};
	char memory[256], monitor[160];
	size_t n = 10;

	snprintf(memory, sizeof(memory),
		 "memory-backend-file,id=ram0,size=%dM,share=on,mem-path=%s", QEMU_MEMORY_MIB,
		 qemu->memory);
	snprintf(monitor, sizeof(monitor), "unix:%s,server=on,wait=off", qemu->monitor);
	arguments[n++] = "-object";
	arguments[n++] = memory;
	arguments[n++] = "-qmp";
	arguments[n++] = monitor;
	for (; options && *options && n < MAX_ARGUMENTS - 1; options++)
		arguments[n++] = *options;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	execv(PROGRAM, (char **)arguments);
	_exit(127);
}

/*
 * The socket has its name before anybody may connect to it, and a connection made to find out would be
 * the monitor's only client for a while: the kernel's list of sockets tells.
 */
static bool is_listening(const char *path)
{
	const unsigned long accepts = 1 << 16; /* __SO_ACCEPTCON */
	FILE *sockets = fopen("/proc/net/unix", "re");
	bool is_found = false;
	char line[512];

	ck_assert_ptr_nonnull(sockets);
	while (!is_found && fgets(line, sizeof(line), sockets)) {
		unsigned long flags = 0;
		char name[256] = "";

		is_found = sscanf(line, "%*s %*s %*s %lx %*s %*s %*s %255s", &flags, name) == 2 &&
			   (flags & accepts) && strcmp(name, path) == 0;
	}
	fclose(sockets);
	return is_found;
}

/* The name's appearance is watched, not guessed; from there to listening nothing tells. */
static void wait_for_monitor(const struct qemu *qemu, int watch)
{
	uint64_t deadline_ns = clock_now_ns() + START_TIMEOUT_NS;
	char events[4096];

	while (!is_listening(qemu->monitor)) {
		struct pollfd fd = { .fd = watch, .events = POLLIN };

		ck_assert_msg(waitpid(qemu->pid, NULL, WNOHANG) == 0, "QEMU ended at once");
		ck_assert_msg(clock_now_ns() < deadline_ns, "QEMU opened no monitor");
		if (poll(&fd, 1, access(qemu->monitor, F_OK) ? 100 : 1) > 0)
			ck_assert_int_gt(read(watch, events, sizeof(events)), 0);
	}
}

void qemu_start(struct qemu *qemu, const char *const *options)
{
	pid_t parent = getpid();
	int watch;

	*qemu = (struct qemu){};
	if (access(PROGRAM, X_OK))
		unit_skip("%s is missing: apt-get install qemu-system-x86", PROGRAM);
	strcpy(qemu->directory, "/dev/shm/ufd-qemu-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(qemu->directory));
	snprintf(qemu->monitor, sizeof(qemu->monitor), "%s/qmp", qemu->directory);
	snprintf(qemu->memory, sizeof(qemu->memory), "%s/memory", qemu->directory);

	watch = inotify_init1(IN_CLOEXEC);
	ck_assert_int_ge(watch, 0);
	ck_assert_int_ge(inotify_add_watch(watch, qemu->directory, IN_CREATE), 0);

	qemu->pid = fork();
	ck_assert_int_ge(qemu->pid, 0);
	if (qemu->pid == 0)
		run(qemu, options, parent);
	wait_for_monitor(qemu, watch);
	close(watch);
}

void qemu_stop(struct qemu *qemu)
{
	if (qemu->pid > 0) {
		kill(qemu->pid, SIGKILL);
		waitpid(qemu->pid, NULL, 0);
	}
	unlink(qemu->monitor);
	unlink(qemu->memory);
	rmdir(qemu->directory);
	*qemu = (struct qemu){};
}
