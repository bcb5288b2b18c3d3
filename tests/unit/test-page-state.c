/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Page states, against a plain array. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "guest/page-state.h"
#include "support/unit.h"

enum { N_PAGES = 32 * 9 + 7 };

/* The table at the head of page-state.h, written a second time. */
static const struct {
	const char *name;
	bool may_become[PAGE_STATES]; /* absent, filling, present, removed */
} rows[PAGE_STATES] = {
	{ "absent", { false, true, false, true } },
	{ "filling", { true, false, true, true } },
	{ "present", { false, false, false, true } },
	{ "removed", { false, false, true, false } },
};

START_TEST(moves_are_those_of_the_table)
{
	for (enum page_state to = 0; to < PAGE_STATES; to++)
		ck_assert_msg(page_state_may_move(_i, to) == rows[_i].may_become[to], "%s to %s",
			      rows[_i].name, rows[to].name);
	ck_assert_str_eq(page_state_name(_i), rows[_i].name);
}
END_TEST

/* Under test, and beside it what it must say. */
struct twins {
	_Atomic uint64_t words[(N_PAGES + PAGES_PER_WORD - 1) / PAGES_PER_WORD];
	struct page_states states;
	enum page_state plain[N_PAGES];
	unsigned int seed;
};

static struct page_range random_range(struct twins *twins)
{
	uint64_t first = rand_r(&twins->seed) % (N_PAGES + 1);

	return (struct page_range){ first, rand_r(&twins->seed) % (N_PAGES - first + 1) };
}

static void check_twins(struct twins *twins)
{
	for (uint64_t page = 0; page < N_PAGES; page++)
		ck_assert_int_eq(page_states_get(&twins->states, page), twins->plain[page]);
}

static void move_one(struct twins *twins, enum page_state from, enum page_state to)
{
	uint64_t page = rand_r(&twins->seed) % N_PAGES;
	bool is_expected = twins->plain[page] == from;

	ck_assert(page_states_move(&twins->states, page, from, to) == is_expected);
	if (is_expected)
		twins->plain[page] = to;
}

static void move_many(struct twins *twins, enum page_state from, enum page_state to)
{
	struct page_range range = random_range(twins);
	uint64_t n_moved = 0;

	for (uint64_t i = 0; i < range.count; i++)
		if (twins->plain[range.first + i] == from) {
			twins->plain[range.first + i] = to;
			n_moved++;
		}
	ck_assert_uint_eq(page_states_move_all(&twins->states, range, from, to), n_moved);
}

static void find(struct twins *twins, enum page_state state)
{
	struct page_range range = random_range(twins), run = { 77, 78 };
	uint64_t first = range.first, end = range.first + range.count, n = 0;

	while (first < end && twins->plain[first] != state)
		first++;
	while (first + n < end && twins->plain[first + n] == state)
		n++;
	ck_assert(page_states_find(&twins->states, range, state, &run) == (n > 0));
	ck_assert_uint_eq(run.first, n ? first : 77);
	ck_assert_uint_eq(run.count, n ? n : 78);
}

static void count(struct twins *twins)
{
	struct page_range range = random_range(twins);
	uint64_t counts[PAGE_STATES], expected[PAGE_STATES] = {};

	for (uint64_t i = 0; i < range.count; i++)
		expected[twins->plain[range.first + i]]++;
	page_states_count(&twins->states, range, counts);
	ck_assert_mem_eq(counts, expected, sizeof(expected));
}

static const unsigned int seeds[] = { 1, 2, 3, 4 };

START_TEST(random_moves_and_searches_agree_with_a_plain_array)
{
	struct twins twins = { .states = { twins.words, N_PAGES }, .seed = seeds[_i] };

	for (unsigned int step = 0; step < 20000; step++) {
		enum page_state from = rand_r(&twins.seed) % PAGE_STATES;
		enum page_state to = rand_r(&twins.seed) % PAGE_STATES;

		if (page_state_may_move(from, to)) {
			move_one(&twins, from, to);
			if (step % 16 == 0)
				move_many(&twins, from, to);
		}
		find(&twins, from);
		count(&twins);
	}
	check_twins(&twins);
	/* the pages that the last word has too many are never touched */
	ck_assert_uint_eq(twins.words[N_PAGES / PAGES_PER_WORD] >> N_PAGES % PAGES_PER_WORD * 2, 0);
}
END_TEST

