/* SPDX-License-Identifier: MIT */
/*
 * How much memory a process's control groups still leave it.
 *
 * A page that is put into a process by UFFDIO_COPY is charged to that process's memory control
 * group, not to ours; at the limit the kernel kills in that group. The kernel tells nobody
 * beforehand, so who fills has to look. Both hierarchies are understood: the memory controller is
 * either on a mount of its own (version 1) or in the unified one.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "kernel/cgroup.h"

/* Readable. The narrowest level from the process's group up to the top. UINT64_MAX: no limit. */
struct memcg_room {
	uint64_t easy_bytes;  /* until the kernel throttles the group or has to swap for it */
	uint64_t hard_bytes;  /* until it kills */
	uint64_t limit_bytes; /* of the level that is narrowest */
	uint64_t group;	      /* tells that level from others; 0 without a limit */
};

/* The hierarchy that has the memory controller. Context: any; reads /proc. Return: as cgroup_find_tree(). */
int memcg_find_tree(struct cgroup_tree *ret);

/*
 * What the kernel can take back without harm (clean and dirty file pages; for the hard limit swap,
 * too) counts as room. Groups outside our own cgroup namespace are not seen: no limit.
 * Context: any; reads a few small files for each level. Return: 0, -ESRCH, -errno.
 */
int memcg_room_of_process(const struct cgroup_tree *tree, pid_t pid, struct memcg_room *ret);

/* The same from the text of a process's cgroup file. Context, Return: as above. */
int memcg_room_of_member(const struct cgroup_tree *tree, const char *membership,
			 struct memcg_room *ret);
