/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Fills: from the claim of absent pages to their presence.
 *
 * Every way out wakes whoever may wait: a successful ioctl does it for the mapping it filled, all
 * other ways do it by UFFDIO_WAKE. A page that is given back as absent faults again.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "fault/engine.h"
#include "kernel/backing.h"
#include "kernel/pagemap.h"
#include "kernel/uffd.h"
#include "source/source.h"

#define RETRY_MIN_NS	   (10 * NSEC_PER_USEC)
#define RETRY_MAX_NS	   NSEC_PER_MSEC
#define EXHAUSTED_RETRY_NS (20 * NSEC_PER_MSEC)
#define EXHAUSTED_TRIES	   8
#define RECOVERED_RETRY_NS (200 * NSEC_PER_MSEC)
#define RING_FULL_RETRY_NS (200 * NSEC_PER_USEC)

static unsigned int fill_flags(const struct memory *memory)
{
	return memory->dirty ? UFFD_FILL_WP : 0;
}

static struct hva_range fill_range(const struct mapping *mapping, struct page_range pages)
{
	return (struct hva_range){ mapping_address(mapping, pages.first),
				   pages.count * mapping->memory->page_bytes };
}

void fill_wake(struct demand *demand, struct mapping *mapping, struct page_range pages)
{
	if (mapping->mapper->is_gone)
		return;
	(void)uffd_wake(mapping->mapper->uffd, fill_range(mapping, pages));
	count_add(&demand->counters.wakes, 1);
}

/* In every mapping but @done, which the kernel has woken already. */
static void fill_wake_others(struct demand *demand, const struct memory *memory,
			     struct page_range pages, const struct mapping *done)
{
	if (done && memory->n_mappings < 2)
		return;
	for (uint32_t i = 0; i < demand->view->n_mappings; i++) {
		struct mapping *mapping = demand->view->mappings[i];
		struct page_range shown;

		if (mapping == done || mapping->memory != memory)
			continue;
		shown = mapping_clip(mapping, pages);
		if (shown.count)
			fill_wake(demand, mapping, shown);
	}
}

static void fill_count(struct demand *demand, enum slot_cause cause, uint64_t n_pages,
		       uint64_t page_bytes)
{
	struct fault_counters *counters = &demand->counters;

	switch (cause) {
	case CAUSE_DEMAND:
		count_add(&counters->pages_demand, n_pages);
		break;
	case CAUSE_WINDOW:
		count_add(&counters->pages_window, n_pages);
		break;
	case CAUSE_BACKGROUND:
		count_add(&counters->pages_background, n_pages);
		break;
	}
	count_add(&counters->filled_bytes, n_pages * page_bytes);
}

/* @pages are in place: the ledger says so. */
static void fill_present(struct demand *demand, struct memory *memory, struct page_range pages)
{
	uint64_t n = page_states_move_all(&memory->states, pages, PAGE_FILLING, PAGE_PRESENT);

	demand_settled(demand, memory, n);
	stall_forget(demand, memory, pages);
}

static void fill_end(struct demand *demand, struct slot *slot)
{
	if (slot->is_recovered)
		put_clear(demand, slot);
	slot_release(&demand->slots, slot);
}

void fill_give_back(struct demand *demand, struct slot *slot, enum page_state state)
{
	struct memory *memory = slot->memory;
	uint64_t n = page_states_move_all(&memory->states, slot->pages, PAGE_FILLING, state);

	if (state == PAGE_REMOVED) {
		count_add(&demand->counters.pages_zero, n);
		demand_settled(demand, memory, n);
		stall_forget(demand, memory, slot->pages);
	} else {
		stall_unask(demand, memory, slot->pages);
	}
	if (n)
		fill_wake_others(demand, memory, slot->pages, NULL);
	fill_end(demand, slot);
}

