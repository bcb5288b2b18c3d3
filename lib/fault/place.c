/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Placing: bytes that are at hand go into the pages of a slot, and each outcome of the kernel is
 * dealt with. The slot ends here, or waits.
 */
#include "base/clock.h"
#include "fault/fill.h"
#include "kernel/backing.h"
#include "kernel/pagemap.h"
#include "kernel/uffd.h"

#define RETRY_MIN_NS	   (10 * NSEC_PER_USEC)
#define RETRY_MAX_NS	   NSEC_PER_MSEC
#define EXHAUSTED_RETRY_NS (20 * NSEC_PER_MSEC)
#define EXHAUSTED_TRIES	   8

/* Is the zero page allowed here? It cannot carry a write-protect mark, and never covers a private
 * file. */
static bool fill_may_zeropage(const struct memory *memory)
{
	return !memory_is_tracked(memory) &&
	       (memory->kind == BACKING_ANON || memory->kind == BACKING_SHMEM);
}

/* As many as there are zeros at hand. */
static int copy_zeros(struct demand *demand, struct mapping *mapping, struct page_range pages,
		      uint64_t *ret_done_bytes)
{
	struct memory *memory = mapping->memory;

	return uffd_copy(mapping->mapper->uffd, mapping_address(mapping, pages.first),
			 demand->zeros, min_u64(pages.count * memory->page_bytes, ZEROS_BYTES),
			 fill_flags(memory), ret_done_bytes);
}

int fill_zeros(struct demand *demand, struct mapping *mapping, struct page_range pages,
	       uint64_t *ret_done_bytes)
{
	uint64_t copied_bytes = 0;
	int outcome;

	if (!fill_may_zeropage(mapping->memory))
		return copy_zeros(demand, mapping, pages, ret_done_bytes);
	outcome = uffd_zeropage(mapping->mapper->uffd, fill_range(mapping, pages), 0,
				ret_done_bytes);
	if (outcome != UFFD_PRESENT)
		return outcome;
	/*
	 * A mark of write-protection may be left where there is no page: the end of tracking could not take
	 * it away while the process was changing its address space. Only COPY takes its place.
	 */
	pages.first += *ret_done_bytes / mapping->memory->page_bytes;
	pages.count = 1;
	outcome = copy_zeros(demand, mapping, pages, &copied_bytes);
	*ret_done_bytes += copied_bytes;
	return outcome;
}

/* Is there really a page of ours or the guest's at @page of this mapping? -errno if that cannot be
 * told. */
int fill_prove(struct mapping *mapping, uint64_t page, bool *ret_exists)
{
	struct memory *memory = mapping->memory;
	struct mapper *mapper = mapping->mapper;
	uint64_t word = 0;
	int r;

	if (memory->kind == BACKING_SHMEM) {
		/* A full tmpfs says ENOMEM; and SEEK_DATA does not see allocated, unwritten pages. */
		*ret_exists = true;
		return 0;
	}
	if (memory->kind == BACKING_HUGETLB)
		return backing_has_page(memory->backing,
					memory->backing_offset + page * memory->page_bytes,
					ret_exists);
	r = pagemap_open_once(&mapper->pagemap, mapper->pid);
	if (r < 0)
		return r;
	/* there is one, and it says nothing now: not proved */
	if (pagemap_read(mapper->pagemap, mapping_address(mapping, page), &word, 1) < 0)
		word = 0;
	*ret_exists = word & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED);
	return 0;
}

/* An empty pool, no memory, or an EEXIST that proves nothing: later again, a bounded number of
 * times. */
static void fill_exhausted(struct demand *demand, struct slot *slot, uint64_t page)
{
	count_add(&demand->counters.exhausted, 1);
	if (slot->n_tries == 0)
		demand_tell(demand, UFD_EVENT_EXHAUSTED, slot->memory, page, 0);
	if (++slot->n_tries >= EXHAUSTED_TRIES && !slot->is_recovered) {
		slot->pages.count -= page - slot->pages.first;
		slot->pages.first = page;
		fill_fail(demand, slot, ENOMEM);
		return;
	}
	count_add(&demand->counters.retries, 1);
	demand_note(demand, FLIGHT_FAILED, slot->memory, page, ENOMEM);
	fill_wait(demand, slot, demand->now_ns + EXHAUSTED_RETRY_NS, ENOMEM);
}

