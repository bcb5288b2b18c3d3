/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The decision table, written a second time from docs/architecture.md, and how often each of its
 * cells was met.
 */
#include <stdio.h>

#include "fault/decide.h"
#include "guest/memory.h"
#include "parties.h"

/* Rows: missing, minor, wp. Columns: absent, filling, present, removed. */
static const enum fault_action wanted[FAULT_KINDS][PAGE_STATES] = {
	{ ACTION_FILL, ACTION_DROP, ACTION_PROBE, ACTION_ZERO },
	{ ACTION_RESTORE, ACTION_DROP, ACTION_MAP, ACTION_MAP_FIRST },
	{ ACTION_UNPROTECT, ACTION_UNPROTECT, ACTION_UNPROTECT, ACTION_UNPROTECT },
};
static const char *const kind_names[FAULT_KINDS] = { "missing", "minor", "wp" };
static const char *const backing_names[] = { "anon", "shmem", "hugetlb", "private" };

static uint64_t cells[FAULT_KINDS][PAGE_STATES][4];
static uint64_t backing_cells[FAULT_KINDS][4]; /* absent pages whose bytes are in the file */
static const struct page_states *last_states;

/* The engine asks for the state, then for the action. */
enum page_state __real_page_states_get(const struct page_states *states, uint64_t page);
enum page_state __wrap_page_states_get(const struct page_states *states, uint64_t page);
enum page_state __wrap_page_states_get(const struct page_states *states, uint64_t page)
{
	last_states = states;
	return __real_page_states_get(states, page);
}

static enum backing_kind backing_of(const struct page_states *states)
{
	for (unsigned int i = 0; i < world.n_memories; i++)
		if (world.memories[i].memory && &world.memories[i].memory->states == states)
			return world.memories[i].kind;
	model_fail("a fault is decided by the states of no memory");
}

static enum fault_action wanted_action(enum fault_kind kind, enum page_state state,
				       bool is_backing_source)
{
	if (is_backing_source && state == PAGE_ABSENT && kind != FAULT_WP)
		return kind == FAULT_MISSING ? ACTION_ZERO : ACTION_MAP_FIRST;
	return wanted[kind][state];
}

enum fault_action __real_fault_decide(enum fault_kind kind, enum page_state state,
				      bool is_backing_source);
enum fault_action __wrap_fault_decide(enum fault_kind kind, enum page_state state,
				      bool is_backing_source);
enum fault_action __wrap_fault_decide(enum fault_kind kind, enum page_state state,
				      bool is_backing_source)
{
	enum fault_action action = __real_fault_decide(kind, state, is_backing_source);
	enum backing_kind backing = backing_of(last_states);

	trace("  decide(kind %llu, state %llu): %llu", kind, state, action, 0);
	if (action != wanted_action(kind, state, is_backing_source))
		model_fail("%s x %s: %s is decided", kind_names[kind], page_state_name(state),
			   fault_action_name(action));
	if (!world.is_frozen && is_backing_source && state == PAGE_ABSENT)
		backing_cells[kind][backing]++;
	else if (!world.is_frozen)
		cells[kind][state][backing]++;
	return action;
}

/* Anonymous memory has no file, so no minor faults. */
static bool can_be(enum fault_kind kind, enum backing_kind backing)
{
	return backing != BACKING_PRIVATE && (kind != FAULT_MINOR || backing != BACKING_ANON);
}

unsigned int coverage_report(uint64_t n_wanted)
{
	unsigned int n_short = 0;

	for (unsigned int kind = 0; kind < FAULT_KINDS; kind++)
		for (unsigned int backing = 0; backing < 4; backing++) {
			fprintf(stderr, "# %-7s %-7s", kind_names[kind], backing_names[backing]);
			for (unsigned int state = 0; state < PAGE_STATES; state++) {
				uint64_t n = cells[kind][state][backing];

				fprintf(stderr, " %s %8llu", page_state_name(state),
					(unsigned long long)n);
				n_short += can_be(kind, backing) && n < n_wanted;
			}
			fprintf(stderr, " absent in file %8llu\n",
				(unsigned long long)backing_cells[kind][backing]);
			if (kind != FAULT_WP &&
			    (backing == BACKING_SHMEM || backing == BACKING_HUGETLB))
				n_short += backing_cells[kind][backing] < n_wanted;
		}
	return n_short;
}
