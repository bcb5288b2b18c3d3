/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reads all that an image has, and says what is broken. */
#pragma once

#include <stdint.h>

#include "image/image-reader.h"

/* Readable. Callbacks may be NULL. */
struct image_verify {
	/* Blocks of @memory whose bytes cannot be had; @why names file and offset. */
	void (*on_broken)(void *userdata, uint32_t memory, uint64_t offset_bytes,
			  uint64_t length_bytes, const char *why);
	void (*on_progress)(void *userdata, uint64_t done_bytes, uint64_t total_bytes);
	void *userdata;
	uint64_t n_read_bytes; /* set: of the memories, unpacked */
	uint64_t n_broken_bytes;
};

/*
 * Each page of each memory, through the chain. Context: any; blocks. Return: 0 (also if something
 * is broken), -ENOMEM.
 */
int image_verify(struct image *image, struct image_verify *verify);
