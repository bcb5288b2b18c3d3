/* SPDX-License-Identifier: MIT */
/* Memory control groups. */
#include "kernel/memcg.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>

#include "base/units.h"
#include "kernel/procfs.h"

/* Version 1 says "no limit" by the largest number of whole pages; nobody means such a number. */
#define NO_LIMIT (UINT64_C(1) << 62)

/* The names of one hierarchy's files. */
struct memcg_files {
	const char *limit, *throttle, *usage, *swap_limit, *swap_usage;
	const char *inactive_file, *active_file; /* keys of memory.stat, children included */
};

static const struct memcg_files files_v1 = {
	.limit = "memory.limit_in_bytes",
	.usage = "memory.usage_in_bytes",
	.swap_limit = "memory.memsw.limit_in_bytes",
	.swap_usage = "memory.memsw.usage_in_bytes",
	.inactive_file = "total_inactive_file ",
	.active_file = "total_active_file ",
};
static const struct memcg_files files_v2 = {
	.limit = "memory.max",
	.throttle = "memory.high",
	.usage = "memory.current",
	.swap_limit = "memory.swap.max",
	.swap_usage = "memory.swap.current",
	.inactive_file = "inactive_file ",
	.active_file = "active_file ",
};

/* ---- one level ---- */

/* @value if the file is not there, or says that there is no limit. */
static uint64_t read_number(const char *folder, const char *name, uint64_t value)
{
	char path[CGROUP_FOLDER_BYTES + 64], text[64];
	uint64_t read;

	if (!name)
		return value;
	snprintf(path, sizeof(path), "%s/%s", folder, name);
	if (procfs_read(path, text, sizeof(text), NULL) < 0 || !isdigit((unsigned char)text[0]))
		return value;
	read = strtoull(text, NULL, 10);
	return read < NO_LIMIT ? read : value;
}

static uint64_t less(uint64_t limit, uint64_t used)
{
	return limit > used ? limit - used : 0;
}

static uint64_t stat_value(const char *text, const char *key)
{
	size_t n = strlen(key);

	for (const char *line = text; line; line = strchr(line, '\n'), line += line != NULL)
		if (strncmp(line, key, n) == 0)
			return strtoull(line + n, NULL, 10);
	return 0;
}

/* File pages are written back and dropped; those of shmem are on other lists and do not count. */
static uint64_t cache_bytes(const char *folder, const struct memcg_files *files)
{
	char path[CGROUP_FOLDER_BYTES + 64], text[8192];

	snprintf(path, sizeof(path), "%s/memory.stat", folder);
	if (procfs_read(path, text, sizeof(text), NULL) < 0)
		return 0;
	return stat_value(text, files->inactive_file) + stat_value(text, files->active_file);
}

static uint64_t swap_bytes(const char *folder, const struct memcg_files *files)
{
	uint64_t limit = read_number(folder, files->swap_limit, UINT64_MAX), host_bytes;
	struct sysinfo host;

	if (sysinfo(&host) < 0)
		return 0;
	host_bytes = (uint64_t)host.freeswap * host.mem_unit;
	if (limit == UINT64_MAX || !host_bytes)
		return host_bytes;
	return min_u64(host_bytes, less(limit, read_number(folder, files->swap_usage, limit)));
}

static uint64_t hash_of(const char *text)
{
	uint64_t hash = UINT64_C(0xcbf29ce484222325);

	for (; *text; text++)
		hash = (hash ^ (unsigned char)*text) * UINT64_C(0x100000001b3);
	return hash | 1;
}

static void look_at_level(const char *folder, const struct memcg_files *files,
			  struct memcg_room *room)
{
	uint64_t limit = read_number(folder, files->limit, UINT64_MAX);
	uint64_t throttle = min_u64(limit, read_number(folder, files->throttle, UINT64_MAX));
	uint64_t used, hard = UINT64_MAX, easy;

	if (throttle == UINT64_MAX)
		return;
	used = less(read_number(folder, files->usage, 0), cache_bytes(folder, files));
	easy = less(throttle, used);
	if (limit != UINT64_MAX)
		hard = less(limit, used) + swap_bytes(folder, files);
	if (easy < room->easy_bytes) {
		room->limit_bytes = throttle;
		room->group = hash_of(folder);
	}
	room->easy_bytes = min_u64(room->easy_bytes, easy);
	room->hard_bytes = min_u64(room->hard_bytes, hard);
}

/* ---- the levels of a process ---- */

int memcg_find_tree(struct cgroup_tree *ret)
{
	int r = cgroup_find_tree("memory", ret);

	/* where version 1 has the controller, the unified hierarchy has it not */
	return r < 0 || ret->folder[0] ? r : cgroup_find_tree(NULL, ret);
}

/* Of @level, which is used up, and all above it. */
static void look_at_levels(const struct cgroup_tree *tree, struct cgroup_level *level,
			   struct memcg_room *room)
{
	do {
		look_at_level(level->folder, tree->controller ? &files_v1 : &files_v2, room);
	} while (cgroup_go_up(level));
}

static const struct memcg_room no_limit = { UINT64_MAX, UINT64_MAX, UINT64_MAX, 0 };

int memcg_room_of_member(const struct cgroup_tree *tree, const char *membership,
			 struct memcg_room *ret)
{
	struct cgroup_level level;

	*ret = no_limit;
	if (cgroup_of_member(tree, membership, &level) == 0)
		look_at_levels(tree, &level, ret);
	return 0;
}

int memcg_room_of_process(const struct cgroup_tree *tree, pid_t pid, struct memcg_room *ret)
{
	struct cgroup_level level;
	int r = cgroup_of_process(tree, pid, &level);

	if (r < 0 && r != -ENOENT)
		return r;
	*ret = no_limit;
	if (r == 0)
		look_at_levels(tree, &level, ret);
	return 0;
}
