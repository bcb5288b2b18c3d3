/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What an image consists of. */
#include "image/image-info.h"

#include <string.h>

#include "image/image-chain.h"

uint32_t image_n_layers(const struct image *image)
{
	return image->n_layers;
}

void image_get_layer(const struct image *image, uint32_t number, struct image_layer_info *ret)
{
	const struct image_layer *layer = image->layers[number];
	const struct image_index *index = &layer->index;

	*ret = (struct image_layer_info){
		.path = layer->path,
		.is_flat = layer->is_flat,
		.generation = layer->generation,
		.created_s = layer->created_s,
		.file_bytes = layer->is_flat ? layer->identity.length_bytes : layer->end_bytes,
		.index_bytes = index->n_bytes,
	};
	memcpy(ret->digest, layer->digest, IMAGE_DIGEST_BYTES);
	for (uint32_t i = 0; i < index->head->n_frames; i++) {
		const struct image_frame_entry *frame = &index->frames[i];

		ret->n_frames[frame->codec]++;
		ret->stored_bytes[frame->codec] += frame->stored_bytes;
		ret->unpacked_bytes[frame->codec] += (uint64_t)frame->n_blocks * IMAGE_BLOCK_BYTES;
	}
}

void image_get_content(const struct image *image, uint32_t memory, struct image_content *ret)
{
	uint64_t n_blocks = image->memories[memory].length_bytes / IMAGE_BLOCK_BYTES;
	struct image_place place;

	*ret = (struct image_content){};
	for (uint64_t block = 0; block < n_blocks; block += place.n_blocks) {
		uint64_t n_bytes;

		image_locate(image, memory, block, n_blocks - block, &place);
		n_bytes = place.n_blocks * IMAGE_BLOCK_BYTES;
		if (place.kind == IMAGE_PLACE_DATA)
			ret->data_bytes += n_bytes;
		else if (place.kind == IMAGE_PLACE_ZERO)
			ret->zero_bytes += n_bytes;
		else
			ret->absent_bytes += n_bytes;
	}
}
