/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The state of every page of a memory: moves and searches, 32 pages at a time. */
#include "guest/page-state.h"

#include <assert.h>
#include <stdatomic.h>

/* The lower bit of each page's two. */
#define LOWER_BITS UINT64_C(0x5555555555555555)

/* The table at the head of page-state.h. Eviction (present -> absent) has no code yet. */
static const bool moves[PAGE_STATES][PAGE_STATES] = {
	[PAGE_ABSENT] = { [PAGE_FILLING] = true, [PAGE_REMOVED] = true },
	[PAGE_FILLING] = { [PAGE_ABSENT] = true, [PAGE_PRESENT] = true, [PAGE_REMOVED] = true },
	[PAGE_PRESENT] = { [PAGE_REMOVED] = true },
	[PAGE_REMOVED] = { [PAGE_PRESENT] = true },
};

bool page_state_may_move(enum page_state from, enum page_state to)
{
	return moves[from][to];
}

const char *page_state_name(enum page_state state)
{
	static const char *const names[PAGE_STATES] = {
		[PAGE_ABSENT] = "absent",
		[PAGE_FILLING] = "filling",
		[PAGE_PRESENT] = "present",
		[PAGE_REMOVED] = "removed",
	};

	return names[state];
}

static unsigned int shift_of(uint64_t page)
{
	return page % PAGES_PER_WORD * 2;
}

/* pairs with the release in page_states_move() and page_states_move_all() */
static uint64_t load(const struct page_states *states, uint64_t word)
{
	return atomic_load_explicit(&states->words[word], memory_order_acquire);
}

/* A lower bit for each page of the word that is in @state. */
static uint64_t matches(uint64_t word, enum page_state state)
{
	uint64_t difference = word ^ (LOWER_BITS * state);

	return ~(difference | difference >> 1) & LOWER_BITS;
}

/* The lower bits of the pages [@first, @end) within the word that holds @first. */
static uint64_t lower_bits(uint64_t first, uint64_t end)
{
	uint64_t word_end = align_down(first, PAGES_PER_WORD) + PAGES_PER_WORD;
	uint64_t bits = LOWER_BITS << shift_of(first);

	if (end < word_end)
		bits &= (UINT64_C(1) << shift_of(end)) - 1;
	return bits;
}

static uint64_t next_word_page(uint64_t page)
{
	return align_down(page, PAGES_PER_WORD) + PAGES_PER_WORD;
}

static void assert_inside(const struct page_states *states, struct page_range range)
{
	assert(range.first <= states->n_pages && range.count <= states->n_pages - range.first);
}

enum page_state page_states_get(const struct page_states *states, uint64_t page)
{
	assert(page < states->n_pages);

	return load(states, page / PAGES_PER_WORD) >> shift_of(page) & 3;
}

bool page_states_move(struct page_states *states, uint64_t page, enum page_state from,
		      enum page_state to)
{
	_Atomic uint64_t *word = &states->words[page / PAGES_PER_WORD];
	uint64_t flip = (uint64_t)(from ^ to) << shift_of(page);
	uint64_t seen;

	assert(page < states->n_pages);
	assert(page_state_may_move(from, to));

	seen = atomic_load_explicit(word, memory_order_acquire);
	do {
		if ((seen >> shift_of(page) & 3) != from)
			return false;
	} while (!atomic_compare_exchange_weak_explicit(
		word, &seen, seen ^ flip, memory_order_acq_rel, memory_order_acquire));
	return true;
}

uint64_t page_states_move_all(struct page_states *states, struct page_range range,
			      enum page_state from, enum page_state to)
{
	uint64_t end = range.first + range.count;
	uint64_t n_moved = 0;

	assert_inside(states, range);
	assert(page_state_may_move(from, to));

	for (uint64_t page = range.first; page < end; page = next_word_page(page)) {
		_Atomic uint64_t *word = &states->words[page / PAGES_PER_WORD];
		uint64_t mask = lower_bits(page, end);
		uint64_t seen = atomic_load_explicit(word, memory_order_acquire);
		uint64_t found;

		do {
			found = matches(seen, from) & mask;
		} while (found && !atomic_compare_exchange_weak_explicit(
					  word, &seen, seen ^ found * (from ^ to),
					  memory_order_acq_rel, memory_order_acquire));
		n_moved += __builtin_popcountll(found);
	}
	return n_moved;
}

/* The first page of [@page, @end) of which being in @state is @is_in; @end if there is none. */
static uint64_t scan(const struct page_states *states, uint64_t page, uint64_t end,
		     enum page_state state, bool is_in)
{
	for (; page < end; page = next_word_page(page)) {
		uint64_t found = matches(load(states, page / PAGES_PER_WORD), state);

		if (!is_in)
			found = ~found;
		found &= lower_bits(page, end);
		if (found)
			return align_down(page, PAGES_PER_WORD) + __builtin_ctzll(found) / 2;
	}
	return end;
}

bool page_states_find(const struct page_states *states, struct page_range range,
		      enum page_state state, struct page_range *ret_run)
{
	uint64_t end = range.first + range.count;
	uint64_t first;

	assert_inside(states, range);

	first = scan(states, range.first, end, state, true);
	if (first == end)
		return false;

	ret_run->first = first;
	ret_run->count = scan(states, first, end, state, false) - first;
	return true;
}

void page_states_count(const struct page_states *states, struct page_range range,
		       uint64_t ret_counts[PAGE_STATES])
{
	uint64_t counts[PAGE_STATES] = {};
	uint64_t end = range.first + range.count;

	assert_inside(states, range);

	for (uint64_t page = range.first; page < end; page = next_word_page(page)) {
		uint64_t word = load(states, page / PAGES_PER_WORD);
		uint64_t mask = lower_bits(page, end);
		uint64_t lower = word & mask, upper = word >> 1 & mask;

		/* most words are all of one state */
		if (word == LOWER_BITS * PAGE_PRESENT && mask == LOWER_BITS) {
			counts[PAGE_PRESENT] += PAGES_PER_WORD;
		} else if (word) {
			counts[PAGE_FILLING] += __builtin_popcountll(lower & ~upper);
			counts[PAGE_PRESENT] += __builtin_popcountll(upper & ~lower);
			counts[PAGE_REMOVED] += __builtin_popcountll(lower & upper);
		}
	}

	counts[PAGE_ABSENT] = range.count - counts[PAGE_FILLING] - counts[PAGE_PRESENT] -
			      counts[PAGE_REMOVED];
	for (unsigned int state = 0; state < PAGE_STATES; state++)
		ret_counts[state] = counts[state];
}
