/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a writer knows of one memory: for each block the frame it is in. 4 bytes a block, of which
 * those of untouched ranges cost nothing. Context of all: bulk.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "image/format.h"

#define IMAGE_MAP_NONE	    0 /* zero, or the parent's */
#define IMAGE_MAP_ZERO	    1
#define IMAGE_MAP_FRAME(n)  ((n) + 2)
#define IMAGE_MAP_MAX_FRAME (UINT32_MAX - 3)

/* Embedded; entry is readable, map too. */
struct image_map {
	struct image_memory_entry entry; /* but its runs */
	uint32_t *map;			 /* owned mapping */
	uint64_t n_mapped_bytes;
};

/* Return: 0, -EINVAL (name, sizes), -ENOMEM. */
int image_map_init(struct image_map *map, const char *name, uint64_t length_bytes,
		   uint64_t page_bytes, enum image_kind kind);
void image_map_done(struct image_map *map);
/* Return: 0, -EINVAL, -ENOMEM. */
int image_map_grow(struct image_map *map, uint64_t length_bytes);
void image_map_set(struct image_map *map, uint64_t block, uint64_t n_blocks, uint32_t value);

/*
 * The run at *@block or behind it, as the index has it, but with the writer's frame. *@block moves
 * on past it. Return: false: none.
 */
bool image_map_next_run(const struct image_map *map, uint64_t *block, struct image_run_entry *ret);
