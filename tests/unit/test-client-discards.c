/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The list of discarded ranges, against a map with one byte a page. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "client/discards.h"
#include "support/unit.h"

static const struct {
	const char *what;
	struct discard added[4];
	size_t n_added;
	struct discard kept[4];
	size_t n_kept;
} merges[] = {
	{ "nothing", {}, 0, {}, 0 },
	{ "apart", { { 8, 9 }, { 0, 1 }, { 4, 5 } }, 3, { { 0, 1 }, { 4, 5 }, { 8, 9 } }, 3 },
	{ "touching behind", { { 0, 4 }, { 4, 8 } }, 2, { { 0, 8 } }, 1 },
	{ "touching before", { { 4, 8 }, { 0, 4 } }, 2, { { 0, 8 } }, 1 },
	{ "inside", { { 0, 8 }, { 2, 4 } }, 2, { { 0, 8 } }, 1 },
	{ "around", { { 2, 4 }, { 6, 7 }, { 0, 8 } }, 3, { { 0, 8 } }, 1 },
	{ "a bridge", { { 0, 2 }, { 6, 8 }, { 9, 10 }, { 1, 6 } }, 4, { { 0, 8 }, { 9, 10 } }, 2 },
	{ "twice", { { 3, 5 }, { 3, 5 } }, 2, { { 3, 5 } }, 1 },
};

START_TEST(ranges_are_sorted_and_merged)
{
	_cleanup_(discards_done) struct discards discards = {};

	for (size_t i = 0; i < merges[_i].n_added; i++) {
		ck_assert_int_eq(discards_reserve(&discards), 0);
		discards_add(&discards, merges[_i].added[i].start, merges[_i].added[i].end);
	}
	ck_assert_msg(discards.n_ranges == merges[_i].n_kept, "%s", merges[_i].what);
	ck_assert_msg(discards.n_ranges == 0 ||
			      memcmp(discards.ranges, merges[_i].kept,
				     discards.n_ranges * sizeof(struct discard)) == 0,
		      "%s", merges[_i].what);
}
END_TEST

enum { N_PAGES = 400, N_ROUNDS = 2000 };

START_TEST(any_order_of_discards_keeps_every_page_and_no_other)
{
	_cleanup_(discards_done) struct discards discards = {};
	unsigned char wanted[N_PAGES] = {};

	srand(_i);
	for (int round = 0; round < N_ROUNDS; round++) {
		unsigned char found[N_PAGES] = {};
		size_t start = (size_t)rand() % N_PAGES;
		size_t end = start + 1 + (size_t)rand() % 3;

		if (end > N_PAGES)
			continue;
		memset(wanted + start, 1, end - start);
		ck_assert_int_eq(discards_reserve(&discards), 0);
		discards_add(&discards, start, end);
		for (size_t i = 0; i < discards.n_ranges; i++) {
			struct discard range = discards.ranges[i];

			ck_assert_uint_lt(range.start, range.end);
			ck_assert(i == 0 || discards.ranges[i - 1].end < range.start);
			memset(found + range.start, 1, range.end - range.start);
		}
		ck_assert_int_eq(memcmp(found, wanted, sizeof(found)), 0);
	}
}
END_TEST

int main(void)
{
	return unit_run("client-discards",
			(struct unit_test[]){
				UNIT_TABLE(ranges_are_sorted_and_merged, merges),
				UNIT(any_order_of_discards_keeps_every_page_and_no_other),
				{},
			});
}
