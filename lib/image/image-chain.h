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

/* Layers while they are opened, from the top down; readable. */
struct image_opening {
	struct image_layer *layers[IMAGE_MAX_LAYERS]; /* owned */
	uint32_t n;
};

void image_opening_done(struct image_opening *opening);

/* An image of them, who are its own then. Return: 0, -ENOMEM. */
int image_opening_finish(struct image_opening *opening, struct image **ret);

/*
 * Do @bytes, read from the place, have its checksums? Bytes without are taken as they are. Context:
 * any; does not block. @ret_wrong: how far into them the first wrong one begins.
 */
bool image_place_is_sound(const struct image_place *place, const void *bytes, uint64_t *ret_wrong);
