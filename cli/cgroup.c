/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Control groups that hold a process back. */
#include "cgroup.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/units.h"
#include "kernel/procfs.h"

/* The group of @pid in one hierarchy; @controller NULL: the unified one. */
static bool find_level(pid_t pid, const char *controller, struct cgroup_level *ret)
{
	struct cgroup_tree tree;

	return cgroup_find_tree(controller, &tree) == 0 && cgroup_of_process(&tree, pid, ret) == 0;
}

static bool read_word(const char *folder, const char *file, char *ret, size_t n_ret)
{
	char path[CGROUP_FOLDER_BYTES + 64];

	snprintf(path, sizeof(path), "%s/%s", folder, file);
	if (procfs_read(path, ret, n_ret, NULL) < 0)
		return false;
	ret[strcspn(ret, "\n")] = '\0';
	return ret[0] != '\0';
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
		struct cgroup_level level;
		char word[64];

		if (!find_level(pid, hierarchies[i].controller, &level))
			continue;
		do {
			if (!read_word(level.folder, hierarchies[i].file, word, sizeof(word)) ||
			    strcmp(word, "1"))
				continue;
			*ret = (struct cgroup){ .is_v1 = i == 1 };
			strcpy(ret->folder, level.folder);
			return true;
		} while (cgroup_go_up(&level));
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
		struct cgroup_level level;

		if (!find_level(pid, hierarchies[i].controller, &level))
			continue;
		do {
			uint64_t left;

			if (!read_number(level.folder, hierarchies[i].limit, &cgroup.limit_bytes) ||
			    !read_number(level.folder, hierarchies[i].used, &cgroup.used_bytes) ||
			    cgroup.limit_bytes >= UINT64_C(1) << 62)
				continue;
			left = cgroup.limit_bytes - min_u64(cgroup.limit_bytes, cgroup.used_bytes);
			if (left < least) {
				least = left;
				*ret = cgroup;
				strcpy(ret->folder, level.folder);
			}
		} while (cgroup_go_up(&level));
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
