/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A memory control group. */
#include "support/memory-group.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "kernel/memcg.h"

static int write_number(const struct memory_group *group, const char *name, uint64_t value)
{
	char path[1300], text[32];
	_cleanup_(closep) int fd = -EBADF;
	int n = snprintf(text, sizeof(text), "%" PRIu64, value);

	snprintf(path, sizeof(path), "%s/%s", group->folder, name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	return fd < 0 || write(fd, text, (size_t)n) != n ? -errno : 0;
}

static int set_limit(const struct memory_group *group, uint64_t limit_bytes)
{
	return write_number(group, group->is_v1 ? "memory.limit_in_bytes" : "memory.max",
			    limit_bytes);
}

int memory_group_make(struct memory_group *ret, uint64_t limit_bytes)
{
	struct memory_group group;
	struct cgroup_tree tree;
	int r = memcg_find_tree(&tree);

	if (r < 0 || !tree.folder[0])
		return r < 0 ? r : -ENOTSUP;
	group.is_v1 = tree.controller != NULL;
	snprintf(group.folder, sizeof(group.folder), "%s/ufd-test-%d", tree.folder, getpid());
	if (mkdir(group.folder, 0755) < 0)
		return -errno;
	r = set_limit(&group, limit_bytes);
	if (r < 0) {
		rmdir(group.folder);
		return r;
	}
	*ret = group;
	return 0;
}

void memory_group_limit(const struct memory_group *group, uint64_t limit_bytes)
{
	if (set_limit(group, limit_bytes) < 0)
		abort();
}

void memory_group_enter(const struct memory_group *group, pid_t pid)
{
	if (write_number(group, "cgroup.procs", (uint64_t)pid) < 0)
		abort();
}

uint64_t memory_group_usage(const struct memory_group *group)
{
	char path[1300], text[64] = "";
	_cleanup_(closep) int fd = -EBADF;

	snprintf(path, sizeof(path), "%s/%s", group->folder,
		 group->is_v1 ? "memory.usage_in_bytes" : "memory.current");
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0)
		abort();
	return strtoull(text, NULL, 10);
}

void memory_group_remove(const struct memory_group *group)
{
	/* a process leaves its group a moment after it was reaped */
	for (int i = 0; i < 2000 && rmdir(group->folder) < 0 && errno == EBUSY; i++)
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
}
