/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Pages whose bytes cannot be had. */
#include "fault/stall.h"

#include <signal.h>

#include "base/clock.h"
#include "fault/engine.h"
#include "fault/fill.h"
#include "kernel/pidfd.h"
#include "kernel/uffd.h"

void stalls_init(struct stalls *stalls)
{
	stalls->n = 0;
	stalls->next_ns = UINT64_MAX;
}

static struct stalled *stall_find(const struct demand *demand, const struct memory *memory,
				  uint64_t page)
{
	for (unsigned int i = 0; i < demand->stalls.n; i++) {
		const struct stalled *entry = &demand->stalls.entries[i];

		if (entry->memory == memory && entry->page == page)
			return (struct stalled *)entry;
	}
	return NULL;
}

bool stall_knows(const struct demand *demand, const struct memory *memory, uint64_t page)
{
	return demand->stalls.n && stall_find(demand, memory, page);
}

static void stall_drop(struct demand *demand, struct stalled *entry)
{
	struct stalls *stalls = &demand->stalls;

	count_sub(&entry->memory->n_stalled, 1);
	*entry = stalls->entries[--stalls->n];
	board_stall(demand, (unsigned int)(entry - stalls->entries));
	board_stall(demand, stalls->n);
}

void stall_add(struct demand *demand, struct memory *memory, uint64_t page, int error)
{
	struct stalls *stalls = &demand->stalls;
	struct stalled *entry = stall_find(demand, memory, page);
	struct mapping *mapping = guest_view_find_page(demand->view, memory, page);

	if (!entry && stalls->n == N_STALLED) {
		if (mapping)
			park_add(demand, mapping->mapper,
				 (struct hva_range){ mapping_address(mapping, page),
						     memory->page_bytes });
		return;
	}
	if (!entry) {
		if (stalls->n == 0)
			demand_tell(demand, UFD_EVENT_STALLED, memory, page, error);
		stalls->was_any = true;
		entry = &stalls->entries[stalls->n++];
		*entry = (struct stalled){ .memory = memory,
					   .page = page,
					   .since_ns = demand->now_ns,
					   .delay_ns = STALL_MIN_NS / 2 };
		count_add(&memory->n_stalled, 1);
		demand_note(demand, FLIGHT_STALLED, memory, page, error);
	}
	entry->error = error;
	entry->is_asked = false;
	entry->delay_ns = min_u64(entry->delay_ns * 2, STALL_MAX_NS);
	entry->retry_at_ns = demand->now_ns + entry->delay_ns;
	if (demand->config.policy != POLICY_STALL && !entry->is_past_deadline)
		entry->retry_at_ns = min_u64(
			entry->retry_at_ns,
			clock_add_ns(entry->since_ns, demand->config.deadline_ns));
	stalls->next_ns = min_u64(stalls->next_ns, entry->retry_at_ns);
	board_stall(demand, (unsigned int)(entry - stalls->entries));
}

void stall_forget(struct demand *demand, struct memory *memory, struct page_range pages)
{
	struct stalls *stalls = &demand->stalls;

	if (!stalls->n)
		return;
	for (unsigned int i = stalls->n; i-- > 0;) {
		struct stalled *entry = &stalls->entries[i];

		if (entry->memory == memory && entry->page - pages.first < pages.count)
			stall_drop(demand, entry);
	}
	if (!stalls->n) {
		stalls->next_ns = UINT64_MAX;
		demand_tell(demand, UFD_EVENT_RECOVERED, memory, pages.first, 0);
	}
}

void stall_unask(struct demand *demand, struct memory *memory, struct page_range pages)
{
	struct stalls *stalls = &demand->stalls;

	for (unsigned int i = 0; i < stalls->n; i++) {
		struct stalled *entry = &stalls->entries[i];

		if (!entry->is_asked || entry->memory != memory ||
		    entry->page - pages.first >= pages.count)
			continue;
		entry->is_asked = false;
		entry->retry_at_ns = demand->now_ns + entry->delay_ns;
		stalls->next_ns = min_u64(stalls->next_ns, entry->retry_at_ns);
	}
}

void stall_retry_all(struct demand *demand)
{
	struct stalls *stalls = &demand->stalls;

	for (unsigned int i = 0; i < stalls->n; i++)
		stalls->entries[i].retry_at_ns = demand->now_ns;
	if (stalls->n)
		stalls->next_ns = demand->now_ns;
}