static const struct {
	const char *what;
	struct page_range range;
	bool is_found;
	struct page_range run;
} searches[] = {
	/* pages 30 to 99 are filling */
	{ "run over three words", { 0, N_PAGES }, true, { 30, 70 } },
	{ "range begins inside the run", { 64, 100 }, true, { 64, 36 } },
	{ "range ends inside the run", { 0, 64 }, true, { 30, 34 } },
	{ "range ends where the run begins", { 0, 30 }, false, {} },
	{ "range begins where the run ends", { 100, N_PAGES - 100 }, false, {} },
	{ "last page of the run", { 99, 1 }, true, { 99, 1 } },
	{ "empty range inside the run", { 50, 0 }, false, {} },
};

START_TEST(find_knows_the_borders_of_words_and_ranges)
{
	struct twins twins = { .states = { twins.words, N_PAGES } };
	struct page_range run = {};

	ck_assert_uint_eq(page_states_move_all(&twins.states, (struct page_range){ 30, 70 },
					       PAGE_ABSENT, PAGE_FILLING),
			  70);
	ck_assert_msg(page_states_find(&twins.states, searches[_i].range, PAGE_FILLING, &run) ==
			      searches[_i].is_found,
		      "%s", searches[_i].what);
	ck_assert_uint_eq(run.first, searches[_i].run.first);
	ck_assert_uint_eq(run.count, searches[_i].run.count);
}
END_TEST

enum { N_ROUNDS = 100000 };

/* Its own pages only, but in the words that the other thread changes, too. */
struct mover {
	pthread_t thread;
	struct page_states *states;
	uint64_t first_page;
	uint64_t n_moved;
};

static void *mover_run(void *argument)
{
	static const enum page_state circle[] = { PAGE_ABSENT, PAGE_FILLING, PAGE_PRESENT,
						  PAGE_REMOVED };
	struct mover *mover = argument;
	uint64_t page = mover->first_page;

	page_states_move(mover->states, page, PAGE_ABSENT, PAGE_FILLING);
	page_states_move(mover->states, page, PAGE_FILLING, PAGE_PRESENT);
	for (unsigned int i = 0; i < N_ROUNDS; i++) {
		bool is_out = i % 2;

		mover->n_moved += page_states_move(mover->states, page, circle[2 + is_out],
						   circle[3 - is_out]);
		mover->n_moved += page_states_move_all(mover->states,
						       (struct page_range){ page + 2, 1 },
						       circle[is_out], circle[1 - is_out]);
	}
	return NULL;
}

START_TEST(two_threads_in_one_word_lose_no_move)
{
	struct twins twins = { .states = { twins.words, N_PAGES } };
	struct mover movers[2];

	for (int i = 0; i < 2; i++) {
		movers[i] = (struct mover){ .states = &twins.states, .first_page = i };
		ck_assert_int_eq(pthread_create(&movers[i].thread, NULL, mover_run, &movers[i]), 0);
	}
	for (int i = 0; i < 2; i++) {
		pthread_join(movers[i].thread, NULL);
		ck_assert_uint_eq(movers[i].n_moved, 2 * N_ROUNDS);
	}
}
END_TEST

int main(void)
{
	return unit_run(
		"page-state",
		(struct unit_test[]){
			UNIT_TABLE(moves_are_those_of_the_table, rows),
			UNIT_TABLE(find_knows_the_borders_of_words_and_ranges, searches),
			UNIT_TABLE(random_moves_and_searches_agree_with_a_plain_array, seeds),
			UNIT(two_threads_in_one_word_lose_no_move),
			{},
		});
}
