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
#include "fault/fill.h"
#include "kernel/backing.h"
#include "kernel/uffd.h"
#include "source/source.h"

#define RECOVERED_RETRY_NS (200 * NSEC_PER_MSEC)
#define HUGE_HOLE_PAGES	   32
#define RING_FULL_RETRY_NS (200 * NSEC_PER_USEC)

unsigned int fill_flags(const struct memory *memory)
{
	return memory_is_tracked(memory) ? UFFD_FILL_WP : 0;
}

struct hva_range fill_range(const struct mapping *mapping, struct page_range pages)
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
void fill_wake_others(struct demand *demand, const struct memory *memory, struct page_range pages,
		      const struct mapping *done)
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

void fill_count(struct demand *demand, enum slot_cause cause, uint64_t n_pages, uint64_t page_bytes)
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
void fill_present(struct demand *demand, struct memory *memory, struct page_range pages)
{
	uint64_t n = page_states_move_all(&memory->states, pages, PAGE_FILLING, PAGE_PRESENT);

	demand_settled(demand, memory, n);
	stall_forget(demand, memory, pages);
	if (n)
		demand_note(demand, FLIGHT_FILLED, memory, pages.first, (int64_t)n);
}

void fill_end(struct demand *demand, struct slot *slot)
{
	if (slot->is_recovered)
		put_clear(demand, slot);
	board_free(demand, slot);
	slot_release(&demand->slots, slot);
}

