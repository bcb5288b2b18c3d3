/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The bytes of a paused machine's memory, into a file with holes for its zeros. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* Embedded. */
struct copy {
	int from; /* both borrowed; sizes do not change */
	uint64_t from_offset;
	int to; /* from its first byte on */
	uint64_t length_bytes;
	bool (*is_cancelled)(void *userdata); /* NULL: nobody ends it */
	void *userdata;
};

/*
 * @ret_bytes: that were no zeros. Context: job; blocks. Return: 0, -ENODATA (@from is shorter than it was
 * said to be), -ECANCELED, -errno.
 */
int copy_run(const struct copy *copy, uint64_t *ret_bytes);

/* Over what is there. Zeros become holes, where the file system can. Return: 0 or -errno. */
int copy_put(int to, uint64_t offset, const void *bytes, uint64_t n_bytes, uint64_t *ret_bytes);
