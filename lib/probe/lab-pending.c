/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the kernel says of a uffd in its fdinfo. */
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