void fill_wait(struct demand *demand, struct slot *slot, uint64_t retry_at_ns, int error)
{
	slot_wait(&demand->slots, slot, retry_at_ns);
	board_fill(demand, slot, BOARD_WAITING, error);
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
void fill_fail(struct demand *demand, struct slot *slot, int error)
{
	struct memory *memory = slot->memory;
	uint64_t page = slot->pages.first;
	bool is_demand = slot->cause == CAUSE_DEMAND;

	count_add(&demand->counters.source_errors, 1);
	demand_note(demand, FLIGHT_FAILED, memory, page, error);
	if (slot->is_recovered) {
		/* Nobody may claim these anew: what exists there is the guest's. */
		slot->has_bytes = false;
		fill_wait(demand, slot, demand->now_ns + RECOVERED_RETRY_NS, error);
		return;
	}
	if (is_demand && page_states_get(&memory->states, page) == PAGE_FILLING) {
		/* Known as stalled before its waiter is woken and faults again. */
		(void)page_states_move(&memory->states, page, PAGE_FILLING, PAGE_ABSENT);
		stall_add(demand, memory, page, error);
	}
	fill_give_back(demand, slot, PAGE_ABSENT);
}

/*
 * The same of a memory whose bytes are in its file. Asking costs the kernel a walk over all bytes
 * up to the next hole (or, with huge pages, a look at each), so what it says is kept. A page that
 * vanishes from a run that is kept is noticed by its CONTINUE, as if it had vanished right after.
 */
static bool fill_is_hole(struct demand *demand, struct memory *memory, struct page_range pages,
			 uint64_t *ret_n_pages)
{
	struct data_run *run = &demand->data_runs[memory->id];
	uint64_t start = memory->backing_offset + pages.first * memory->page_bytes;
	uint64_t end = memory->backing_offset + memory->length_bytes, found = 0, found_bytes = 0;

	if (start < run->start || start >= run->end) {
		if (memory->kind == BACKING_HUGETLB)
			end = min_u64(end, start + max_u64(pages.count, DATA_RUN_HUGE_PAGES) *
							   memory->page_bytes);
		if (backing_find_data(memory->backing, start, end, &found, &found_bytes) < 0)
			return false;
		if (!found_bytes)
			return true;
		*run = (struct data_run){ found, found + found_bytes };
	}
	if (start < run->start) {
		*ret_n_pages = min_u64(pages.count, (run->start - start) / memory->page_bytes);
		return *ret_n_pages > 0;
	}
	*ret_n_pages = min_u64(pages.count, max_u64((run->end - start) / memory->page_bytes, 1));
	return false;
}

bool fill_is_zero(struct demand *demand, struct memory *memory, struct page_range pages,
		  uint64_t *ret_n_pages)
{
	uint64_t offset = pages.first * memory->page_bytes;
	uint64_t length = pages.count * memory->page_bytes, found_bytes = 0;
	int answer;

	*ret_n_pages = pages.count;
	if (memory->is_backing_source)
		return fill_is_hole(demand, memory, pages, ret_n_pages);

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

/*
 * How many pages at the start of @pages, which are to read zero, have nothing in the file: others may
 * have made some, and those must be restored.
 */
static uint64_t fill_untouched(const struct memory *memory, struct page_range pages)
{
	uint64_t start = memory->backing_offset + pages.first * memory->page_bytes;
	uint64_t found = 0, found_bytes = 0;

	if (memory->is_backing_source ||
	    (memory->kind != BACKING_SHMEM && memory->kind != BACKING_HUGETLB))
		return pages.count;
	if (memory->kind == BACKING_HUGETLB) /* half a microsecond each */
		pages.count = min_u64(pages.count, HUGE_HOLE_PAGES);
	if (backing_find_data(memory->backing, start, start + pages.count * memory->page_bytes,
			      &found, &found_bytes) < 0)
		return 0;
	return found_bytes ? (found - start) / memory->page_bytes : pages.count;
}

/*
 * Holes that nobody asked for stay holes: they read zero without costing a page. A tracker would take their empty
 * page table entries for written ones, were they not protected.
 */
static void fill_leave_hole(struct demand *demand, struct memory *memory, struct page_range pages)
{
	uint64_t n;

	track_protect_others(demand, memory, pages, NULL);
	n = page_states_move_all(&memory->states, pages, PAGE_ABSENT, PAGE_REMOVED);

	count_add(&demand->counters.pages_zero, n);
	demand_settled(demand, memory, n);
	if (!demand->stalls.n)
		return;
	/* somebody may wait for a page that stalled */
	stall_forget(demand, memory, pages);
	fill_wake_others(demand, memory, pages, NULL);
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
	demand_note(demand, FLIGHT_FILLED, memory, run.first, (int64_t)n);
	fill_map(demand, mapping, run);
	track_protect_others(demand, memory, run, mapping);
	fill_wake_others(demand, memory, run, mapping);
	if (cause == CAUSE_DEMAND)
		histogram_add(&demand->counters.demand_latency, clock_now_ns() - demand->fault_ns);
}

/* The group's limit is too near. As fill_begin(). */
static bool fill_hold(struct demand *demand, struct memory *memory, uint64_t page,
		      enum slot_cause cause)
{
	if (cause != CAUSE_DEMAND || !demand_is_held(demand))
		return false;
	count_add(&demand->counters.exhausted, 1);
	stall_add(demand, memory, page, ENOMEM);
	return true;
}

bool fill_begin(struct demand *demand, struct memory *memory, struct page_range pages,
		enum slot_cause cause)
{
	struct slot *slot;
	bool is_zero;
	uint64_t n;

	if (!page_states_find(&memory->states, pages, PAGE_ABSENT, &pages))
		return true;
	/* a minor fault is the kernel's word that its page is in the file */
	if (memory->is_backing_source && cause == CAUSE_DEMAND && pages.count == 1) {
		fill_begin_backing(demand, memory, pages, cause);
		return true;
	}
	is_zero = fill_is_zero(demand, memory, pages, &n);
	pages.count = min_u64(pages.count, max_u64(n, 1));
	n = is_zero && cause != CAUSE_DEMAND ? fill_untouched(memory, pages) : 0;
	if (n) {
		fill_leave_hole(demand, memory, (struct page_range){ pages.first, n });
		return true;
	}
	if (memory->is_backing_source && !is_zero) {
		fill_begin_backing(demand, memory, pages, cause);
		return true;
	}

	/* larger pages came, and no buffer holds one yet */
	if (memory->page_bytes > demand->slots.buffer_bytes)
		return false;
	n = allowance_pages(demand, memory, cause, pages.count);
	if (!n)
		return fill_hold(demand, memory, pages.first, cause);
	pages.count = n;
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
	board_fill(demand, slot, BOARD_FILLING, 0);
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
	slot->request.spare = slot->spare;
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

	atomic_fetch_add_explicit(&demand->n_completing, 1, memory_order_relaxed);
	slot->answer = answer;
	/* pairs with acquire in demand_answers() */
	atomic_store_explicit(&slot->is_answered, true, memory_order_release);
	atomic_fetch_add_explicit(&demand->n_answers, 1, memory_order_release);
	(void)!write(demand->command_fd, &one, sizeof(one));
	/* our last touch; pairs with acquire in demand_drain() */
	atomic_fetch_sub_explicit(&demand->n_completing, 1, memory_order_release);
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
		    is_all_zero(slot->buffer, slot->request.length_bytes) &&
		    fill_untouched(slot->memory, slot->pages) == slot->pages.count)
			fill_give_back(demand, slot, PAGE_REMOVED);
		else
			fill_put(demand, slot);
		return;
	case SOURCE_ZERO:
		slot->has_bytes = true;
		slot->is_zero = true;
		if (slot->cause != CAUSE_DEMAND &&
		    fill_untouched(slot->memory, slot->pages) == slot->pages.count)
			fill_give_back(demand, slot, PAGE_REMOVED);
		else
			fill_put(demand, slot);
		return;
	case SOURCE_PENDING:
		board_fill(demand, slot, BOARD_READING, 0);
		demand_note(demand, FLIGHT_READ, slot->memory, slot->pages.first,
			    (int64_t)slot->pages.count);
		return;
	case SOURCE_FULL:
		fill_wait(demand, slot, demand->now_ns + RING_FULL_RETRY_NS, 0);
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
