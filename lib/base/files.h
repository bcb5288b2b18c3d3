/* SPDX-License-Identifier: MIT */
/* Open files as owned locals, and what is done with all of them; beside cleanup.h, which knows no streams. */
#pragma once

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "base/cleanup.h"

static inline void fclosep(FILE **file)
{
	if (*file)
		fclose(*file);
}

static inline void closedirp(DIR **directory)
{
	if (*directory)
		closedir(*directory);
}

/*
 * A second fd of the same open file, O_CLOEXEC and none of the standard three: a copy that a caller
 * closed stdin for must not become it. Return: 0, -EBADF also for "no fd", other -errno.
 */
static inline int fd_duplicate(int *ret_fd, int fd)
{
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);

	if (copy < 0)
		return -errno;
	*ret_fd = copy;
	return 0;
}

/* Each of @n_bytes, however many calls that takes. Context: blocks. Return: 0 or -errno. */
static inline int fd_write_all(int fd, const void *bytes, size_t n_bytes)
{
	const char *from = bytes;

	while (n_bytes > 0) {
		ssize_t n = write(fd, from, n_bytes);

		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0) {
			from += n;
			n_bytes -= (size_t)n;
		}
	}
	return 0;
}
