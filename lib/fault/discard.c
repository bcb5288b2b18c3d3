/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Discards: pages that read zero from now on, by an event or by the word of their owner. The pages
 * themselves go after that, or have gone.
 */
#include "fault/fill.h"

/*
 * Odd while one is being told: who takes its mark finds the count beyond what he knew before, and who
 * finds it even finds its marks, too.
 */
static void count(struct memory *memory)
{
	/* pairs with the acquires in lib/dirty; the mark behind an odd one is a release, too */
	atomic_fetch_add_explicit(&memory->n_discarded, 1, memory_order_release);
}

uint64_t discard_pages(struct demand *demand, struct memory *memory, struct page_range pages)
{
	uint64_t n;

	before_write_lose(demand, memory, pages);
	count(memory);
	n = page_states_move_all(&memory->states, pages, PAGE_ABSENT, PAGE_REMOVED);
	n += page_states_move_all(&memory->states, pages, PAGE_FILLING, PAGE_REMOVED);
	(void)page_states_move_all(&memory->states, pages, PAGE_PRESENT, PAGE_REMOVED);
	demand_settled(demand, memory, n);
	stall_forget(demand, memory, pages);
	memory_mark_dirty(memory, pages);
	count(memory);
	demand_note(demand, FLIGHT_REMOVED, memory, pages.first, (int64_t)pages.count);
	return n;
}
