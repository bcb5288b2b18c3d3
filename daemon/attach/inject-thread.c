/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Choosing the thread that will run our system calls. */
#include "attach/inject-thread.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attach/inject.h"
#include "base/files.h"

/* How well a thread suits; higher is better. */
enum {
	SUIT_NEVER,
	SUIT_USER_FAULT,
	SUIT_RUNNING,
	SUIT_STOPPED,
	SUIT_SLEEPING,
	SUIT_MAIN_SLEEPING,
};

/* A small file of one thread, as text. */
static int read_file(int proc_fd, pid_t tid, const char *name, char *text, size_t n_text)
{
	_cleanup_(closep) int fd = -EBADF;
	char path[64];
	ssize_t n;

	snprintf(path, sizeof(path), "task/%d/%s", tid, name);
	fd = openat(proc_fd, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? -ESRCH : -errno;
	n = read(fd, text, n_text - 1);
	if (n < 0)
		return -errno;
	if (n == (ssize_t)n_text - 1)
		return -EMSGSIZE; /* half a file must not pass for "no seccomp filter" */
	text[n] = '\0';
	return 0;
}

static uint64_t field(const char *text, const char *label, int base)
{
	const char *at = strstr(text, label);

	return at ? strtoull(at + strlen(label), NULL, base) : 0;
}

int thread_read_status(int proc_fd, pid_t tid, struct thread_status *ret)
{
	char text[16384];
	const char *state;
	int r;

	r = read_file(proc_fd, tid, "status", text, sizeof(text));
	if (r < 0)
		return r;
	state = strstr(text, "\nState:\t");
	if (!state)
		return -EBADMSG;

	*ret = (struct thread_status){
		.state = state[8],
		.tracer = field(text, "\nTracerPid:\t", 10),
		.seccomp = field(text, "\nSeccomp:\t", 10),
		.deliverable = (field(text, "\nSigPnd:\t", 16) | field(text, "\nShdPnd:\t", 16)) &
			       ~field(text, "\nSigBlk:\t", 16),
	};
	return 0;
}

static int suit_of_sleeper(int proc_fd, pid_t tid, bool is_main)
{
	char text[256];

	if (read_file(proc_fd, tid, "wchan", text, sizeof(text)) < 0)
		return SUIT_NEVER;
	if (strcmp(text, "handle_userfault") != 0)
		return is_main ? SUIT_MAIN_SLEEPING : SUIT_SLEEPING;
	/* The number of the system call it is in; -1 is user mode. */
	if (read_file(proc_fd, tid, "syscall", text, sizeof(text)) < 0)
		return SUIT_NEVER;
	return strncmp(text, "-1 ", 3) == 0 ? SUIT_USER_FAULT : SUIT_NEVER;
}

static int suit_of(int proc_fd, pid_t tid, bool is_main)
{
	struct thread_status status;

	if (thread_read_status(proc_fd, tid, &status) < 0)
		return SUIT_NEVER;
	switch (status.state) {
	case 'S':
		return suit_of_sleeper(proc_fd, tid, is_main);
	case 'T':
	case 't': /* our own attempt, or somebody's whom PTRACE_SEIZE will name */
		return SUIT_STOPPED;
	case 'R':
		return SUIT_RUNNING;
	}
	return SUIT_NEVER;
}

static bool is_avoided(pid_t tid, const pid_t *avoid, size_t n_avoid)
{
	for (size_t i = 0; i < n_avoid; i++)
		if (avoid[i] == tid)
			return true;
	return false;
}

int thread_choose(int proc_fd, pid_t pid, const pid_t *avoid, size_t n_avoid, pid_t *ret_tid)
{
	_cleanup_(closedirp) DIR *dir = NULL;
	struct dirent *entry;
	pid_t best_tid = 0;
	int fd, best = SUIT_NEVER;

	if (!is_avoided(pid, avoid, n_avoid) && suit_of(proc_fd, pid, true) == SUIT_MAIN_SLEEPING) {
		*ret_tid = pid;
		return 0;
	}

	fd = openat(proc_fd, "task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? -ESRCH : -errno;
	dir = fdopendir(fd);
	if (!dir) {
		closep(&fd);
		return -ENOMEM;
	}
	while (best < SUIT_SLEEPING && (entry = readdir(dir))) {
		pid_t tid = atoi(entry->d_name);
		int suit;

		if (tid <= 0 || is_avoided(tid, avoid, n_avoid))
			continue;
		suit = suit_of(proc_fd, tid, tid == pid);
		if (suit > best) {
			best = suit;
			best_tid = tid;
		}
	}
	if (best == SUIT_NEVER)
		return INJECT_HUNG;

	*ret_tid = best_tid;
	return 0;
}
