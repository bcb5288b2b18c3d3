/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The frames of a memory's blocks. */
#include "image/image-map.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "base/units.h"

#define MAX_RUN_BLOCKS (UINT32_C(1) << 31)

static bool is_sound(uint64_t length_bytes, uint64_t page_bytes)
{
	return page_bytes >= IMAGE_BLOCK_BYTES && page_bytes <= GIB &&
	       (page_bytes & (page_bytes - 1)) == 0 && is_aligned(length_bytes, page_bytes) &&
	       length_bytes / IMAGE_BLOCK_BYTES <= IMAGE_MAX_BLOCKS;
}

static uint64_t map_bytes(uint64_t length_bytes)
{
	return align_up(length_bytes / IMAGE_BLOCK_BYTES * sizeof(uint32_t) + 1, 65536);
}

int image_map_init(struct image_map *map, const char *name, uint64_t length_bytes,
		   uint64_t page_bytes, enum image_kind kind)
{
	size_t n_name = strnlen(name, IMAGE_NAME_BYTES);

	if (!n_name || n_name == IMAGE_NAME_BYTES || kind > IMAGE_PRIVATE ||
	    !is_sound(length_bytes, page_bytes))
		return -EINVAL;
	for (size_t i = 0; i < n_name; i++)
		if ((unsigned char)name[i] < ' ' || name[i] == 0x7f)
			return -EINVAL;
	*map = (struct image_map){
		.entry = { .length_bytes = length_bytes, .page_bytes = page_bytes, .kind = kind },
		.n_mapped_bytes = map_bytes(length_bytes)
	};
	memcpy(map->entry.name, name, n_name);
	map->map = mmap(NULL, map->n_mapped_bytes, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (map->map == MAP_FAILED) {
		map->map = NULL;
		return -ENOMEM;
	}
	return 0;
}

void image_map_done(struct image_map *map)
{
	if (map->map)
		munmap(map->map, map->n_mapped_bytes);
	map->map = NULL;
}

int image_map_grow(struct image_map *map, uint64_t length_bytes)
{
	void *grown;

	if (length_bytes < map->entry.length_bytes ||
	    !is_sound(length_bytes, map->entry.page_bytes))
		return -EINVAL;
	grown = mremap(map->map, map->n_mapped_bytes, map_bytes(length_bytes), MREMAP_MAYMOVE);
	if (grown == MAP_FAILED)
		return -ENOMEM;
	map->map = grown;
	map->n_mapped_bytes = map_bytes(length_bytes);
	map->entry.length_bytes = length_bytes;
	return 0;
}

void image_map_set(struct image_map *map, uint64_t block, uint64_t n_blocks, uint32_t value)
{
	for (uint64_t i = block; i < block + n_blocks; i++)
		if (map->map[i] != value) /* untouched memory stays untouched */
			map->map[i] = value;
}

bool image_map_next_run(const struct image_map *map, uint64_t *block, struct image_run_entry *ret)
{
	uint64_t end = map->entry.length_bytes / IMAGE_BLOCK_BYTES, first = *block, next;

	while (first < end && map->map[first] == IMAGE_MAP_NONE)
		first++;
	if (first == end)
		return false;
	for (next = first + 1;
	     next < end && map->map[next] == map->map[first] && next - first < MAX_RUN_BLOCKS;
	     next++)
		;
	ret->first_block = first;
	ret->n_blocks = (uint32_t)(next - first);
	ret->frame = map->map[first] == IMAGE_MAP_ZERO ? IMAGE_ZERO_FRAME : map->map[first] - 2;
	*block = next;
	return true;
}
