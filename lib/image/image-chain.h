/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What an image is made of; for the files of this room. The rest see image-reader.h. */
#pragma once

#include "image/image-layer.h"
#include "image/image-reader.h"

/* Layers from the top down; readable. */
struct image {
	_Atomic uint32_t n_refs;
	uint32_t n_layers;
	struct image_layer *layers[IMAGE_MAX_LAYERS]; /* owned */
	uint32_t n_memories;
	struct image_memory memories[IMAGE_MAX_MEMORIES];
	/* the number that a memory has in each layer, or -1 */
	int8_t numbers[IMAGE_MAX_LAYERS][IMAGE_MAX_MEMORIES];
	bool is_cut; /* its parents were left out */
};

/*
 * An image of these layers, from the top down; they are consumed on success. Return: 0, -ENOMEM.
 */
int image_of_layers(struct image **ret, struct image_layer **layers, uint32_t n_layers);

/*
 * Do @bytes, read from the place, have its checksums? Bytes without are taken as they are. Context: any;
 * does not block. @ret_wrong: how far into them the first wrong one begins.
 */
bool image_place_is_sound(const struct image_place *place, const void *bytes, uint64_t *ret_wrong);