/* EEXIST at @page. Return: true to go on with the next page. */
static bool fill_exists(struct demand *demand, struct slot *slot, struct mapping *mapping,
			uint64_t page)
{
	struct memory *memory = slot->memory;
	/* Where the file is the source, what it holds is right (and not always seen as data). */
	bool may_be_foreign = !memory->is_backing_source && !slot->is_recovered &&
			      (memory->kind == BACKING_SHMEM || memory->kind == BACKING_HUGETLB);
	bool exists = false;
	int r = fill_prove(mapping, page, &exists);

	if (r < 0 && memory->kind == BACKING_ANON)
		exists = true; /* no pagemap: small anonymous pages answer ENOMEM when memory is out
				*/
	if (!exists) {
		fill_exhausted(demand, slot, page);
		return false;
	}
	if (may_be_foreign) {
		foreign_touch(demand, slot, page);
		return false;
	}
	fill_present(demand, memory, (struct page_range){ page, 1 });
	fill_wake_others(demand, memory, (struct page_range){ page, 1 }, NULL);
	return true;
}

/* @page fell out of every mapping, or of the file. */
static void fill_lose(struct demand *demand, struct slot *slot, uint64_t page,
		      enum page_state state)
{
	struct memory *memory = slot->memory;
	struct page_range one = { page, 1 };
	bool is_kept = false;

	/* What is in doubt is the guest's if the file still has it. */
	if (slot->is_recovered && state == PAGE_ABSENT &&
	    (memory->kind == BACKING_SHMEM || memory->kind == BACKING_HUGETLB) &&
	    backing_has_page(memory->backing, memory->backing_offset + page * memory->page_bytes,
			     &is_kept) < 0)
		is_kept = true;
	if (is_kept)
		fill_present(demand, memory, one);
	else if (page_states_move(&memory->states, page, PAGE_FILLING, state) &&
		 state == PAGE_REMOVED)
		demand_settled(demand, memory, 1);
	/* Pages go in order. One that is absent again may be claimed by another slot. */
	slot->pages.count -= page + 1 - slot->pages.first;
	slot->pages.first = page + 1;
	if (slot->is_recovered)
		put_note(demand, slot, slot->pages);
	stall_forget(demand, memory, one);
	fill_wake_others(demand, memory, one, NULL);
}

/*
 * Is it true that the file ends before @page? The kernel says the same when it cannot read what we copy
 * from, and a page that is given up reads zero from then on.
 */
static bool fill_is_past_end(const struct memory *memory, uint64_t page)
{
	uint64_t length_bytes;

	return memory->kind != BACKING_ANON &&
	       backing_length(memory->backing, &length_bytes) == 0 &&
	       memory->backing_offset + page * memory->page_bytes >= length_bytes;
}

/* The open mapping behind @mapping that shows @page, too; NULL if there is none. */
static struct mapping *fill_next_mapping(const struct demand *demand, const struct mapping *mapping,
					 uint64_t page)
{
	const struct guest_view *view = demand->view;
	bool is_behind = false;

	for (uint32_t i = 0; i < view->n_mappings; i++) {
		struct mapping *next = view->mappings[i];

		if (is_behind && next->memory == mapping->memory && next->is_open &&
		    !next->mapper->is_gone && mapping_shows(next, page))
			return next;
		is_behind |= next == mapping;
	}
	return NULL;
}

static bool fill_put_run(struct demand *demand, struct slot *slot, struct mapping *mapping,
			 struct page_range run);

/* An outcome other than done at @page. Return: true to go on, false if the slot waits or is gone.
 */
