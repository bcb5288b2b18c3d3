/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Messages: read into the ledger, events before faults.
 *
 * A REMOVE that was read is never shown again, and its page must not be filled from the source ever
 * after. So it is read straight into the ledger and cleared there only when it is in the page
 * states; a successor that finds the buffer set applies it again. Clearing comes before the first
 * fill of the batch: replaying a REMOVE after its page was filled and written would lose the write.
 */
#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "fault/decide.h"
#include "fault/engine.h"
#include "fault/fill.h"
#include "kernel/uapi.h"
#include "kernel/uffd.h"

/* The pages of every mapping of @mapper in @range read zero from now on. */
static void message_remove(struct demand *demand, struct mapper *mapper, struct hva_range range)
{
	uint64_t end = range.start.v + range.length_bytes;

	for (uint32_t i = 0; i < demand->view->n_mappings; i++) {
		struct mapping *mapping = demand->view->mappings[i];
		struct memory *memory = mapping->memory;
		uint64_t first = max_u64(mapping->range.start.v, range.start.v);
		uint64_t last = min_u64(mapping->range.start.v + mapping->range.length_bytes, end);
		struct page_range pages;

		/* A page that is removed only in part keeps its content in the rest. */
		first = align_up(first, memory->page_bytes);
		last = align_down(last, memory->page_bytes);
		if (mapping->mapper != mapper || memory->is_forgotten || first >= last)
			continue;
		pages.first = mapping_page(mapping, (struct hva){ first });
		pages.count = (last - first) / memory->page_bytes;
		/* who waited anywhere for a fill that is now void faults again, and gets zeros */
		if (discard_pages(demand, memory, pages))
			fill_wake_others(demand, memory, pages, NULL);
	}
}

static void message_apply_event(struct demand *demand, struct mapper *mapper,
				const struct uffd_msg *message)
{
	if (message->event != UFFD_EVENT_REMOVE)
		return;
	count_add(&demand->counters.removes, 1);
	message_remove(demand, mapper,
		       (struct hva_range){ { message->arg.remove.start },
					   message->arg.remove.end - message->arg.remove.start });
}

void messages_replay(struct demand *demand)
{
	struct ledger_messages *buffer = ledger_messages(demand->guest->ledger);

	if (!atomic_load(&buffer->is_reading))
		return;
	if (buffer->mapper < demand->n_mappers)
		for (unsigned int i = 0; i < LEDGER_N_MESSAGES; i++)
			message_apply_event(demand, &demand->guest->mappers[buffer->mapper],
					    &buffer->messages[i]);
	memset(buffer->messages, 0, sizeof(buffer->messages));
	atomic_store(&buffer->is_reading, 0);
}

/* Poisoned pages stay so, also after a discard has cleared the marker. */
static bool fault_on_poison(struct demand *demand, struct mapping *mapping, uint64_t page)
{
	if (!mapping->memory->n_poisoned || !memory_is_poisoned(mapping->memory, page))
		return false;
	stall_put_poison(demand, mapping, page);
	return true;
}

static void fault_fill(struct demand *demand, struct mapping *mapping, uint64_t page)
{
	struct memory *memory = mapping->memory;

	if (stall_knows(demand, memory, page))
		return;
	if (!fill_begin(demand, memory, window_plan(demand, memory, page), CAUSE_DEMAND))
		park_add(demand, mapping->mapper,
			 (struct hva_range){ mapping_address(mapping, page), memory->page_bytes });
}

/* The bytes are in the file: this page, and with it a window of them. */
static void fault_map_first(struct demand *demand, struct mapping *mapping, uint64_t page)
{
	struct memory *memory = mapping->memory;
	struct page_range pages = { page, 1 };

	if (page_states_move(&memory->states, page, PAGE_REMOVED, PAGE_PRESENT)) {
		track_note_written(mapping, page);
		fill_map(demand, mapping, pages);
		return;
	}
	fault_fill(demand, mapping, page);
}

void fault_resolve(struct demand *demand, struct mapper *mapper, struct hva address,
		   enum fault_kind kind, uint32_t thread)
{
	struct mapping *mapping = guest_view_find(demand->view, mapper->id, address);
	enum page_state state;
	uint64_t page;

