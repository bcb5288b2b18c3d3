/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The frames of a writer. */
#include "image/image-frames.h"

#include <errno.h>
#include <stdlib.h>
#include <xxhash.h>

#include "base/units.h"
#include "image/image-map.h"

int image_frames_reserve(struct image_frames *frames)
{
	void *grown;

	if (frames->n_frames >= IMAGE_MAP_MAX_FRAME)
		return -EFBIG;
	if (frames->n_frames == frames->room_frames) {
		uint64_t room = max_u64(frames->room_frames * 2, 1024);

		grown = reallocarray(frames->frames, room, sizeof(*frames->frames));
		if (!grown)
			return -ENOMEM;
		frames->frames = grown;
		frames->room_frames = room;
	}
	if (frames->n_checksums + IMAGE_FRAME_BLOCKS > frames->room_checksums) {
		uint64_t room = max_u64(frames->room_checksums * 2, 1024);

		grown = reallocarray(frames->checksums, room, sizeof(*frames->checksums));
		if (!grown)
			return -ENOMEM;
		frames->checksums = grown;
		frames->room_checksums = room;
	}
	return 0;
}

uint32_t image_frames_add(struct image_frames *frames, const struct image_frame_entry *frame,
			  const void *bytes)
{
	struct image_frame_entry *added = &frames->frames[frames->n_frames];
	uint64_t n_piece = frame->codec == IMAGE_RAW ? IMAGE_BLOCK_BYTES : frame->stored_bytes;

	*added = *frame;
	added->first_checksum = frames->n_checksums;
	for (uint64_t at = 0; at < frame->stored_bytes; at += n_piece)
		frames->checksums[frames->n_checksums++] = XXH3_64bits(
			(const unsigned char *)bytes + at, n_piece);
	return (uint32_t)frames->n_frames++;
}

void image_frames_done(struct image_frames *frames)
{
	free(frames->frames);
	free(frames->checksums);
	*frames = (struct image_frames){};
}
