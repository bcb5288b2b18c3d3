/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pages resolved on the spot, without a slot: zeros, what the file holds, and probes of what should be
 * there. Nothing is remembered: what cannot be done now is parked, and faults again.
 */
#include "base/clock.h"
#include "fault/fill.h"
#include "kernel/backing.h"
#include "kernel/uffd.h"

/* Outcomes of a page that is resolved on the spot: nothing is remembered, the fault comes again if
 * need be. */
static void fill_later(struct demand *demand, struct mapping *mapping, uint64_t page, int outcome)
{
	if (outcome == UFFD_GONE) {
		demand_mapper_gone(demand, mapping->mapper);
		return;
	}
	if (outcome == UFFD_CHANGING || outcome == UFFD_NO_MEMORY || outcome < 0) {
		demand->is_busy_elsewhere |= outcome == UFFD_CHANGING;
		demand->readers[mapping->mapper->id].is_ready = true;
		if (outcome == UFFD_NO_MEMORY)
			count_add(&demand->counters.exhausted, 1);
		park_add(demand, mapping->mapper,
			 fill_range(mapping, (struct page_range){ page, 1 }));
		return;
	}
	if (outcome == UFFD_POISONED) {
		/* The memory under the file is broken: SIGBUS, as the kernel does where it maps. */
		if (!memory_is_poisoned(mapping->memory, page)) {
			count_add(&demand->counters.poisoned_pages, 1);
			demand_note(demand, FLIGHT_POISONED, mapping->memory, page, 1);
			demand_tell(demand, UFD_EVENT_POISONED, mapping->memory, page, 1);
		}
		(void)memory_add_poisoned(mapping->memory, demand->guest->ledger, page);
		stall_put_poison(demand, mapping, page);
		return;
	}
	fill_wake(demand, mapping, (struct page_range){ page, 1 });
}

void fill_zero(struct demand *demand, struct mapping *mapping, uint64_t page)
{
	struct memory *memory = mapping->memory;
	struct page_range one = { page, 1 };
	uint64_t done_bytes = 0;
	bool exists = false;
	int outcome = UFFD_NO_MEMORY;

	/* before the guest may write there: what is written of an absent page is told to nobody */
	if (page_states_move(&memory->states, page, PAGE_ABSENT, PAGE_REMOVED))
		demand_settled(demand, memory, 1);
	if (allowance_pages(demand, memory, CAUSE_DEMAND, 1))
		outcome = fill_zeros(demand, mapping, one, &done_bytes);
	if (outcome == 0) {
		(void)page_states_move(&memory->states, page, PAGE_REMOVED, PAGE_PRESENT);
		count_add(&demand->counters.pages_zero, 1);
		fill_count(demand, CAUSE_DEMAND, 1, memory->page_bytes);
		demand_note(demand, FLIGHT_FILLED, memory, page, 1);
		track_protect_others(demand, memory, one, mapping);
		fill_wake_others(demand, memory, one, mapping);
		histogram_add(&demand->counters.demand_latency, clock_now_ns() - demand->fault_ns);
		return;
	}
	if (outcome == UFFD_PRESENT && fill_prove(mapping, page, &exists) == 0 && !exists)
		outcome = UFFD_NO_MEMORY; /* an empty huge page pool says EEXIST too */
	fill_later(demand, mapping, page, outcome);
}

/* Linux before 6.4 maps what a file holds without protection, whatever it is asked. */
static bool map_is_open(const struct demand *demand, const struct memory *memory)
{
	return memory_is_tracked(memory) && !demand->config.can_map_protected;
}

/*
 * @page is about to be mapped. If it is open then, it counts as written, and who saves pages before
 * they are does so now. Return: false if it has to wait, and is parked.
 */
static bool map_begins(struct demand *demand, struct mapping *mapping, uint64_t page)
{
	if (!map_is_open(demand, mapping->memory))
		return true;
	memory_mark_dirty(mapping->memory, (struct page_range){ page, 1 });
	return before_write_save(demand, mapping, page);
}

static unsigned int map_flags(const struct demand *demand, const struct memory *memory)
{
	return map_is_open(demand, memory) ? 0 : fill_flags(memory);
}

void fill_map(struct demand *demand, struct mapping *mapping, struct page_range pages)
{
	struct memory *memory = mapping->memory;

	while (pages.count) {
		struct page_range piece = pages;
		uint64_t done_bytes = 0, n_done;
		int outcome;

		if (map_is_open(demand, memory))
			piece.count = 1;
		if (!map_begins(demand, mapping, pages.first)) {
			pages.first++;
			pages.count--;
			continue;
		}
		outcome = uffd_continue(mapping->mapper->uffd, fill_range(mapping, piece),
					map_flags(demand, memory), &done_bytes);
		n_done = done_bytes / memory->page_bytes;
		pages.first += n_done;
		pages.count -= n_done;
		if (!pages.count)
			return;
		if (outcome == 0)
			continue;
		if (outcome == UFFD_NO_PAGE)
			fill_probe(demand, mapping, pages.first);
		else
			fill_later(demand, mapping, pages.first, outcome);
		if (outcome == UFFD_GONE || outcome == UFFD_CHANGING)
			return;
		pages.first++;
		pages.count--;
	}
}

/*
 * The page should be there. On shared memory CONTINUE tells without allocating: it maps the page,
 * or finds the hole. Elsewhere a COPY of zeros does.
 */
void fill_probe(struct demand *demand, struct mapping *mapping, uint64_t page)
{
	struct memory *memory = mapping->memory;
	bool is_shared = memory->kind == BACKING_SHMEM || memory->kind == BACKING_HUGETLB;
	struct hva_range range = fill_range(mapping, (struct page_range){ page, 1 });
	uint64_t done_bytes = 0;
	int outcome = UFFD_NO_PAGE;

	if (is_shared && !map_begins(demand, mapping, page))
		return;
	if (is_shared)
		outcome = uffd_continue(mapping->mapper->uffd, range, map_flags(demand, memory),
					&done_bytes);
	if (outcome == UFFD_NO_PAGE) {
		outcome = uffd_copy(mapping->mapper->uffd, range.start, demand->zeros,
				    memory->page_bytes, fill_flags(memory), &done_bytes);
		if (outcome == 0 && !demand->is_graduated[memory->id]) {
			memory_mark_dirty(memory, (struct page_range){ page, 1 });
			count_add(&demand->counters.discards_unannounced, 1);
			demand_tell(demand, UFD_EVENT_DISCARD_UNANNOUNCED, memory, page, 0);
		}
		/* the hole was real: an EEXIST now is an empty pool */
		if (outcome == UFFD_PRESENT && is_shared)
			outcome = UFFD_NO_MEMORY;
	}
	if (outcome)
		fill_later(demand, mapping, page, outcome);
}
