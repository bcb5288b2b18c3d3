/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A walk over /proc/PID/fd. */
#include "fd-walk.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/files.h"
#include "process.h"

/* Return: false when the visitor has had enough, or time is over. */
static bool walk_process(struct fd_walk *walk, pid_t pid, fd_walk_fn visit, void *userdata)
{
	_cleanup_(closedirp) DIR *dir = NULL;
	struct dirent *entry;
	char path[64], name[512];

	if (clock_now_ns() >= walk->deadline_ns) {
		walk->is_cut = true;
		return false;
	}
	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	dir = opendir(path);
	if (!dir) {
		walk->n_hidden += errno == EACCES || errno == EPERM;
		return true;
	}
	while ((entry = readdir(dir))) {
		int fd = (int)strtol(entry->d_name, NULL, 10);

		if (!isdigit((unsigned char)entry->d_name[0]))
			continue;
		process_fd_name(pid, fd, name, sizeof(name));
		if (name[0] && !visit(pid, fd, name, userdata))
			return false;
	}
	return true;
}

void fd_walk(struct fd_walk *walk, fd_walk_fn visit, void *userdata)
{
	_cleanup_(closedirp) DIR *dir = opendir("/proc");
	struct dirent *entry;
	pid_t self = getpid();

	walk->n_hidden = 0;
	walk->is_cut = false;
	if (walk->first > 0 && !walk_process(walk, walk->first, visit, userdata))
		return;
	if (walk->first != 1 && !walk_process(walk, 1, visit, userdata))
		return;
	while (dir && (entry = readdir(dir))) {
		pid_t pid = (pid_t)strtol(entry->d_name, NULL, 10);

		if (pid > 1 && pid != self && pid != walk->first &&
		    !walk_process(walk, pid, visit, userdata))
			return;
	}
}

void fd_walk_process(pid_t pid, fd_walk_fn visit, void *userdata)
{
	struct fd_walk walk = { .deadline_ns = UINT64_MAX };

	(void)walk_process(&walk, pid, visit, userdata);
}
