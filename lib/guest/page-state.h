/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The state of every page of a memory: two bits each, in the ledger, changed by compare-and-swap.
 *
 *	state    | allowed operations                | leaves by
 *	---------+-----------------------------------+------------------------------------------
 *	absent   | none: its bytes are in the source | claim by demand -> filling
 *	         |                                   | discarded, or known to be zero -> removed
 *	filling  | one fill at a time, by the        | filled -> present
 *	         | claimer                           | read failed, or crash -> absent
 *	         |                                   | discarded meanwhile -> removed
 *	present  | map it (CONTINUE), un-protect it  | discarded -> removed
 *	         |                                   | evicted (later) -> absent
 *	removed  | fill with zeros                   | filled -> present
 *
 * Absent is 0, so that a new ledger area, which is sparse, says absent without being written.
 * Only the demand thread moves states of a running guest; all other threads only read.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/units.h"

enum page_state {
	PAGE_ABSENT = 0,
	PAGE_FILLING = 1,
	PAGE_PRESENT = 2,
	PAGE_REMOVED = 3,
};
#define PAGE_STATES    4

#define PAGES_PER_WORD 32

/* Embedded; @words are borrowed from the ledger. */
struct page_states {
	_Atomic uint64_t *words;
	uint64_t n_pages;
};

/* Bytes of ledger for @n_pages states. */
static inline uint64_t page_states_bytes(uint64_t n_pages)
{
	return (n_pages + PAGES_PER_WORD - 1) / PAGES_PER_WORD * sizeof(uint64_t);
}

/* Is @from -> @to in the table above? */
bool page_state_may_move(enum page_state from, enum page_state to);

const char *page_state_name(enum page_state state);

/* Context: any thread; acquire. */
enum page_state page_states_get(const struct page_states *states, uint64_t page);

/**
 * page_states_move() - one page from one state to another
 *
 * The move must be in the table. Release: bytes written before are visible to who sees the state.
 * Context: demand (any, before the guest starts). Return: false if the page was not in @from.
 */
bool page_states_move(struct page_states *states, uint64_t page, enum page_state from,
		      enum page_state to);

/**
 * page_states_move_all() - every page of @range that is in @from, whole words at a time
 *
 * Return: how many moved.
 */
uint64_t page_states_move_all(struct page_states *states, struct page_range range,
			      enum page_state from, enum page_state to);

/**
 * page_states_find() - the first run of pages in @state within @range
 * @ret_run: untouched if there is none
 *
 * Looks at a word (32 pages) at a time. Context: any thread. Return: false if there is none.
 */
bool page_states_find(const struct page_states *states, struct page_range range,
		      enum page_state state, struct page_range *ret_run);

/* How many pages of @range are in each state; word by word. Context: any thread. */
void page_states_count(const struct page_states *states, struct page_range range,
		       uint64_t ret_counts[PAGE_STATES]);