/* The slot's bytes cannot be had. */
static void fill_fail(struct demand *demand, struct slot *slot, int error)
{
	struct memory *memory = slot->memory;
	uint64_t page = slot->pages.first;
	bool is_demand = slot->cause == CAUSE_DEMAND;

	count_add(&demand->counters.source_errors, 1);
	if (slot->is_recovered) {
		/* Nobody may claim these anew: what exists there is the guest's. */
		slot->has_bytes = false;
		slot_wait(&demand->slots, slot, demand->now_ns + RECOVERED_RETRY_NS);
		return;
	}
	if (is_demand && page_states_get(&memory->states, page) == PAGE_FILLING) {
		/* Known as stalled before its waiter is woken and faults again. */
		(void)page_states_move(&memory->states, page, PAGE_FILLING, PAGE_ABSENT);
		stall_add(demand, memory, page, error);
	}
	fill_give_back(demand, slot, PAGE_ABSENT);
}

bool fill_is_zero(struct demand *demand, struct memory *memory, struct page_range pages,
		  uint64_t *ret_n_pages)
{
	uint64_t offset = pages.first * memory->page_bytes;
	uint64_t length = pages.count * memory->page_bytes, found = 0, found_bytes = 0;
	int answer;

	*ret_n_pages = pages.count;
	if (memory->is_backing_source) {
		uint64_t start = memory->backing_offset + offset;

		if (backing_find_data(memory->backing, start, start + length, &found,
				      &found_bytes) < 0)
			return false;
		if (!found_bytes)
			return true;
		if (found == start) {
			*ret_n_pages = max_u64(found_bytes / memory->page_bytes, 1);
			return false;
		}
		*ret_n_pages = (found - start) / memory->page_bytes;
		return *ret_n_pages > 0;
	}

	answer = source_extent(memory->source, memory->source_offset + offset, length,
			       &found_bytes);
	if (answer != SOURCE_ZERO) {
		*ret_n_pages = (found_bytes + memory->page_bytes - 1) / memory->page_bytes;
		return false;
	}
	if (found_bytes < memory->page_bytes) {
		*ret_n_pages = 1; /* zero in part: read it */
		return false;
	}
	*ret_n_pages = found_bytes / memory->page_bytes;
	return true;
}

/* Holes that nobody asked for stay holes: they read zero without costing a page. */
static void fill_leave_hole(struct demand *demand, struct memory *memory, struct page_range pages)
{
	uint64_t n = page_states_move_all(&memory->states, pages, PAGE_ABSENT, PAGE_REMOVED);

	count_add(&demand->counters.pages_zero, n);
	demand_settled(demand, memory, n);
}

/* The file holds the bytes: into the ledger, then CONTINUE. No slot is needed. */
static void fill_begin_backing(struct demand *demand, struct memory *memory, struct page_range run,
			       enum slot_cause cause)
{
	struct mapping *mapping = guest_view_find_page(demand->view, memory, run.first);
	uint64_t n;

	if (!mapping)
		return;
	run = mapping_clip(mapping, run);
	(void)page_states_move_all(&memory->states, run, PAGE_ABSENT, PAGE_FILLING);
	n = page_states_move_all(&memory->states, run, PAGE_FILLING, PAGE_PRESENT);
	demand_settled(demand, memory, n);
	fill_count(demand, cause, n, memory->page_bytes);
	fill_map(demand, mapping, run);
	fill_wake_others(demand, memory, run, mapping);
	if (cause == CAUSE_DEMAND)
		histogram_add(&demand->counters.demand_latency, clock_now_ns() - demand->fault_ns);
}

bool fill_begin(struct demand *demand, struct memory *memory, struct page_range pages,
		enum slot_cause cause)
{
	struct slot *slot;
	bool is_zero;
	uint64_t n;

	if (!page_states_find(&memory->states, pages, PAGE_ABSENT, &pages))
		return true;
	is_zero = fill_is_zero(demand, memory, pages, &n);
	pages.count = min_u64(pages.count, max_u64(n, 1));
	if (is_zero && cause != CAUSE_DEMAND) {
		fill_leave_hole(demand, memory, pages);
		return true;
	}
	if (memory->is_backing_source && !is_zero) {
		fill_begin_backing(demand, memory, pages, cause);
		return true;
	}

