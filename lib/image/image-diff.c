/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What is different between two memories. */
#include "image/image-diff.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/units.h"
#include "image/image-chain.h"
#include "image/image-cursor.h"

#define MAX_BLOCKS 64

/* One of the two. */
struct side {
	struct image *image;
	struct image_cursor *cursor; /* owned */
	uint32_t memory;
	uint64_t n_blocks;
	struct image_place place; /* what lies at the block that is looked at */
	unsigned char bytes[MAX_BLOCKS * IMAGE_BLOCK_BYTES];
};

static void side_free(struct side *side)
{
	if (side)
		image_cursor_free(side->cursor);
	free(side);
}
DEFINE_CLEANUP(struct side, side_free)

static int side_new(struct side **ret, struct image *image, uint32_t memory)
{
	_cleanup_(side_freep) struct side *side = calloc(1, sizeof(*side));
	int r;

	if (!side)
		return -ENOMEM;
	side->image = image;
	side->memory = memory;
	side->n_blocks = image->memories[memory].length_bytes / IMAGE_BLOCK_BYTES;
	r = image_cursor_new(&side->cursor, image);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(side);
	return 0;
}

/* Behind its end a memory is zero. */
static void side_locate(struct side *side, uint64_t block, uint64_t max)
{
	if (block < side->n_blocks)
		image_locate(side->image, side->memory, block, max, &side->place);
	else
		side->place = (struct image_place){ .kind = IMAGE_PLACE_ZERO, .n_blocks = max };
}

static int side_read(struct side *side, uint64_t block, uint64_t n, const char **ret_error)
{
	if (side->place.kind == IMAGE_PLACE_DATA)
		return image_read_blocks(side->cursor, side->memory, block, n, side->bytes,
					 ret_error);
	memset(side->bytes, 0, n * IMAGE_BLOCK_BYTES);
	return 0;
}

static bool is_same_file(const struct image_layer *a, const struct image_layer *b)
{
	return a->identity.device == b->identity.device && a->identity.inode == b->identity.inode;
}

/* Without reading: both are zero, or the very same bytes of a file. */
static bool is_same_place(const struct image_place *a, const struct image_place *b)
{
	if (a->kind != b->kind || a->kind == IMAGE_PLACE_ABSENT)
		return false;
	if (a->kind == IMAGE_PLACE_ZERO)
		return true;
	return is_same_file(a->layer, b->layer) && a->offset == b->offset &&
	       a->frame_block == b->frame_block && a->codec == b->codec;
}

/* The runs among @n blocks that both have read. */
static int tell_runs(const struct side *a, const struct side *b, uint64_t block, uint64_t n,
		     image_diff_fn on_run, void *userdata)
{
	bool is_zero = b->place.kind != IMAGE_PLACE_DATA;
	uint64_t first = 0;
	int r = 0;

	for (uint64_t i = 0; r == 0 && i <= n; i++) {
		size_t at = i * IMAGE_BLOCK_BYTES;

		if (i < n && memcmp(a->bytes + at, b->bytes + at, IMAGE_BLOCK_BYTES))
			continue;
		if (i > first)
			r = on_run(userdata, block + first, i - first,
				   is_zero ? NULL : b->bytes + first * IMAGE_BLOCK_BYTES);
		first = i + 1;
	}
	return r;
}

int image_diff(struct image *a_image, uint32_t a_memory, struct image *b_image, uint32_t b_memory,
	       image_diff_fn on_run, void *userdata, const char **ret_error)
{
	_cleanup_(side_freep) struct side *a = NULL, *b = NULL;
	uint64_t n_blocks, n;
	int r;

	r = side_new(&a, a_image, a_memory);
	if (r == 0)
		r = side_new(&b, b_image, b_memory);
	if (r < 0)
		return r;
	n_blocks = max_u64(a->n_blocks, b->n_blocks);
	for (uint64_t block = 0; r == 0 && block < n_blocks; block += n) {
		side_locate(a, block, n_blocks - block);
		side_locate(b, block, n_blocks - block);
		n = min_u64(a->place.n_blocks, b->place.n_blocks);
		if (is_same_place(&a->place, &b->place))
			continue;
		n = min_u64(n, MAX_BLOCKS);
		r = side_read(a, block, n, ret_error);
		if (r == 0)
			r = side_read(b, block, n, ret_error);
		if (r == 0)
			r = tell_runs(a, b, block, n, on_run, userdata);
	}
	return r;
}
