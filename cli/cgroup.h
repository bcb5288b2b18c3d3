/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The control group that holds a process back: frozen, or at its memory limit. Both hierarchies. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "kernel/cgroup.h"

/* Readable. */
struct cgroup {
	char folder[CGROUP_FOLDER_BYTES]; /* of the level that holds it back, as we see it */
	bool is_v1;
	uint64_t limit_bytes; /* of memory */
	uint64_t used_bytes;
};

/* Is it frozen, and at which level? */
bool cgroup_find_frozen(pid_t pid, struct cgroup *ret);

/* The level that has the least memory left. Return: false if there is no limit, or none is seen. */
bool cgroup_find_memory(pid_t pid, struct cgroup *ret);

/* The command that lets it go on. */
void cgroup_thaw_command(const struct cgroup *cgroup, char *ret, size_t n_ret);

/* The command that gives it @more_bytes; systemd's own groups are changed through systemd. */
void cgroup_memory_command(const struct cgroup *cgroup, uint64_t more_bytes, char *ret,
			   size_t n_ret);
