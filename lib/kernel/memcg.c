/* SPDX-License-Identifier: MIT */
/* Memory control groups. */
#include "kernel/memcg.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "base/files.h"
#include "base/units.h"

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

/* ---- where it is ---- */

static bool has_word(const char *list, const char *word)
{
	size_t n = strlen(word);

	for (const char *at = list; (at = strstr(at, word)); at += n)
		if ((at == list || at[-1] == ',') && (at[n] == ',' || !isgraph(at[n])))
			return true;
	return false;
}

/* "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory" */
static bool parse_mount(const char *line, struct memcg_tree *ret)
{
	const char *rest = strstr(line, " - ");
	char kind[32], options[512];

	if (!rest || sscanf(rest, " - %31s %*s %511s", kind, options) != 2)
		return false;
	ret->is_v1 = strcmp(kind, "cgroup") == 0;
	if (ret->is_v1 ? !has_word(options, "memory") : strcmp(kind, "cgroup2") != 0)
		return false;
	if (sscanf(line, "%*s %*s %*s %1023s %1023s", ret->prefix, ret->folder) != 2)
		return false;
	if (strcmp(ret->prefix, "/") == 0)
		ret->prefix[0] = '\0';
	return true;
}

int memcg_find_tree(struct memcg_tree *ret)
{
	_cleanup_(fclosep) FILE *file = fopen("/proc/self/mountinfo", "re");
	struct memcg_tree found = {}, one;
	char line[4096];

	if (!file)
		return -errno;
	/* where version 1 has the controller, the unified hierarchy has it not */
	while (!found.is_v1 && fgets(line, sizeof(line), file))
		if (parse_mount(line, &one) && (one.is_v1 || !found.folder[0]))
			found = one;
	*ret = found;
	return 0;
}

/* ---- one level ---- */

static int read_text(const char *path, char *text, size_t n_text)
{
	_cleanup_(closep) int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t n = 0;
	ssize_t r = fd < 0 ? -1 : 1;

	while (r > 0 && n + 1 < n_text) {
		r = read(fd, text + n, n_text - 1 - n);
		n += r > 0 ? (size_t)r : 0;
	}
	if (r < 0)
		return -errno;
	text[n] = '\0';
	return 0;
}

/* @value if the file is not there, or says that there is no limit. */
static uint64_t read_number(const char *folder, const char *name, uint64_t value)
{
	char path[MEMCG_PATH_BYTES * 2 + 64], text[64];
	uint64_t read;

	if (!name)
		return value;
	snprintf(path, sizeof(path), "%s/%s", folder, name);
	if (read_text(path, text, sizeof(text)) < 0 || !isdigit((unsigned char)text[0]))
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
	char path[MEMCG_PATH_BYTES * 2 + 64], text[8192];

	snprintf(path, sizeof(path), "%s/memory.stat", folder);
	if (read_text(path, text, sizeof(text)) < 0)
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

/* "4:memory:/a/b" or "0::/a/b": the group's path in our tree. False: it is not in it. */
static bool parse_membership(const struct memcg_tree *tree, const char *text, char *ret,
			     size_t n_ret)
{
	size_t n_prefix = strlen(tree->prefix);

	for (const char *line = text; line; line = strchr(line, '\n'), line += line != NULL) {
		char controllers[256] = "", path[MEMCG_PATH_BYTES];
		const char *rest = strchr(line, ':');

		if (!rest || (sscanf(rest, ":%255[^:]:%1023[^\n]", controllers, path) != 2 &&
			      sscanf(rest, "::%1023[^\n]", path) != 1))
			continue;
		if (tree->is_v1 ? !has_word(controllers, "memory") : controllers[0] != '\0')
			continue;
		if (strncmp(path, tree->prefix, n_prefix) != 0 || strncmp(path, "/..", 3) == 0 ||
		    (n_prefix && path[n_prefix] && path[n_prefix] != '/'))
			return false;
		snprintf(ret, n_ret, "%s", path + n_prefix);
		return true;
	}
	return false;
}

int memcg_room_of_member(const struct memcg_tree *tree, const char *membership,
			 struct memcg_room *ret)
{
	struct memcg_room room = { UINT64_MAX, UINT64_MAX, UINT64_MAX, 0 };
	char path[MEMCG_PATH_BYTES], folder[MEMCG_PATH_BYTES * 2];

	if (tree->folder[0] && parse_membership(tree, membership, path, sizeof(path)))
		for (char *end = path + strlen(path); end; end = strrchr(path, '/')) {
			*end = '\0';
			snprintf(folder, sizeof(folder), "%s%s", tree->folder, path);
			look_at_level(folder, tree->is_v1 ? &files_v1 : &files_v2, &room);
		}
	*ret = room;
	return 0;
}

int memcg_room_of_process(const struct memcg_tree *tree, pid_t pid, struct memcg_room *ret)
{
	char path[48], text[8192];
	int r;

	snprintf(path, sizeof(path), "/proc/%d/cgroup", (int)pid);
	r = read_text(path, text, sizeof(text));
	if (r == -ENOENT)
		return -ESRCH;
	return r < 0 ? r : memcg_room_of_member(tree, text, ret);
}