	slot = slot_take(&demand->slots, cause);
	if (!slot)
		return false;
	/* a demanded hole gets its one page: neighbours are free as holes */
	n = is_zero ? 1 : demand->slots.buffer_bytes / memory->page_bytes;
	pages.count = min_u64(pages.count, n);
	(void)page_states_move_all(&memory->states, pages, PAGE_ABSENT, PAGE_FILLING);

	slot->memory = memory;
	slot->pages = pages;
	slot->bytes_first = pages.first;
	slot->started_ns = demand->now_ns;
	if (is_zero) {
		slot->is_zero = true;
		slot->has_bytes = true;
		fill_put(demand, slot);
	} else {
		fill_read(demand, slot);
	}
	return true;
}

void fill_read(struct demand *demand, struct slot *slot)
{
	struct memory *memory = slot->memory;
	void *buffer = slot->buffer;

	slot->state = SLOT_READING;
	slot->bytes_first = slot->pages.first;
	slot->request.offset = memory->source_offset + slot->pages.first * memory->page_bytes;
	slot->request.length_bytes = slot->pages.count * memory->page_bytes;
	slot->request.buffer = buffer;
	slot->request.ring = demand->ring;
	slot->request.on_complete = fill_complete_elsewhere;
	slot->request.owner = demand;
	atomic_store_explicit(&slot->is_answered, false, memory_order_relaxed);
	fill_answer(demand, slot, source_read(memory->source, &slot->request));
}

/* Context: any thread. */
void fill_complete_elsewhere(struct source_request *request, int answer)
{
	struct slot *slot = (struct slot *)request; /* its first member */
	struct demand *demand = request->owner;
	uint64_t one = 1;

	slot->answer = answer;
	/* pairs with acquire in demand_answers() */
	atomic_store_explicit(&slot->is_answered, true, memory_order_release);
	atomic_fetch_add_explicit(&demand->n_answers, 1, memory_order_release);
	(void)!write(demand->command_fd, &one, sizeof(one));
}

static bool is_all_zero(const void *bytes, uint64_t length)
{
	const unsigned char *first = bytes;

	/* compares the range with itself one byte on: memcmp() is the fastest reader there is */
	return first[0] == 0 && memcmp(first, first + 1, length - 1) == 0;
}

void fill_answer(struct demand *demand, struct slot *slot, int answer)
{
	switch (answer) {
	case _SOURCE_DATA:
		slot->has_bytes = true;
		count_add(&demand->counters.source_bytes, slot->request.length_bytes);
		if (slot->cause == CAUSE_BACKGROUND && !slot->is_recovered &&
		    is_all_zero(slot->buffer, slot->request.length_bytes))
			fill_give_back(demand, slot, PAGE_REMOVED);
		else
			fill_put(demand, slot);
		return;
	case SOURCE_ZERO:
		slot->has_bytes = true;
		slot->is_zero = true;
		if (slot->cause != CAUSE_DEMAND)
			fill_give_back(demand, slot, PAGE_REMOVED);
		else
			fill_put(demand, slot);
		return;
	case SOURCE_PENDING:
		return;
	case SOURCE_FULL:
		slot_wait(&demand->slots, slot, demand->now_ns + RING_FULL_RETRY_NS);
		return;
	case SOURCE_CHANGED:
		demand_tell(demand, UFD_EVENT_SOURCE_CHANGED, slot->memory, slot->pages.first, 0);
		fill_fail(demand, slot, ESTALE);
		return;
	case SOURCE_SHORT:
		fill_fail(demand, slot, ENODATA);
		return;
	default:
		fill_fail(demand, slot, -answer);
		return;
	}
}

/* Is the zero page allowed here? It cannot carry a write-protect mark, and never covers a private
 * file. */
