/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the demand thread does for trackers: the answer to a write of a protected page, and states that
 * follow holes nobody told us of.
 */
#include <errno.h>

#include "fault/fill.h"
#include "kernel/backing.h"
#include "kernel/pagemap.h"
#include "kernel/uapi.h"
#include "kernel/uffd.h"

#define N_WORDS 512 /* of a page map, read at once */

/* ---- writes of protected pages ---- */

void track_unprotect_end(struct demand *demand)
{
	struct mapping *mapping = demand->unprotecting.mapping;
	struct page_range pages = demand->unprotecting.pages;
	struct hva_range range;
	int outcome;

	if (!mapping)
		return;
	demand->unprotecting.mapping = NULL;
	demand_note(demand, FLIGHT_WRITTEN, mapping->memory, pages.first, (int64_t)pages.count);
	range = fill_range(mapping, pages);
	outcome = uffd_write_protect(mapping->mapper->uffd, range, false);
	if (outcome == UFFD_GONE)
		demand_mapper_gone(demand, mapping->mapper);
	else if (outcome == UFFD_CHANGING)
		park_add(demand, mapping->mapper, range);
	else if (outcome)
		fill_wake(demand, mapping, pages);
}

void track_unprotect(struct demand *demand, struct mapping *mapping, uint64_t page)
{
	struct page_range *run = &demand->unprotecting.pages;

	/* before it may be written, and in the ledger: a successor knows of it, too */
	memory_mark_dirty(mapping->memory, (struct page_range){ page, 1 });
	if (!before_write_save(demand, mapping, page))
		return;
	if (demand->unprotecting.mapping == mapping && page - run->first < run->count)
		return;
	if (demand->unprotecting.mapping == mapping && page == run->first + run->count) {
		run->count++;
		return;
	}
	if (demand->unprotecting.mapping == mapping && page + 1 == run->first) {
		run->first--;
		run->count++;
		return;
	}
	track_unprotect_end(demand);
	demand->unprotecting.mapping = mapping;
	*run = (struct page_range){ page, 1 };
}

/*
 * An entry that the kernel dropped (swap, MADV_DONTNEED) keeps its protection as a marker, but one
 * that was written is dropped without a trace: mapping it protected again would hide the write from
 * a scan. (In a synchronous context the write was noted when it happened.)
 */
void track_note_written(struct mapping *mapping, uint64_t page)
{
	struct mapper *mapper = mapping->mapper;
	uint64_t word = 0;

	if (!memory_is_tracked(mapping->memory) || !(mapper->features & UFFD_FEATURE_WP_ASYNC))
		return;
	if (mapper->pagemap >= 0 &&
	    pagemap_read(mapper->pagemap, mapping_address(mapping, page), &word, 1) == 0 &&
	    word & PAGEMAP_UFFD_WP)
		return;
	memory_mark_dirty(mapping->memory, (struct page_range){ page, 1 });
}

void track_protect_others(struct demand *demand, const struct memory *memory,
			  struct page_range pages, const struct mapping *done)
{
	if (memory->n_mappings < (done ? 2 : 1) || !memory_is_tracked(memory))
		return;
	for (uint32_t i = 0; i < demand->view->n_mappings; i++) {
		struct mapping *mapping = demand->view->mappings[i];
		struct page_range shown;

		if (mapping == done || mapping->memory != memory || !mapping->is_open ||
		    mapping->mapper->is_gone ||
		    !(mapping->mapper->features & UFFD_FEATURE_WP_ASYNC))
			continue;
		shown = mapping_clip(mapping, pages);
		/* what fails is reported without need */
		if (shown.count)
			(void)uffd_write_protect(mapping->mapper->uffd, fill_range(mapping, shown),
						 true);
	}
}

/* ---- holes ---- */

/*
 * @pages of a memory whose bytes are in its file read zero, and were never touched. Protected first: a
 * scan takes empty page table entries for written ones.
 */
static void hole_settled(struct demand *demand, struct memory *memory, struct page_range pages)
{
	uint64_t n;

	track_protect_others(demand, memory, pages, NULL);
	n = page_states_move_all(&memory->states, pages, PAGE_ABSENT, PAGE_REMOVED);
	demand_settled(demand, memory, n);
	stall_forget(demand, memory, pages);
	fill_wake_others(demand, memory, pages, NULL);
}

