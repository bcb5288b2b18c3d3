/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reads all that an image has. */
#include "image/image-verify.h"

#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/units.h"

#define PIECE_BYTES (256 * KIB)

/* Pages of a piece that cannot be read as a whole, one at a time. */
static void verify_pages(struct image_cursor *cursor, struct image_verify *verify, uint32_t memory,
			 const struct image_memory *info, struct page_range pages, void *buffer)
{
	for (uint64_t i = 0; i < pages.count; i++) {
		const char *why = "";

		if (image_read_pages(cursor, memory, pages.first + i, 1, buffer, &why) == 0)
			continue;
		verify->n_broken_bytes += info->page_bytes;
		if (verify->on_broken)
			verify->on_broken(verify->userdata, memory,
					  (pages.first + i) * info->page_bytes, info->page_bytes,
					  why);
	}
}

static void verify_memory(struct image_cursor *cursor, const struct image *image, uint32_t memory,
			  struct image_verify *verify, void *buffer, uint64_t done_bytes,
			  uint64_t total_bytes)
{
	const struct image_memory *info = image_memory(image, memory);
	uint64_t n_pages = info->length_bytes / info->page_bytes;
	uint64_t n_piece = max_u64(PIECE_BYTES / info->page_bytes, 1), n;

	for (uint64_t i = 0; i < n_pages; i += n) {
		const char *why;

		/* a zero run is as long as it is; of data a piece at a time */
		if (image_extent(image, memory, i, n_pages - i, &n) == IMAGE_PLACE_DATA) {
			n = min_u64(n, n_piece);
			verify->n_read_bytes += n * info->page_bytes;
			if (image_read_pages(cursor, memory, i, n, buffer, &why) < 0)
				verify_pages(cursor, verify, memory, info,
					     (struct page_range){ i, n }, buffer);
		}
		if (verify->on_progress)
			verify->on_progress(verify->userdata,
					    done_bytes + (i + n) * info->page_bytes, total_bytes);
	}
}

int image_verify(struct image *image, struct image_verify *verify)
{
	_cleanup_(image_cursor_freep) struct image_cursor *cursor = NULL;
	_cleanup_(freep) void *buffer = NULL;
	uint64_t total_bytes = 0, done_bytes = 0, most = PIECE_BYTES;
	int r;

	for (uint32_t i = 0; i < image_n_memories(image); i++) {
		total_bytes += image_memory(image, i)->length_bytes;
		most = max_u64(most, image_memory(image, i)->page_bytes);
	}
	buffer = malloc(most);
	if (!buffer)
		return -ENOMEM;
	r = image_cursor_new(&cursor, image);
	if (r < 0)
		return r;
	for (uint32_t i = 0; i < image_n_memories(image); i++) {
		verify_memory(cursor, image, i, verify, buffer, done_bytes, total_bytes);
		done_bytes += image_memory(image, i)->length_bytes;
	}
	return 0;
}
