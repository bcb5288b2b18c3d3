/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reading an image with patience. */
#include "image/image-cursor.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/units.h"
#include "image/image-chain.h"
#include "image/image-codec.h"
#include "image/image-error.h"

struct image_cursor {
	struct image *image;		 /* a reference */
	struct image_decoder *decoder;	 /* owned */
	const struct image_layer *layer; /* of the frame that is decoded; NULL: none is */
	uint32_t frame;
	unsigned char stored[IMAGE_FRAME_BYTES];
	unsigned char decoded[IMAGE_FRAME_BYTES];
};

int image_cursor_new(struct image_cursor **ret, struct image *image)
{
	_cleanup_(image_cursor_freep) struct image_cursor *cursor = calloc(1, sizeof(*cursor));
	int r;

	if (!cursor)
		return -ENOMEM;
	cursor->image = image_ref(image);
	r = image_decoder_new(&cursor->decoder);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(cursor);
	return 0;
}

struct image_cursor *image_cursor_free(struct image_cursor *cursor)
{
	if (!cursor)
		return NULL;
	image_decoder_free(cursor->decoder);
	image_unref(cursor->image);
	free(cursor);
	return NULL;
}

/* @place's stored bytes, checked. Return: 0, -EBADMSG, -ENODATA, -ESTALE, -errno. */
static int read_stored(const struct image_place *place, void *buffer, const char **ret_error)
{
	const char *path = place->layer->path;
	uint64_t wrong = 0;
	int r;

	r = image_read_at(place->layer->fd, buffer, place->stored_bytes, place->offset);
	if (r == -ENODATA)
		return image_fail(ret_error, r, "%s was cut: it ends before offset %llu", path,
				  (unsigned long long)place->offset + place->stored_bytes);
	if (r < 0)
		return image_fail(ret_error, r, "%s cannot be read at offset %llu: %s", path,
				  (unsigned long long)place->offset, strerror(-r));
	if (!image_place_is_sound(place, buffer, &wrong))
		return image_fail(ret_error, -EBADMSG,
				  "%s is damaged at offset %llu: its checksum does not fit", path,
				  (unsigned long long)(place->offset + wrong));
	if (place->layer->is_flat && image_layer_has_changed(place->layer))
		return image_fail(ret_error, -ESTALE, "%s was changed while it was read", path);
	return 0;
}

/* The frame of @place into @cursor->decoded. */
static int decode(struct image_cursor *cursor, const struct image_place *place,
		  const char **ret_error)
{
	int r;

	if (cursor->layer == place->layer && cursor->frame == place->frame)
		return 0;
	cursor->layer = NULL;
	r = read_stored(place, cursor->stored, ret_error);
	if (r < 0)
		return r;
	r = image_decode(cursor->decoder, place->codec, cursor->stored, place->stored_bytes,
			 cursor->decoded, (size_t)place->frame_blocks * IMAGE_BLOCK_BYTES);
	if (r < 0)
		return image_fail(ret_error, r,
				  "%s is damaged at offset %llu: the frame there cannot be decoded",
				  place->layer->path, (unsigned long long)place->offset);
	cursor->layer = place->layer;
	cursor->frame = place->frame;
	return 0;
}

int image_read_blocks(struct image_cursor *cursor, uint32_t memory, uint64_t block,
		      uint64_t n_blocks, void *buffer, const char **ret_error)
{
	unsigned char *to = buffer;
	struct image_place place;
	int r = 0;

	for (; r == 0 && n_blocks; block += place.n_blocks, n_blocks -= place.n_blocks) {
		uint64_t n_bytes;

		image_locate(cursor->image, memory, block, n_blocks, &place);
		n_bytes = place.n_blocks * IMAGE_BLOCK_BYTES;
		if (place.kind != IMAGE_PLACE_DATA) {
			memset(to, 0, n_bytes);
		} else if (place.codec == IMAGE_RAW) {
			r = read_stored(&place, to, ret_error);
		} else {
			r = decode(cursor, &place, ret_error);
			if (r == 0)
				memcpy(to,
				       cursor->decoded +
					       (size_t)place.frame_block * IMAGE_BLOCK_BYTES,
				       n_bytes);
		}
		to += n_bytes;
	}
	return r;
}

int image_read_pages(struct image_cursor *cursor, uint32_t memory, uint64_t first_page,
		     uint64_t count, void *buffer, const char **ret_error)
{
	const struct image_memory *info;
	uint64_t n_pages = 0, page_blocks = 1;

	if (memory < cursor->image->n_memories) {
		info = &cursor->image->memories[memory];
		page_blocks = info->page_bytes / IMAGE_BLOCK_BYTES;
		n_pages = info->length_bytes / info->page_bytes;
	}
	if (first_page > n_pages || count > n_pages - first_page)
		return image_fail(ret_error, -EINVAL, "pages beyond the memory");
	return image_read_blocks(cursor, memory, first_page * page_blocks, count * page_blocks,
				 buffer, ret_error);
}
