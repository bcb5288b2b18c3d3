/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What was written of a memory: a bit a page, in the ledger, two maps for each consumer.
 *
 *	map	| holds					| leaves by
 *	--------+---------------------------------------+------------------------------------
 *	pending | written since the last epoch was taken	| the next read -> unacked
 *	unacked	| the epoch that was handed out last	| acknowledged -> nothing; did not
 *		|					| arrive -> pending
 *
 * A bit is in one of them from the moment that the page loses its protection until the consumer has
 * acknowledged it, at every instruction: it is set in the map it goes to before it is cleared in
 * the one it leaves.
 *
 * Both lie in one area, pending first. Bits are set by any thread; moved by one, the reader's.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/units.h"

#define MAX_CONSUMERS 8

/* Readable. Of one consumer; NULL if it has none. */
struct dirty_map {
	_Atomic uint64_t *pending; /* borrowed from the ledger */
	_Atomic uint64_t *unacked;
	uint64_t area_offset; /* in the ledger */
};

/* Embedded in a memory; readable. */
struct dirty_maps {
	_Atomic uint32_t
		armed; /* bit i: what is written is marked for consumer i. Release: the maps are there */
	struct dirty_map maps[MAX_CONSUMERS];
};

static inline uint64_t dirty_map_words(uint64_t n_pages)
{
	return (n_pages + 63) / 64;
}

/* Of the area with both maps. */
static inline uint64_t dirty_map_bytes(uint64_t n_pages)
{
	return 2 * dirty_map_words(n_pages) * sizeof(uint64_t);
}

/* Context of all below: any thread; do not block or allocate. */

/* Release: whoever sees the bits sees what was stored before. */
void dirty_map_set(_Atomic uint64_t *words, struct page_range pages);

/* The same, cleared. */
void dirty_map_unset(_Atomic uint64_t *words, struct page_range pages);

/* The first run of set bits within @pages. Return: false if there is none. */
bool dirty_map_find(const _Atomic uint64_t *words, struct page_range pages,
		    struct page_range *ret_run);

uint64_t dirty_map_count(const _Atomic uint64_t *words, uint64_t n_pages);

/* All bits that are set in @from now; those that are set meanwhile stay there. */
void dirty_map_move(_Atomic uint64_t *from, _Atomic uint64_t *to, uint64_t n_pages);
/*
 * The same to a map that only this thread writes; what was there before goes if @is_replacing.
 * Return: how many bits are set there then.
 */
uint64_t dirty_map_take(_Atomic uint64_t *from, _Atomic uint64_t *to, uint64_t n_pages,
			bool is_replacing);

/* Consumer @slot has its maps in @area. Nobody marks there before they are armed. */
void dirty_maps_place(struct dirty_maps *maps, uint32_t slot, void *area, uint64_t area_offset,
		      uint64_t n_pages);
void dirty_maps_arm(struct dirty_maps *maps, uint32_t slot);
/* The area stays where it is: others may be marking there now. */
void dirty_maps_disarm(struct dirty_maps *maps, uint32_t slot);

/* In the pending maps of all consumers. */
void dirty_maps_mark(struct dirty_maps *maps, struct page_range pages);