void stall_put_poison(struct demand *demand, struct mapping *mapping, uint64_t page)
{
	struct hva_range range = { mapping_address(mapping, page), mapping->memory->page_bytes };
	uint64_t done = 0;

	if (uffd_poison(mapping->mapper->uffd, range, &done) == UFFD_PRESENT &&
	    memory_is_tracked(mapping->memory)) {
		/* a write-protect marker keeps poison out until it is cleared */
		memory_mark_dirty(mapping->memory, (struct page_range){ page, 1 });
		if (uffd_write_protect(mapping->mapper->uffd, range, false) == 0)
			(void)uffd_poison(mapping->mapper->uffd, range, &done);
	}
	fill_wake(demand, mapping, (struct page_range){ page, 1 });
}

/* The page raises SIGBUS wherever it is mapped. It counts as removed: nothing will be fetched for
 * it. */
static void stall_poison(struct demand *demand, struct stalled *entry)
{
	struct memory *memory = entry->memory;
	uint64_t page = entry->page;

	if (!memory_add_poisoned(memory, demand->guest->ledger, page)) {
		entry->is_past_deadline = true; /* the list is full: go on stalling */
		return;
	}
	if (page_states_move(&memory->states, page, PAGE_ABSENT, PAGE_REMOVED))
		demand_settled(demand, memory, 1);
	for (uint32_t i = 0; i < demand->view->n_mappings; i++) {
		struct mapping *mapping = demand->view->mappings[i];

		if (mapping->memory != memory || !mapping_shows(mapping, page) ||
		    mapping->mapper->is_gone)
			continue;
		stall_put_poison(demand, mapping, page);
	}
	count_add(&demand->counters.poisoned_pages, 1);
	demand_note(demand, FLIGHT_POISONED, memory, page, 1);
	demand_tell(demand, UFD_EVENT_POISONED, memory, page, 1);
	stall_drop(demand, entry);
}

static void stall_kill(struct demand *demand, struct stalled *entry)
{
	entry->is_past_deadline = true;
	for (uint32_t i = 0; i < demand->n_mappers; i++) {
		struct mapper *mapper = &demand->guest->mappers[i];

		if (mapper->is_gone)
			continue;
		(void)pidfd_kill(mapper->pidfd, SIGKILL);
		demand_tell(demand, UFD_EVENT_KILLED, entry->memory, entry->page, mapper->pid);
	}
}

/* Return: true if the entry is gone. */
static bool stall_overdue(struct demand *demand, struct stalled *entry)
{
	unsigned int n = demand->stalls.n;

	demand_tell(demand, UFD_EVENT_DEADLINE, entry->memory, entry->page, demand->config.policy);
	switch (demand->config.policy) {
	case POLICY_POISON:
		stall_poison(demand, entry);
		break;
	case POLICY_KILL:
		stall_kill(demand, entry);
		break;
	case POLICY_STALL:
		entry->is_past_deadline = true;
		break;
	}
	return demand->stalls.n < n;
}

void stall_run(struct demand *demand)
{
	struct stalls *stalls = &demand->stalls;

	if (demand->now_ns < stalls->next_ns)
		return;

	stalls->next_ns = UINT64_MAX;
	for (unsigned int i = stalls->n; i-- > 0;) {
		struct stalled *entry = &stalls->entries[i];
		bool has_deadline = demand->config.deadline_ns ||
				    demand->config.policy != POLICY_STALL;

		/* A fill may have ended several entries; the last took their places. */
		if (i >= stalls->n || entry->is_asked)
			continue;
		if (demand->now_ns < entry->retry_at_ns) {
			stalls->next_ns = min_u64(stalls->next_ns, entry->retry_at_ns);
			continue;
		}
		if (has_deadline && !entry->is_past_deadline &&
		    demand->now_ns - entry->since_ns >= demand->config.deadline_ns &&
		    stall_overdue(demand, entry))
			continue;
		entry->is_asked = true;
		count_add(&demand->counters.retries, 1);
		demand_note(demand, FLIGHT_RETRY, entry->memory, entry->page, 0);
		if (!fill_begin(demand, entry->memory, (struct page_range){ entry->page, 1 },
				CAUSE_DEMAND)) {
			entry->is_asked = false;
			entry->retry_at_ns = demand->now_ns + STALL_MIN_NS;
			stalls->next_ns = min_u64(stalls->next_ns, entry->retry_at_ns);
		}
	}
}
