/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An image that is being written: its file, and what the next index will say. Context of all: bulk.
 */
#pragma once

#include <stdint.h>

#include "image/image-frames.h"
#include "image/image-map.h"
#include "image/image-stream.h"

/* Embedded in the writer, which fills it; zero to begin with. */
struct image_draft {
	struct image_stream stream;
	uint8_t parent[IMAGE_DIGEST_BYTES];
	char *hint;	     /* owned; NULL: no parent */
	uint64_t generation; /* of the last commit */
	struct image_map maps[IMAGE_MAX_MEMORIES];
	uint32_t n_maps;
	struct image_frames frames;
};

void image_draft_done(struct image_draft *draft);

/* As image_writer_commit(): index, sync, footer, sync. Blocks, allocates. Return: 0, -errno. */
int image_draft_commit(struct image_draft *draft, uint8_t ret_digest[IMAGE_DIGEST_BYTES]);
