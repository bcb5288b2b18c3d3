/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Frames that were decompressed lately. */
#include "image/image-cache.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/units.h"

/* Places that a frame may be in: a search looks at no more, however large the cache is. */
#define MOST_WAYS 64

struct cached {
	const struct image_layer *layer; /* NULL: empty */
	uint32_t frame;
	uint64_t used; /* when, in gets and puts */
};

struct image_cache {
	_Atomic bool is_busy; /* taken with acquire, left with release */
	uint32_t n_entries;   /* sets of n_ways */
	uint32_t n_ways;
	uint32_t last; /* the entry found last: pieces of one frame follow each other */
	uint64_t now;
	struct cached *entries; /* owned */
	unsigned char *frames;	/* owned mapping */
	_Atomic uint64_t n_hits, n_misses;
};

int image_cache_new(struct image_cache **ret, uint64_t n_bytes)
{
	_cleanup_(image_cache_freep) struct image_cache *cache = calloc(1, sizeof(*cache));
	void *frames;

	if (!cache)
		return -ENOMEM;
	cache->n_entries = (uint32_t)min_u64(max_u64(n_bytes / IMAGE_FRAME_BYTES, 1),
					     UINT32_MAX / 2);
	cache->n_ways = (uint32_t)min_u64(cache->n_entries, MOST_WAYS);
	cache->n_entries -= cache->n_entries % cache->n_ways;
	cache->entries = calloc(cache->n_entries, sizeof(*cache->entries));
	if (!cache->entries)
		return -ENOMEM;
	frames = mmap(NULL, (uint64_t)cache->n_entries * IMAGE_FRAME_BYTES, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (frames == MAP_FAILED)
		return -ENOMEM;
	(void)mlock2(frames, (uint64_t)cache->n_entries * IMAGE_FRAME_BYTES, MLOCK_ONFAULT);
	/* a guest's bytes are not for core dumps */
	(void)madvise(frames, (uint64_t)cache->n_entries * IMAGE_FRAME_BYTES, MADV_DONTDUMP);
	cache->frames = frames;
	*ret = TAKE_PTR(cache);
	return 0;
}

struct image_cache *image_cache_free(struct image_cache *cache)
{
	if (!cache)
		return NULL;
	if (cache->frames)
		munmap(cache->frames, (uint64_t)cache->n_entries * IMAGE_FRAME_BYTES);
	free(cache->entries);
	free(cache);
	return NULL;
}

static bool try_take(struct image_cache *cache)
{
	/* pairs with release in leave() */
	return !atomic_exchange_explicit(&cache->is_busy, true, memory_order_acquire);
}

static void leave(struct image_cache *cache)
{
	atomic_store_explicit(&cache->is_busy, false, memory_order_release);
}

static bool is_it(const struct cached *entry, const struct image_place *place)
{
	return entry->layer == place->layer && entry->frame == place->frame;
}

/* The entry of a frame, or NULL. @ret_oldest: the one to go. */
static struct cached *find(struct image_cache *cache, const struct image_place *place,
			   struct cached **ret_oldest)
{
	uint32_t set = place->frame % (cache->n_entries / cache->n_ways);
	struct cached *ways = &cache->entries[(size_t)set * cache->n_ways], *oldest = ways;

	if (is_it(&cache->entries[cache->last], place))
		return &cache->entries[cache->last];
	for (struct cached *entry = ways; entry < ways + cache->n_ways; entry++) {
		if (is_it(entry, place)) {
			cache->last = (uint32_t)(entry - cache->entries);
			return entry;
		}
		if (entry->used < oldest->used)
			oldest = entry;
	}
	*ret_oldest = oldest;
	return NULL;
}

bool image_cache_get(struct image_cache *cache, const struct image_place *place, void *buffer)
{
	struct cached *entry, *oldest;

	if (!try_take(cache))
		return false;
	entry = find(cache, place, &oldest);
	if (entry) {
		size_t at = (size_t)(entry - cache->entries) * IMAGE_FRAME_BYTES +
			    (size_t)place->frame_block * IMAGE_BLOCK_BYTES;

		entry->used = ++cache->now;
		memcpy(buffer, cache->frames + at, place->n_blocks * IMAGE_BLOCK_BYTES);
		atomic_fetch_add_explicit(&cache->n_hits, 1, memory_order_relaxed);
	}
	leave(cache);
	return entry != NULL;
}

void image_cache_put(struct image_cache *cache, const struct image_place *place, const void *frame)
{
	struct cached *entry = NULL;

	atomic_fetch_add_explicit(&cache->n_misses, 1, memory_order_relaxed);
	if (!try_take(cache))
		return;
	if (!find(cache, place, &entry)) {
		*entry = (struct cached){ .layer = place->layer,
					  .frame = place->frame,
					  .used = ++cache->now };
		cache->last = (uint32_t)(entry - cache->entries);
		memcpy(cache->frames + (size_t)cache->last * IMAGE_FRAME_BYTES, frame,
		       (size_t)place->frame_blocks * IMAGE_BLOCK_BYTES);
	}
	leave(cache);
}

void image_cache_get_counts(const struct image_cache *cache, uint64_t *ret_hits,
			    uint64_t *ret_misses)
{
	*ret_hits = atomic_load_explicit(&cache->n_hits, memory_order_relaxed);
	*ret_misses = atomic_load_explicit(&cache->n_misses, memory_order_relaxed);
}
