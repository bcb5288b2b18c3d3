/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Control groups, read as files. */
#include "cgroup.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/units.h"
#include "process.h"

#define TEXT_BYTES 65536

/* ---- where a process is ---------------------------------------------------------------------- */

/* Is @word one of the comma-separated words of @list? */
static bool has_word(const char *list, const char *word)
{
	size_t n = strlen(word);

	for (const char *at = list; at; at = strchr(at, ',')) {
		at += *at == ',';
		if (strncmp(at, word, n) == 0 && (at[n] == ',' || at[n] == '\0'))
			return true;
	}
	return false;
}

/*
 * Mount point and root of the hierarchy that has @controller (NULL: the unified one).
 * A line: ID PARENT DEVICE ROOT POINT OPTIONS [TAG...] - TYPE SOURCE SUPEROPTIONS
 */
static bool find_mount(char *mounts, const char *controller, const char **ret_root,
		       const char **ret_point)
{
	char *rest = mounts, *line;

	while ((line = strsep(&rest, "\n"))) {
		char *tail = strstr(line, " - "), *root, *type, *options;

		if (!tail)
			continue;
		*tail = '\0';
		tail += 3;
		type = strsep(&tail, " ");
		strsep(&tail, " ");
		options = tail;
		if (strcmp(type, controller ? "cgroup" : "cgroup2") ||
		    (controller && (!options || !has_word(options, controller))))
			continue;
		for (int i = 0; i < 3; i++)
			strsep(&line, " ");
		root = strsep(&line, " ");
		*ret_root = root;
		*ret_point = strsep(&line, " ");
		return *ret_point != NULL;
	}
	return false;
}

/* Lines: NUMBER:CONTROLLERS:PATH; the unified one is 0::PATH. */
static char *find_membership(char *text, const char *controller)
{
	char *rest = text, *line;

	while ((line = strsep(&rest, "\n"))) {
		char *controllers = strchr(line, ':');
		char *path = controllers ? strchr(controllers + 1, ':') : NULL;

		if (!path)
			continue;
		*path++ = '\0';
		controllers++;
		if (controller ? has_word(controllers, controller) : controllers[0] == '\0')
			return path;
	}
	return NULL;
}

/* The folder of @pid's group in one hierarchy, and how long its mount point's part is. */
static bool find_folder(pid_t pid, const char *controller, char folder[1024], size_t *ret_n_top)
{
	_cleanup_(freep) char *mounts = malloc(TEXT_BYTES), *text = malloc(TEXT_BYTES);
	const char *root, *point, *path;
	size_t n_root;
	char name[64];

	snprintf(name, sizeof(name), "/proc/%d/cgroup", pid);
	if (!mounts || !text ||
	    process_read_text("/proc/self/mountinfo", mounts, TEXT_BYTES) <= 0 ||
	    process_read_text(name, text, TEXT_BYTES) <= 0 ||
	    !find_mount(mounts, controller, &root, &point))
		return false;
	path = find_membership(text, controller);
	if (!path || strncmp(path, "/..", 3) == 0)
		return false; /* outside what we may see */
	n_root = strlen(root);
	if (n_root > 1 && strncmp(path, root, n_root) == 0)
		path += n_root;
	*ret_n_top = strlen(point);
	return snprintf(folder, 1024, "%s%s", point, strcmp(path, "/") ? path : "") < 1024;
}

/* One level up. Return: false at the top. */
static bool go_up(char *folder, size_t n_top)
{
	char *slash = strrchr(folder, '/');

	if (!slash || (size_t)(slash - folder) < n_top)
		return false;
	*slash = '\0';
	return true;
}

static bool read_word(const char *folder, const char *file, char *ret, size_t n_ret)
{
	char path[1280];

	snprintf(path, sizeof(path), "%s/%s", folder, file);
	if (process_read_text(path, ret, n_ret) <= 0)
		return false;
	ret[strcspn(ret, "\n")] = '\0';
	return true;
}

/* ---- frozen ---------------------------------------------------------------------------------- */

bool cgroup_find_frozen(pid_t pid, struct cgroup *ret)
{
	static const struct {
		const char *controller, *file;
	} hierarchies[] = {
		{ NULL, "cgroup.freeze" },
		{ "freezer", "freezer.self_freezing" },
	};

	for (size_t i = 0; i < 2; i++) {
		struct cgroup cgroup = { .is_v1 = i == 1 };
		char word[64];
		size_t n_top;

		if (!find_folder(pid, hierarchies[i].controller, cgroup.folder, &n_top))
			continue;
		do {
			if (!read_word(cgroup.folder, hierarchies[i].file, word, sizeof(word)) ||
			    strcmp(word, "1"))
				continue;
			*ret = cgroup;
			return true;
		} while (go_up(cgroup.folder, n_top));
	}
	return false;
}

void cgroup_thaw_command(const struct cgroup *cgroup, char *ret, size_t n_ret)
{
	if (cgroup->is_v1)
		snprintf(ret, n_ret, "echo THAWED >'%s/freezer.state'", cgroup->folder);
	else
		snprintf(ret, n_ret, "echo 0 >'%s/cgroup.freeze'", cgroup->folder);
}

/* ---- memory ---------------------------------------------------------------------------------- */

static bool read_number(const char *folder, const char *file, uint64_t *ret)
{
	char word[64], *end;

	if (!read_word(folder, file, word, sizeof(word)))
		return false;
	*ret = strtoull(word, &end, 10);
	return end != word; /* "max" is no number */
}

bool cgroup_find_memory(pid_t pid, struct cgroup *ret)
{
	static const struct {
		const char *controller, *limit, *used;
	} hierarchies[] = {
		{ NULL, "memory.max", "memory.current" },
		{ "memory", "memory.limit_in_bytes", "memory.usage_in_bytes" },
	};
	uint64_t least = UINT64_MAX;

	for (size_t i = 0; i < 2; i++) {
		struct cgroup cgroup = { .is_v1 = i == 1 };
		size_t n_top;

		if (!find_folder(pid, hierarchies[i].controller, cgroup.folder, &n_top))
			continue;
		do {
			uint64_t left;

			if (!read_number(cgroup.folder, hierarchies[i].limit,
					 &cgroup.limit_bytes) ||
			    !read_number(cgroup.folder, hierarchies[i].used, &cgroup.used_bytes) ||
			    cgroup.limit_bytes >= UINT64_C(1) << 62)
				continue;
			left = cgroup.limit_bytes - min_u64(cgroup.limit_bytes, cgroup.used_bytes);
			if (left < least) {
				least = left;
				*ret = cgroup;
			}
		} while (go_up(cgroup.folder, n_top));
	}
	return least != UINT64_MAX;
}

void cgroup_memory_command(const struct cgroup *cgroup, uint64_t more_bytes, char *ret,
			   size_t n_ret)
{
	const char *name = strrchr(cgroup->folder, '/');
	const char *suffix = name ? strrchr(name, '.') : NULL;
	uint64_t bytes = align_up(cgroup->limit_bytes + more_bytes, MIB);
	bool is_unit = suffix && (strcmp(suffix, ".service") == 0 ||
				  strcmp(suffix, ".scope") == 0 || strcmp(suffix, ".slice") == 0);

	if (is_unit && access("/run/systemd/system", F_OK) == 0)
		snprintf(ret, n_ret, "systemctl set-property --runtime '%s' MemoryMax=%lu",
			 name + 1, bytes);
	else
		snprintf(ret, n_ret, "echo %lu >'%s/%s'", bytes, cgroup->folder,
			 cgroup->is_v1 ? "memory.limit_in_bytes" : "memory.max");
}
