/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Frames that were decompressed lately, since a window asks for a frame in pieces. Bounded; for any
 * number of threads, none of which waits: what is busy is a miss.
 *
 * Context of all but new and free: any, demand too; does not block or allocate.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "image/image-reader.h"

#define IMAGE_CACHE_BYTES (UINT64_C(4) << 20) /* unless the SPEC says otherwise */

struct image_cache;

/* @n_bytes: at least one frame is kept. Return: 0, -ENOMEM. */
int image_cache_new(struct image_cache **ret, uint64_t n_bytes);
struct image_cache *image_cache_free(struct image_cache *cache);
DEFINE_CLEANUP(struct image_cache, image_cache_free)

/* Copy the place's blocks. Return: false: its frame is not here. */
bool image_cache_get(struct image_cache *cache, const struct image_place *place, void *buffer);

/* @frame: place->frame_blocks of it, decoded. */
void image_cache_put(struct image_cache *cache, const struct image_place *place, const void *frame);

void image_cache_get_counts(const struct image_cache *cache, uint64_t *ret_hits,
			    uint64_t *ret_misses);
