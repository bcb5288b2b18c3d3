/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a run must give back. */
#include "inject/leaks.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "inject/live.h"

void leaks_remember(struct leaks *ret)
{
	DIR *folder = opendir("/proc/self/fd");
	const struct dirent *entry;

	memset(ret, 0, sizeof(*ret));
	while (folder && (entry = readdir(folder))) {
		int fd = atoi(entry->d_name);

		if (entry->d_name[0] == '.' || fd == dirfd(folder) || fd >= LEAKS_FDS)
			continue;
		if (readlinkat(dirfd(folder), entry->d_name, ret->fds[fd],
			       sizeof(ret->fds[fd]) - 1) < 0)
			strcpy(ret->fds[fd], "?");
	}
	if (folder)
		closedir(folder);
}

size_t leaks_report(const struct leaks *before)
{
	static struct leaks after;
	size_t n = 0;

	leaks_remember(&after);
	for (int fd = 0; fd < LEAKS_FDS; fd++) {
		if (strcmp(before->fds[fd], after.fds[fd]) == 0)
			continue;
		fprintf(stderr, "fd %d was '%s' and is '%s'\n", fd, before->fds[fd], after.fds[fd]);
		n++;
	}
	return n + live_report();
}
