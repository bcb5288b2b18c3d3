/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The frames that a writer has written, with their checksums. Context of all: bulk; allocates. */
#pragma once

#include <stdint.h>

#include "image/format.h"

/* Embedded; readable. */
struct image_frames {
	struct image_frame_entry *frames; /* owned */
	uint64_t *checksums;		  /* owned */
	uint64_t n_frames, n_checksums, room_frames, room_checksums;
};

/* Make room for one more frame of any kind. Return: 0, -EFBIG, -ENOMEM. */
int image_frames_reserve(struct image_frames *frames);

/*
 * After image_frames_reserve(). @bytes: as stored; @frame->first_checksum is set. Return: its
 * number.
 */
uint32_t image_frames_add(struct image_frames *frames, const struct image_frame_entry *frame,
			  const void *bytes);
void image_frames_done(struct image_frames *frames);

static inline uint32_t image_frame_n_checksums(const struct image_frame_entry *frame)
{
	return frame->codec == IMAGE_RAW ? frame->n_blocks : 1;
}
