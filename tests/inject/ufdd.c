/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A daemon of this build. */
#include "inject/ufdd.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/units.h"
#include "inject/rounds.h"
#include "kernel/pidfd.h"

#define PATIENCE_NS (30 * NSEC_PER_SEC)
#define LOOK_NS	    (2 * NSEC_PER_MSEC)

void ufdd_init(struct ufdd *ret)
{
	/* on a tmpfs, as a state directory must be */
	*ret = (struct ufdd){ .folder = "/dev/shm/ufd-inject.XXXXXX", .pidfd = -EBADF };
	if (!mkdtemp(ret->folder))
		rounds_fail("no folder: %s", strerror(errno));
	snprintf(ret->socket, sizeof(ret->socket), "%s/socket", ret->folder);
}

/* In the build directory, beside the folder of this program. */
static void find_program(const char *below, char ret[512])
{
	ssize_t n = readlink("/proc/self/exe", ret, 400);

	if (n < 0)
		rounds_fail("where am I?");
	ret[n] = '\0';
	strcpy(strrchr(ret, '/'), below);
}

static bool is_listening(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	_cleanup_(closep) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strcpy(address.sun_path, path);
	return connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0;
}

static _Noreturn void become(const struct ufdd *ufdd, const struct ufdd_twin *twin, pid_t parent)
{
	char program[512], plan[256], order[300];

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(EXIT_FAILURE);
	find_program(twin && twin->plan ? "/ufdd-inject" : "/../../daemon/ufdd", program);
	if (twin && twin->plan) {
		board_print_plan(twin->plan, plan, sizeof(plan));
		snprintf(order, sizeof(order), "%d %s", twin->board_fd, plan);
		fcntl(twin->board_fd, F_SETFD, 0);
		setenv("UFD_INJECT", order, 1);
	}
	execl(program, "ufdd", "--socket", ufdd->socket, ufdd->forgets ? NULL : "--state-dir",
	      ufdd->folder, NULL);
	_exit(127);
}

bool ufdd_start(struct ufdd *ufdd, const struct ufdd_twin *twin)
{
	const struct timespec pause = { .tv_nsec = LOOK_NS };
	uint64_t deadline_ns = clock_now_ns() + PATIENCE_NS;
	pid_t parent = getpid();

	unlink(ufdd->socket);
	ufdd->pid = fork();
	if (ufdd->pid == 0)
		become(ufdd, twin, parent);
	if (ufdd->pid < 0 || pidfd_open_pid(&ufdd->pidfd, ufdd->pid) < 0)
		rounds_fail("no process for ufdd");
	while (!is_listening(ufdd->socket)) {
		if (!pidfd_is_alive(ufdd->pidfd))
			return false;
		if (clock_now_ns() > deadline_ns)
			rounds_fail("ufdd does not listen");
		nanosleep(&pause, NULL);
	}
	return true;
}

int ufdd_stop(struct ufdd *ufdd, int signal)
{
	struct pollfd end = { .fd = ufdd->pidfd, .events = POLLIN };
	int status = 0;

	if (!ufdd->pid)
		return 0;
	kill(ufdd->pid, signal);
	if (poll(&end, 1, (int)(PATIENCE_NS / NSEC_PER_MSEC)) == 0)
		rounds_fail("ufdd does not end by signal %d", signal);
	waitpid(ufdd->pid, &status, 0);
	closep(&ufdd->pidfd);
	ufdd->pidfd = -EBADF;
	ufdd->pid = 0;
	return status;
}

static int remove_one(const char *path, const struct stat *file, int kind, struct FTW *place)
{
	return remove(path);
}

void ufdd_done(struct ufdd *ufdd)
{
	(void)ufdd_stop(ufdd, SIGKILL);
	(void)nftw(ufdd->folder, remove_one, 4, FTW_DEPTH | FTW_PHYS);
}
