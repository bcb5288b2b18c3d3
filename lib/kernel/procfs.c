/* SPDX-License-Identifier: MIT */
/* Small files of /proc and /sys, as text. */
#include "kernel/procfs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"

int procfs_read(const char *path, char *ret, size_t n_bytes, size_t *ret_n)
{
	_cleanup_(closep) int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t n_done = 0;
	ssize_t n = fd < 0 ? -1 : 1;

	ret[0] = '\0';
	while (n > 0 && n_done < n_bytes - 1) {
		n = read(fd, ret + n_done, n_bytes - 1 - n_done);
		n_done += n > 0 ? (size_t)n : 0;
	}
	if (n < 0)
		return -errno;
	ret[n_done] = '\0';
	if (ret_n)
		*ret_n = n_done;
	return 0;
}

bool procfs_find_number(const char *text, const char *key, uint64_t *ret)
{
	size_t n_key = strlen(key);

	for (const char *line = text; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (strncmp(line, key, n_key) || line[n_key] != ':')
			continue;
		*ret = strtoull(line + n_key + 1, NULL, 10);
		return true;
	}
	return false;
}
