/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Every fd of every process, by what /proc calls it: who holds a ledger, who a userfaultfd.
 *
 * The pager comes first if it is known, then the service manager, then the rest, so that the
 * deadline cuts off only what is unlikely.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Return: false to end the walk. */
typedef bool (*fd_walk_fn)(pid_t pid, int fd, const char *name, void *userdata);

/* Readable. */
struct fd_walk {
	pid_t first;	      /* look here first; 0: nowhere special */
	uint64_t deadline_ns; /* CLOCK_MONOTONIC */
	size_t n_hidden;      /* out: processes whose fds we may not see */
	bool is_cut;	      /* out: the deadline came before the end */
};

void fd_walk(struct fd_walk *walk, fd_walk_fn visit, void *userdata);

/* Those of one process. */
void fd_walk_process(pid_t pid, fd_walk_fn visit, void *userdata);