static bool fill_may_zeropage(const struct memory *memory)
{
	return !memory->dirty && (memory->kind == BACKING_ANON || memory->kind == BACKING_SHMEM);
}

static int fill_zeros(struct demand *demand, struct mapping *mapping, struct page_range pages,
		      uint64_t *ret_done_bytes)
{
	struct memory *memory = mapping->memory;

	if (fill_may_zeropage(memory))
		return uffd_zeropage(mapping->mapper->uffd, fill_range(mapping, pages), 0,
				     ret_done_bytes);
	return uffd_copy(mapping->mapper->uffd, mapping_address(mapping, pages.first),
			 demand->zeros, min_u64(pages.count * memory->page_bytes, ZEROS_BYTES),
			 fill_flags(memory), ret_done_bytes);
}

/* Is there really a page of ours or the guest's at @page of this mapping? -errno if that cannot be
 * told. */
static int fill_prove(struct mapping *mapping, uint64_t page, bool *ret_exists)
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
	if (mapper->pagemap < 0) {
		r = pagemap_open(&mapper->pagemap, mapper->pid);
		if (r < 0)
			return r;
	}
	r = pagemap_read(mapper->pagemap, mapping_address(mapping, page), &word, 1);
	if (r < 0)
		return r;
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
	slot_wait(&demand->slots, slot, demand->now_ns + EXHAUSTED_RETRY_NS);
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
	stall_forget(demand, memory, one);
	fill_wake_others(demand, memory, one, NULL);
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
		fill_lose(demand, slot, page, PAGE_REMOVED);
		return true;
	case UFFD_GONE:
		demand_mapper_gone(demand, mapping->mapper);
		return true;
	case UFFD_CHANGING:
		demand->is_busy_elsewhere = true;
		demand->readers[mapping->mapper->id].is_ready = true;
		count_add(&demand->counters.retries, 1);
		slot_wait(&demand->slots, slot,
			  demand->now_ns + min_u64(RETRY_MIN_NS << min_u64(slot->n_tries++, 16),
						   RETRY_MAX_NS));
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
	fill_wake(demand, mapping, (struct page_range){ page, 1 });
}

void fill_zero(struct demand *demand, struct mapping *mapping, uint64_t page)
{
	struct memory *memory = mapping->memory;
	struct page_range one = { page, 1 };
	uint64_t done_bytes = 0;
	bool exists = false;
	int outcome;

	outcome = fill_zeros(demand, mapping, one, &done_bytes);
	if (outcome == 0) {
		if (page_states_move(&memory->states, page, PAGE_ABSENT, PAGE_REMOVED))
			demand_settled(demand, memory, 1);
		(void)page_states_move(&memory->states, page, PAGE_REMOVED, PAGE_PRESENT);
		count_add(&demand->counters.pages_zero, 1);
		fill_count(demand, CAUSE_DEMAND, 1, memory->page_bytes);
		fill_wake_others(demand, memory, one, mapping);
		histogram_add(&demand->counters.demand_latency, clock_now_ns() - demand->fault_ns);
		return;
	}
	if (outcome == UFFD_PRESENT && fill_prove(mapping, page, &exists) == 0 && !exists)
		outcome = UFFD_NO_MEMORY; /* an empty huge page pool says EEXIST too */
	fill_later(demand, mapping, page, outcome);
}

void fill_map(struct demand *demand, struct mapping *mapping, struct page_range pages)
{
	struct memory *memory = mapping->memory;

	while (pages.count) {
		uint64_t done_bytes = 0, n_done;
		int outcome = uffd_continue(mapping->mapper->uffd, fill_range(mapping, pages),
					    fill_flags(memory), &done_bytes);

		n_done = done_bytes / memory->page_bytes;
		pages.first += n_done;
		pages.count -= n_done;
		if (outcome == 0 || !pages.count)
			return;
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

	if (is_shared)
		outcome = uffd_continue(mapping->mapper->uffd, range, fill_flags(memory),
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