	if (!mapping) {
		/* being removed: unregistering wakes it; or not ours to answer */
		count_add(&demand->counters.faults_strange, 1);
		return;
	}
	if (!mapping->is_open)
		return; /* COMMAND_OPEN wakes it, or who unregisters */
	page = mapping_page(mapping, address);
	demand_note(demand, FLIGHT_FAULT, mapping->memory, page, thread);
	if (fault_on_poison(demand, mapping, page))
		return;

	state = page_states_get(&mapping->memory->states, page);
	switch (fault_decide(kind, state, mapping->memory->is_backing_source)) {
	case ACTION_FILL:
	case ACTION_RESTORE:
		fault_fill(demand, mapping, page);
		break;
	case ACTION_MAP_FIRST:
		fault_map_first(demand, mapping, page);
		break;
	case ACTION_MAP:
		count_add(&demand->counters.faults_stale, 1);
		track_note_written(mapping, page);
		fill_map(demand, mapping, (struct page_range){ page, 1 });
		break;
	case ACTION_DROP:
		count_add(&demand->counters.faults_stale, 1);
		break;
	case ACTION_ZERO:
		fill_zero(demand, mapping, page);
		break;
	case ACTION_PROBE:
		count_add(&demand->counters.faults_stale, 1);
		track_note_written(mapping, page);
		fill_probe(demand, mapping, page);
		break;
	case ACTION_UNPROTECT:
		track_unprotect(demand, mapping, page);
		break;
	}
}

static void message_fault(struct demand *demand, struct mapper *mapper,
			  const struct uffd_msg *message)
{
	enum fault_kind kind = fault_kind_of(message->arg.pagefault.flags);
	uint32_t thread = 0;

	switch (kind) {
	case FAULT_MISSING:
		count_add(&demand->counters.faults_missing, 1);
		break;
	case FAULT_MINOR:
		count_add(&demand->counters.faults_minor, 1);
		break;
	case FAULT_WP:
		count_add(&demand->counters.faults_wp, 1);
		break;
	}
	if (mapper->features & UFFD_FEATURE_THREAD_ID)
		thread = message->arg.pagefault.feat.ptid;
	fault_resolve(demand, mapper,
		      (struct hva){ align_down(message->arg.pagefault.address, 4096) }, kind,
		      thread);
}

/* One read of one uffd. @ret_n: messages it had. */
static int messages_read(struct demand *demand, struct mapper *mapper, unsigned int *ret_n)
{
	struct ledger_messages *buffer = ledger_messages(demand->guest->ledger);
	struct uffd_msg copy[LEDGER_N_MESSAGES];
	unsigned int n = 0, n_events = 0;
	int r;

	buffer->mapper = mapper->id;
	atomic_store_explicit(&buffer->is_reading, 1, memory_order_release);
	before_write_listen(demand, true);
	r = uffd_read(mapper->uffd, buffer->messages, LEDGER_N_MESSAGES, &n);
	if (r == 0 && n) {
		memcpy(copy, buffer->messages, n * sizeof(copy[0]));
		for (unsigned int i = 0; i < n; i++)
			if (copy[i].event != UFFD_EVENT_PAGEFAULT) {
				message_apply_event(demand, mapper, &copy[i]);
				n_events++;
			}
		memset(buffer->messages, 0, n * sizeof(copy[0]));
	}
	before_write_listen(demand, false);
	atomic_store_explicit(&buffer->is_reading, 0, memory_order_release);
	if (r < 0)
		return r;

	if (n)
		demand->now_ns = clock_now_ns();
	if (n > n_events)
		demand->fault_ns = demand->now_ns;
	for (unsigned int i = 0; i < n; i++)
		if (copy[i].event == UFFD_EVENT_PAGEFAULT)
			message_fault(demand, mapper, &copy[i]);
	track_unprotect_end(demand);
	*ret_n = n;
	return 0;
}

int messages_take(struct demand *demand, bool all, bool *ret_any)
{
	*ret_any = false;
	for (uint32_t i = 0; i < demand->n_mappers; i++) {
		struct mapper *mapper = &demand->guest->mappers[i];
		unsigned int n = 0;
		int r;

		if (mapper->is_gone || (!all && !demand->readers[i].is_ready))
			continue;
		r = messages_read(demand, mapper, &n);
		if (r < 0)
			return r;
		/* A short read emptied the queue: the next poll tells of more. */
		demand->readers[i].is_ready = n == LEDGER_N_MESSAGES;
		*ret_any |= n > 0;
	}
	demand->is_busy_elsewhere = false;
	return 0;
}
