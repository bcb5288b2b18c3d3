/* SPDX-License-Identifier: MIT */
/* Control groups: hierarchies, and where in them a process is. */
#include "kernel/cgroup.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/files.h"
#include "kernel/procfs.h"

/* Is @word one of the comma-separated words that @list begins with? */
static bool has_word(const char *list, const char *word)
{
	size_t n = strlen(word);

	for (const char *at = list; (at = strstr(at, word)); at += n)
		if ((at == list || at[-1] == ',') && (at[n] == ',' || !isgraph(at[n])))
			return true;
	return false;
}

/* "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory" */
static bool parse_mount(const char *line, struct cgroup_tree *tree)
{
	const char *rest = strstr(line, " - ");
	char kind[32], options[512];

	if (!rest || sscanf(rest, " - %31s %*s %511s", kind, options) != 2)
		return false;
	if (tree->controller ? strcmp(kind, "cgroup") || !has_word(options, tree->controller)
			     : strcmp(kind, "cgroup2") != 0)
		return false;
	if (sscanf(line, "%*s %*s %*s %1023s %1023s", tree->prefix, tree->folder) != 2)
		return false;
	if (strcmp(tree->prefix, "/") == 0)
		tree->prefix[0] = '\0';
	return true;
}

int cgroup_find_tree(const char *controller, struct cgroup_tree *ret)
{
	_cleanup_(fclosep) FILE *file = fopen("/proc/self/mountinfo", "re");
	struct cgroup_tree found = { .controller = controller };
	char line[4096];

	if (!file)
		return -errno;
	while (fgets(line, sizeof(line), file))
		if (parse_mount(line, &found))
			break;
	*ret = found;
	return 0;
}

/* "4:memory:/a/b" or "0::/a/b": the group's path in @tree. */
static bool parse_membership(const struct cgroup_tree *tree, const char *text,
			     char ret[static CGROUP_PATH_BYTES])
{
	size_t n_prefix = strlen(tree->prefix);

	for (const char *line = text; line; line = strchr(line, '\n'), line += line != NULL) {
		char controllers[256] = "", path[CGROUP_PATH_BYTES];
		const char *rest = strchr(line, ':');

		if (!rest || (sscanf(rest, ":%255[^:]:%1023[^\n]", controllers, path) != 2 &&
			      sscanf(rest, "::%1023[^\n]", path) != 1))
			continue;
		if (tree->controller ? !has_word(controllers, tree->controller)
				     : controllers[0] != '\0')
			continue;
		if (strncmp(path, tree->prefix, n_prefix) != 0 || strncmp(path, "/..", 3) == 0 ||
		    (n_prefix && path[n_prefix] && path[n_prefix] != '/'))
			return false;
		strcpy(ret, strcmp(path + n_prefix, "/") ? path + n_prefix : "");
		return true;
	}
	return false;
}

int cgroup_of_member(const struct cgroup_tree *tree, const char *membership,
		     struct cgroup_level *ret)
{
	char path[CGROUP_PATH_BYTES];

	if (!tree->folder[0] || !parse_membership(tree, membership, path))
		return -ENOENT;
	ret->n_top = strlen(tree->folder);
	snprintf(ret->folder, sizeof(ret->folder), "%s%s", tree->folder, path);
	return 0;
}

int cgroup_of_process(const struct cgroup_tree *tree, pid_t pid, struct cgroup_level *ret)
{
	char path[48], text[8192];
	int r;

	snprintf(path, sizeof(path), "/proc/%d/cgroup", (int)pid);
	r = procfs_read(path, text, sizeof(text), NULL);
	if (r < 0)
		return r == -ENOENT ? -ESRCH : r;
	return cgroup_of_member(tree, text, ret);
}

bool cgroup_go_up(struct cgroup_level *level)
{
	char *slash = strrchr(level->folder, '/');

	if (!slash || (size_t)(slash - level->folder) < level->n_top)
		return false;
	*slash = '\0';
	return true;
}