static bool fill_outcome(struct demand *demand, struct slot *slot, struct mapping *mapping,
			 uint64_t page, int outcome)
{
	switch (outcome) {
	case UFFD_PRESENT:
		return fill_exists(demand, slot, mapping, page);
	case UFFD_UNMAPPED:
		mapping = fill_next_mapping(demand, mapping, page);
		if (mapping)
			return fill_put_run(demand, slot, mapping, (struct page_range){ page, 1 });
		fill_lose(demand, slot, page, PAGE_ABSENT);
		return true;
	case UFFD_PAST_END:
		if (!fill_is_past_end(slot->memory, page)) {
			fill_exhausted(demand, slot, page);
			return false;
		}
		fill_lose(demand, slot, page, PAGE_REMOVED);
		return true;
	case UFFD_GONE:
		demand_mapper_gone(demand, mapping->mapper);
		return true;
	case UFFD_CHANGING:
		demand->is_busy_elsewhere = true;
		demand->readers[mapping->mapper->id].is_ready = true;
		count_add(&demand->counters.retries, 1);
		fill_wait(demand, slot,
			  demand->now_ns + min_u64(RETRY_MIN_NS << min_u64(slot->n_tries++, 16),
						   RETRY_MAX_NS),
			  EAGAIN);
		return false;
	default:
		fill_exhausted(demand, slot, page);
		return false;
	}
}

/*
 * Put in the start of @run, which is filling and shown by @mapping.
 * Return: true to go on with what still fills, false if the slot waits or is gone.
 */
static bool fill_put_run(struct demand *demand, struct slot *slot, struct mapping *mapping,
			 struct page_range run)
{
	struct memory *memory = slot->memory;
	const unsigned char *bytes = slot->buffer;
	uint64_t done_bytes = 0, n_done;
	int outcome;

	if (!slot->is_recovered)
		put_note(demand, slot, run);
	if (slot->is_zero)
		outcome = fill_zeros(demand, mapping, run, &done_bytes);
	else
		outcome = uffd_copy(mapping->mapper->uffd, mapping_address(mapping, run.first),
				    bytes + (run.first - slot->bytes_first) * memory->page_bytes,
				    run.count * memory->page_bytes, fill_flags(memory),
				    &done_bytes);

	n_done = done_bytes / memory->page_bytes;
	if (n_done) {
		struct page_range done = { run.first, n_done };

		fill_present(demand, memory, done);
		fill_count(demand, slot->cause, n_done, memory->page_bytes);
		if (slot->is_zero)
			count_add(&demand->counters.pages_zero, n_done);
		track_protect_others(demand, memory, done, mapping);
		fill_wake_others(demand, memory, done, mapping);
		slot->n_tries = 0;
	}
	if (!slot->is_recovered)
		put_clear(demand, slot);
	if (outcome == 0)
		return true;
	/* A range across two VMAs is refused whole: try its first page alone. */
	if (outcome == UFFD_UNMAPPED && !n_done && run.count > 1)
		return fill_put_run(demand, slot, mapping, (struct page_range){ run.first, 1 });
	return fill_outcome(demand, slot, mapping, run.first + n_done, outcome);
}

void fill_put(struct demand *demand, struct slot *slot)
{
	struct memory *memory = slot->memory;
	bool is_demand = slot->cause == CAUSE_DEMAND && !slot->is_recovered;
	uint64_t started_ns = slot->started_ns;
	struct page_range run;

	while (page_states_find(&memory->states, slot->pages, PAGE_FILLING, &run)) {
		struct mapping *mapping = guest_view_find_page(demand->view, memory, run.first);

		if (!mapping && slot->is_recovered) {
			fill_lose(demand, slot, run.first, PAGE_ABSENT);
			continue;
		}
		if (!mapping) {
			fill_give_back(demand, slot, PAGE_ABSENT);
			return;
		}
		if (!fill_put_run(demand, slot, mapping, mapping_clip(mapping, run)))
			return;
	}
	fill_end(demand, slot);
	if (is_demand)
		histogram_add(&demand->counters.demand_latency, clock_now_ns() - started_ns);
}
