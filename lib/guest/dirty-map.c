/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Maps of written pages, 64 at a time. */
#include "guest/dirty-map.h"

#include <stdatomic.h>

/* The bits of [@page, @end) in the word that holds @page. */
static uint64_t bits_of(uint64_t page, uint64_t end)
{
	uint64_t bits = UINT64_MAX << page % 64;

	if (end < align_down(page, 64) + 64)
		bits &= (UINT64_C(1) << end % 64) - 1;
	return bits;
}

static uint64_t next_word_page(uint64_t page)
{
	return align_down(page, 64) + 64;
}

void dirty_map_set(_Atomic uint64_t *words, struct page_range pages)
{
	uint64_t end = pages.first + pages.count;

	for (uint64_t page = pages.first; page < end; page = next_word_page(page))
		atomic_fetch_or_explicit(&words[page / 64], bits_of(page, end),
					 memory_order_release);
}

void dirty_map_unset(_Atomic uint64_t *words, struct page_range pages)
{
	uint64_t end = pages.first + pages.count;

	for (uint64_t page = pages.first; page < end; page = next_word_page(page))
		atomic_fetch_and_explicit(&words[page / 64], ~bits_of(page, end),
					  memory_order_release);
}

/* The first page of [@page, @end) whose bit is @is_set; @end if there is none. */
static uint64_t scan(const _Atomic uint64_t *words, uint64_t page, uint64_t end, bool is_set)
{
	for (; page < end; page = next_word_page(page)) {
		uint64_t word = atomic_load_explicit(&words[page / 64], memory_order_acquire);
		uint64_t found = (is_set ? word : ~word) & bits_of(page, end);

		if (found)
			return align_down(page, 64) + (uint64_t)__builtin_ctzll(found);
	}
	return end;
}

bool dirty_map_find(const _Atomic uint64_t *words, struct page_range pages,
		    struct page_range *ret_run)
{
	uint64_t end = pages.first + pages.count;
	uint64_t first = scan(words, pages.first, end, true);

	if (first == end)
		return false;
	ret_run->first = first;
	ret_run->count = scan(words, first, end, false) - first;
	return true;
}

uint64_t dirty_map_count(const _Atomic uint64_t *words, uint64_t n_pages)
{
	uint64_t n = 0;

	for (uint64_t i = 0; i < dirty_map_words(n_pages); i++)
		n += (uint64_t)__builtin_popcountll(
			atomic_load_explicit(&words[i], memory_order_relaxed));
	return n;
}

void dirty_map_move(_Atomic uint64_t *from, _Atomic uint64_t *to, uint64_t n_pages)
{
	for (uint64_t i = 0; i < dirty_map_words(n_pages); i++) {
		/* pairs with the release in dirty_map_set() */
		uint64_t bits = atomic_load_explicit(&from[i], memory_order_acquire);

		if (!bits)
			continue;
		atomic_fetch_or_explicit(&to[i], bits, memory_order_release);
		/* a kill here leaves them in both */
		atomic_fetch_and_explicit(&from[i], ~bits, memory_order_acq_rel);
	}
}

uint64_t dirty_map_take(_Atomic uint64_t *from, _Atomic uint64_t *to, uint64_t n_pages,
			bool is_replacing)
{
	uint64_t n = 0;

	for (uint64_t i = 0; i < dirty_map_words(n_pages); i++) {
		/* pairs with the release in dirty_map_set() */
		uint64_t bits = atomic_load_explicit(&from[i], memory_order_acquire);
		uint64_t before = atomic_load_explicit(&to[i], memory_order_relaxed);
		uint64_t after = is_replacing ? bits : before | bits;

		if (after != before)
			atomic_store_explicit(&to[i], after, memory_order_release);
		/* a kill here leaves them in both */
		if (bits)
			atomic_fetch_and_explicit(&from[i], ~bits, memory_order_acq_rel);
		if (after)
			n += (uint64_t)__builtin_popcountll(after);
	}
	return n;
}

void dirty_maps_place(struct dirty_maps *maps, uint32_t slot, void *area, uint64_t area_offset,
		      uint64_t n_pages)
{
	_Atomic uint64_t *words = area;

	maps->maps[slot] = (struct dirty_map){
		.pending = words,
		.unacked = words + dirty_map_words(n_pages),
		.area_offset = area_offset,
	};
}

void dirty_maps_arm(struct dirty_maps *maps, uint32_t slot)
{
	/* pairs with the acquire in dirty_maps_mark() */
	atomic_fetch_or_explicit(&maps->armed, UINT32_C(1) << slot, memory_order_release);
}

void dirty_maps_disarm(struct dirty_maps *maps, uint32_t slot)
{
	atomic_fetch_and_explicit(&maps->armed, ~(UINT32_C(1) << slot), memory_order_acq_rel);
}

void dirty_maps_mark(struct dirty_maps *maps, struct page_range pages)
{
	uint32_t armed = atomic_load_explicit(&maps->armed, memory_order_acquire);

	for (; armed; armed &= armed - 1)
		dirty_map_set(maps->maps[__builtin_ctz(armed)].pending, pages);
}
