/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What is different between two memories. */
#pragma once

#include <stdint.h>

#include "image/image-reader.h"

/*
 * In blocks of 4 KiB, runs as long as they are; what only one of them has counts as different
 * unless it is zero. @data: what the second one holds there, or NULL if it is zero or does not
 * reach so far; @n_blocks of it, 64 at most.
 * Return: 0 to go on, else image_diff() returns it.
 */
typedef int (*image_diff_fn)(void *userdata, uint64_t first_block, uint64_t n_blocks,
			     const void *data);

/**
 * image_diff() - compare memory @a_memory of @a with @b_memory of @b
 *
 * Blocks that lie in the same frame of the same file are not read. Context: any; blocks. Return: 0,
 * what @on_run said, -ENOMEM, or an error of image_read_pages().
 */
int image_diff(struct image *a, uint32_t a_memory, struct image *b, uint32_t b_memory,
	       image_diff_fn on_run, void *userdata, const char **ret_error);
