/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What /proc says of a uffd and of a thread. */
#include "probe/lab.h"

#include <stdio.h>

unsigned int lab_pending(struct probe_run *run, int uffd, unsigned int *ret_total)
{
	unsigned int pending = 0, total = 0;
	char path[64], line[128];
	FILE *file;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", uffd);
	file = fopen(path, "re");
	probe_must(run, file, "fopen() of fdinfo");
	while (fgets(line, sizeof(line), file)) {
		(void)sscanf(line, "pending: %u", &pending);
		(void)sscanf(line, "total: %u", &total);
	}
	fclose(file);
	if (ret_total)
		*ret_total = total;
	return pending;
}

bool lab_sleeps(const struct lab_thread *thread)
{
	char path[64], line[512] = "";
	const char *state;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", lab_thread_id(thread));
	file = fopen(path, "re");
	if (!file)
		return false; /* it has ended */
	if (!fgets(line, sizeof(line), file))
		line[0] = '\0'; /* it has ended just now */
	fclose(file);
	state = strrchr(line, ')'); /* the name before it may hold anything */
	return state && !strncmp(state, ") S", 3);
}
