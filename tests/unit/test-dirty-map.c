/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Maps of written pages. */
#include "guest/dirty-map.h"

#include "support/unit.h"

#define N_PAGES 200
#define N_WORDS 4

static const struct {
	const char *what;
	struct page_range pages;
	struct page_range within;
	struct page_range found; /* count 0: nothing */
} runs[] = {
	{ "nothing", { 0, 0 }, { 0, N_PAGES }, {} },
	{ "one page", { 5, 1 }, { 0, N_PAGES }, { 5, 1 } },
	{ "the last page", { 199, 1 }, { 0, N_PAGES }, { 199, 1 } },
	{ "across words", { 60, 80 }, { 0, N_PAGES }, { 60, 80 } },
	{ "cut at both ends", { 60, 80 }, { 64, 10 }, { 64, 10 } },
	{ "behind what is looked at", { 100, 1 }, { 0, 100 }, {} },
	{ "before it", { 100, 1 }, { 101, 99 }, {} },
	{ "whole words", { 64, 64 }, { 64, 64 }, { 64, 64 } },
};

START_TEST(a_run_is_found_where_it_was_set)
{
	_Atomic uint64_t words[N_WORDS] = {};
	struct page_range found = {};
	bool is_any;

	dirty_map_set(words, runs[_i].pages);
	ck_assert_uint_eq(dirty_map_count(words, N_PAGES), runs[_i].pages.count);
	is_any = dirty_map_find(words, runs[_i].within, &found);
	ck_assert_msg(is_any == (runs[_i].found.count > 0), "%s", runs[_i].what);
	ck_assert_uint_eq(found.first, runs[_i].found.first);
	ck_assert_uint_eq(found.count, runs[_i].found.count);
}
END_TEST

static const bool ways[] = { false, true };

START_TEST(bits_go_to_where_they_belong_and_leave_none_behind)
{
	_Atomic uint64_t from[N_WORDS] = { 1, 0, UINT64_MAX, 8 }, to[N_WORDS] = { 2, 4, 1, 0 };

	if (ways[_i])
		dirty_map_move(from, to, N_PAGES);
	else
		ck_assert_uint_eq(dirty_map_take(from, to, N_PAGES, false), 2 + 1 + 64 + 1);
	ck_assert_uint_eq(dirty_map_count(from, N_PAGES), 0);
	ck_assert_uint_eq(to[0], 3);
	ck_assert_uint_eq(to[1], 4);
	ck_assert_uint_eq(to[2], UINT64_MAX);
	ck_assert_uint_eq(to[3], 8);
}
END_TEST

START_TEST(what_was_acknowledged_goes_when_the_next_comes)
{
	_Atomic uint64_t from[N_WORDS] = { 1, 0, 0, 8 }, to[N_WORDS] = { 2, 4, 0, 8 };

	ck_assert_uint_eq(dirty_map_take(from, to, N_PAGES, true), 2);
	ck_assert_uint_eq(dirty_map_count(from, N_PAGES), 0);
	ck_assert_uint_eq(to[0], 1);
	ck_assert_uint_eq(to[1], 0);
	ck_assert_uint_eq(to[3], 8);
}
END_TEST

START_TEST(only_those_who_are_armed_are_told)
{
	_Atomic uint64_t areas[3][2 * N_WORDS] = {};
	struct dirty_maps maps = {};

	ck_assert_uint_eq(dirty_map_bytes(N_PAGES), sizeof(areas[0]));
	for (uint32_t i = 0; i < 3; i++)
		dirty_maps_place(&maps, i, (void *)areas[i], 4096 * i, N_PAGES);
	dirty_maps_mark(&maps, (struct page_range){ 1, 1 });
	dirty_maps_arm(&maps, 0);
	dirty_maps_arm(&maps, 2);
	dirty_maps_mark(&maps, (struct page_range){ 2, 1 });
	dirty_maps_disarm(&maps, 0);
	dirty_maps_mark(&maps, (struct page_range){ 3, 1 });
	ck_assert_uint_eq(maps.maps[0].pending[0], 4);
	ck_assert_uint_eq(maps.maps[1].pending[0], 0);
	ck_assert_uint_eq(maps.maps[2].pending[0], 12);
	ck_assert_uint_eq(maps.maps[2].unacked[0], 0);
	ck_assert_ptr_eq((void *)maps.maps[2].unacked, (void *)&areas[2][N_WORDS]);
}
END_TEST

int main(void)
{
	return unit_run(
		"dirty-map",
		(struct unit_test[]){
			UNIT_TABLE(a_run_is_found_where_it_was_set, runs),
			UNIT_TABLE(bits_go_to_where_they_belong_and_leave_none_behind, ways),
			UNIT(what_was_acknowledged_goes_when_the_next_comes),
			UNIT(only_those_who_are_armed_are_told),
			{},
		});
}
