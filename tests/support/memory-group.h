/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A memory control group with a limit, for processes of a test. */
#pragma once

#include <stdint.h>
#include <sys/types.h>

/* Readable. */
struct memory_group {
	char folder[1200];
	int is_v1;
};

/* Return: 0, or -errno where no such group can be made (skip). Ends with memory_group_remove(). */
int memory_group_make(struct memory_group *ret, uint64_t limit_bytes);
void memory_group_limit(const struct memory_group *group, uint64_t limit_bytes);
void memory_group_enter(const struct memory_group *group, pid_t pid);
uint64_t memory_group_usage(const struct memory_group *group);
/* Its processes have ended. */
void memory_group_remove(const struct memory_group *group);