static void holes_of_state(struct demand *demand, const struct command *command,
			   struct page_range pages, enum page_state state)
{
	struct memory *memory = command->memory;
	uint64_t end = pages.first + pages.count;
	struct page_range run;

	for (uint64_t at = pages.first;
	     page_states_find(&memory->states, (struct page_range){ at, end - at }, state, &run);
	     at = run.first + run.count) {
		if (command->is_written)
			before_write_lose(demand, memory, run);
		if (state == PAGE_ABSENT)
			hole_settled(demand, memory, run);
		else
			(void)page_states_move_all(&memory->states, run, state, PAGE_REMOVED);
		demand_note(demand, FLIGHT_REMOVED, memory, run.first, (int64_t)run.count);
		if (!command->is_written)
			continue;
		memory_mark_dirty(memory, run);
		count_add(&demand->counters.discards_unannounced, run.count);
		demand_tell(demand, UFD_EVENT_DISCARD_UNANNOUNCED, memory, run.first, 0);
	}
}

/* Pages that nobody has touched have content, too, if it is the file's. */
static void holes_in(struct demand *demand, const struct command *command, struct page_range pages)
{
	holes_of_state(demand, command, pages, PAGE_PRESENT);
	if (command->memory->is_backing_source)
		holes_of_state(demand, command, pages, PAGE_ABSENT);
}

/*
 * Asked here, where nobody else fills: what is a hole now stays one until we answer a fault of it. Who
 * sends the command has found it to be a hole before, so that little is looked at.
 */
static int holes_of_file(struct demand *demand, const struct command *command)
{
	const struct memory *memory = command->memory;
	uint64_t page_bytes = memory->page_bytes, base = memory->backing_offset;
	uint64_t at = command->pages.first, end = at + command->pages.count;

	while (at < end) {
		uint64_t stop = 0;
		int r = backing_hole_end(memory->backing, base + at * page_bytes,
					 base + end * page_bytes, &stop);

		if (r < 0)
			return r;
		stop = (stop - base) / page_bytes;
		holes_in(demand, command, (struct page_range){ at, stop - at });
		at = stop + 1;
	}
	return 0;
}

/* The same of anonymous memory, whose page tables tell. */
static int holes_of_words(struct demand *demand, const struct command *command,
			  struct mapping *mapping, struct page_range left)
{
	uint64_t words[N_WORDS];

	while (left.count) {
		/* of a huge page the first word tells */
		uint64_t n = mapping->memory->is_huge ? 1 : min_u64(left.count, N_WORDS);
		int r = pagemap_read(mapping->mapper->pagemap, mapping_address(mapping, left.first),
				     words, n);

		if (r < 0)
			return r;
		for (uint64_t i = 0; i < n; i++)
			if (!pagemap_is_used(words[i]))
				holes_in(demand, command, (struct page_range){ left.first + i, 1 });
		left.first += n;
		left.count -= n;
	}
	return 0;
}

static int holes_of_tables(struct demand *demand, const struct command *command)
{
	for (uint32_t i = 0; i < demand->view->n_mappings; i++) {
		struct mapping *mapping = demand->view->mappings[i];
		struct page_range shown;
		int r;

		if (mapping->memory != command->memory || mapping->mapper->is_gone)
			continue;
		shown = mapping_clip(mapping, command->pages);
		r = pagemap_open_once(&mapping->mapper->pagemap, mapping->mapper->pid);
		if (r == 0)
			r = holes_of_words(demand, command, mapping, shown);
		if (r < 0)
			return r;
	}
	return 0;
}

int track_holes(struct demand *demand, const struct command *command)
{
	switch (command->memory->kind) {
	case BACKING_SHMEM:
	case BACKING_HUGETLB:
		return holes_of_file(demand, command);
	case BACKING_ANON:
		return holes_of_tables(demand, command);
	case BACKING_PRIVATE:
		break; /* what is missing there shows the file */
	}
	return 0;
}
