/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What an image consists of, for people. Nothing is read. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "image/image-reader.h"

/* Readable. One file of the chain. */
struct image_layer_info {
	const char *path; /* the image's, valid while it is */
	uint8_t digest[IMAGE_DIGEST_BYTES];
	bool is_flat; /* of another format: no digest, no frames */
	uint64_t generation;
	int64_t created_s;
	uint64_t file_bytes;  /* up to the end of its last commit */
	uint64_t index_bytes; /* in memory */
	uint64_t n_frames[3]; /* by enum image_codec */
	uint64_t stored_bytes[3];
	uint64_t unpacked_bytes[3];
};

uint32_t image_n_layers(const struct image *image);
void image_get_layer(const struct image *image, uint32_t layer, struct image_layer_info *ret);

/* Readable. Of one memory, through the chain. */
struct image_content {
	uint64_t data_bytes, zero_bytes, absent_bytes;
};

void image_get_content(const struct image *image, uint32_t memory, struct image_content *ret);
