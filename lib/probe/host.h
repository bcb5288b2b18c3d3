/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Facts of the host that are text or numbers in small files. */
#pragma once

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "kernel/procfs.h"

/* The first line of a file. Return: 0 or -errno. */
static inline int host_read_line(const char *path, char *ret, size_t n_ret)
{
	int r = procfs_read(path, ret, n_ret, NULL);

	if (r == 0)
		ret[strcspn(ret, "\n")] = '\0';
	return r;
}

/* The number that a file begins with. Return: 0, -EINVAL without one, other -errno. */
static inline int host_read_number(const char *path, int64_t *ret)
{
	char line[64], *end;
	int r = host_read_line(path, line, sizeof(line));
	long long number;

	if (r)
		return r;
	number = strtoll(line, &end, 10);
	if (end == line)
		return -EINVAL;
	*ret = number;
	return 0;
}
