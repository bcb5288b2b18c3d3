/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The sparse image that a toy VMM is restored from. */
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "support/pattern.h"

/* Return: 0 or -errno. */
static inline int toy_image_write(const char *path, uint64_t seed, uint64_t length_bytes)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600), r = 0;
	char block[PATTERN_BLOCK_BYTES];

	if (fd < 0 || ftruncate(fd, (off_t)length_bytes) < 0)
		r = -errno;
	for (uint64_t i = 0; r == 0 && i < length_bytes / sizeof(block); i++) {
		if (pattern_is_zero(seed, i))
			continue;
		pattern_write(block, seed, i, 0);
		if (pwrite(fd, block, sizeof(block), (off_t)(i * sizeof(block))) < 0)
			r = -errno;
	}
	if (fd >= 0)
		close(fd);
	return r;
}
