/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The saved memory that all arms restore: a file without a name, cached by the host. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define BLOCK_BYTES UINT64_C(4096)

/* Readable. */
struct image {
	int fd;
	uint64_t length_bytes;
	const unsigned char *bytes; /* mapped */
	uint64_t *checksums;	    /* of each block */
};

/* Incompressible bytes in a file in @folder; no block is zero, no two are the same. */
void image_new(struct image *image, const char *folder, uint64_t length_bytes);

/* Does the memory at @at hold block @block? */
bool image_block_is_at(const struct image *image, uint64_t block, const void *at);
