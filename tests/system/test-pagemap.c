/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the page tables of another process hold. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "kernel/features.h"
#include "kernel/pagemap.h"
#include "kernel/uffd.h"
#include "support/hugepages.h"
#include "support/target.h"
#include "support/unit.h"

enum { DIRTY = PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC };

static void open_map(const struct target *target, int *ret_map)
{
	ck_assert_int_eq(pagemap_open(ret_map, target->pid), 0);
}

static void store(struct target *target, uint64_t page)
{
	target_do(target, target_store, target_page(target, page), 1);
}

/* A target whose memory is armed for asynchronous tracking: nothing of it counts as written. */
static void start_armed(struct target *target, enum target_memory memory, uint64_t n_pages,
			int *ret_map)
{
	struct hva walk_end = {};
	uint64_t n = 99;

	if (!features_get()->has_pagemap_scan)
		unit_skip("needs Linux 6.7");
	target_start(target, memory, n_pages, features_wanted(false));
	ck_assert_int_eq(uffd_register(target->uffd, target->memory, UFFD_MODE_WP, NULL), 0);
	open_map(target, ret_map);
	ck_assert_int_eq(pagemap_scan(*ret_map, target->memory, PAGE_IS_WRITTEN, DIRTY, NULL, 0, &n,
				      &walk_end),
			 0);
	ck_assert_uint_eq(n, 0);
	ck_assert_uint_eq(walk_end.v, target->memory.start.v + target->memory.length_bytes);
}

START_TEST(words_tell_present_and_protected_pages)
{
	_cleanup_(target_done) struct target target;
	_cleanup_(closep) int map = -EBADF;
	uint64_t words[3] = {};

	target_start(&target, TARGET_ANON, 3, 0);
	open_map(&target, &map);
	store(&target, 1);
	store(&target, 2);
	ck_assert_int_eq(uffd_register(target.uffd, target.memory, UFFD_MODE_WP, NULL), 0);
	ck_assert_int_eq(uffd_write_protect(target.uffd, target_pages(&target, 2, 1), true), 0);
	ck_assert_int_eq(pagemap_read(map, target.memory.start, words, 3), 0);
	ck_assert_uint_eq(words[0] & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED | PAGEMAP_UFFD_WP), 0);
	ck_assert_uint_eq(words[1] & (PAGEMAP_PRESENT | PAGEMAP_UFFD_WP), PAGEMAP_PRESENT);
	ck_assert_uint_eq(words[2] & (PAGEMAP_PRESENT | PAGEMAP_UFFD_WP),
			  PAGEMAP_PRESENT | PAGEMAP_UFFD_WP);
}
END_TEST

START_TEST(an_ended_process_has_no_words_and_no_map)
{
	_cleanup_(target_done) struct target target;
	_cleanup_(closep) int map = -EBADF;
	uint64_t word;
	pid_t pid;
	int other = 77;

	target_start(&target, TARGET_ANON, 1, 0);
	open_map(&target, &map);
	pid = target.pid;
	target_kill(&target);
	ck_assert_int_eq(pagemap_read(map, target.memory.start, &word, 1), -ESRCH);
	ck_assert_int_eq(pagemap_open(&other, pid), -ESRCH);
	ck_assert_int_eq(other, 77);
}
END_TEST

static const enum target_memory kinds[] = { TARGET_ANON, TARGET_SHMEM, TARGET_PRIVATE };

START_TEST(a_scan_reports_stores_once)
{
	_cleanup_(target_done) struct target target;
	_cleanup_(closep) int map = -EBADF;
	struct page_region regions[8] = {};
	struct hva walk_end;
	uint64_t n;

	start_armed(&target, kinds[_i], 16, &map);
	store(&target, 3);
	store(&target, 4);
	store(&target, 9);
	ck_assert_int_eq(
		pagemap_scan(map, target.memory, PAGE_IS_WRITTEN, DIRTY, regions, 8, &n, &walk_end),
		0);
	ck_assert_uint_eq(n, 2);
	ck_assert_uint_eq(regions[0].start, target_page(&target, 3).v);
	ck_assert_uint_eq(regions[0].end, target_page(&target, 5).v);
	ck_assert_uint_eq(regions[1].start, target_page(&target, 9).v);
	ck_assert_uint_eq(regions[1].end, target_page(&target, 10).v);
	ck_assert_uint_eq(regions[1].categories, PAGE_IS_WRITTEN);

	ck_assert_int_eq(
		pagemap_scan(map, target.memory, PAGE_IS_WRITTEN, DIRTY, regions, 8, &n, &walk_end),
		0);
	ck_assert_uint_eq(n, 0);
}
END_TEST

START_TEST(a_short_vector_stops_the_walk_and_loses_nothing)
{
	_cleanup_(target_done) struct target target;
	_cleanup_(closep) int map = -EBADF;
	struct hva at, end;
	uint64_t n, n_found = 0;

	start_armed(&target, kinds[_i], 16, &map);
	for (uint64_t i = 0; i < 16; i += 2)
		store(&target, i);
	at = target.memory.start;
	end = hva_add(at, target.memory.length_bytes);
	while (at.v < end.v) {
		struct page_region regions[3] = {};
		struct hva_range rest = { at, end.v - at.v };

		ck_assert_int_eq(
			pagemap_scan(map, rest, PAGE_IS_WRITTEN, DIRTY, regions, 3, &n, &at), 0);
		for (uint64_t i = 0; i < n; i++, n_found++)
			ck_assert_uint_eq(regions[i].start, target_page(&target, 2 * n_found).v);
	}
	ck_assert_uint_eq(n_found, 8);
}
END_TEST

START_TEST(a_vector_without_room_is_refused_before_anything_is_lost)
{
	_cleanup_(target_done) struct target target;
	_cleanup_(closep) int map = -EBADF;
	struct page_region region;
	struct hva walk_end = { 5 };
	uint64_t n = 5;

	start_armed(&target, kinds[_i], 4, &map);
	store(&target, 1);
	ck_assert_int_eq(
		pagemap_scan(map, target.memory, PAGE_IS_WRITTEN, DIRTY, &region, 0, &n, &walk_end),
		-EINVAL);
	ck_assert_uint_eq(n, 5);
	ck_assert_uint_eq(walk_end.v, 5);
	ck_assert_int_eq(
		pagemap_scan(map, target.memory, PAGE_IS_WRITTEN, DIRTY, &region, 1, &n, &walk_end),
		0);
	ck_assert_uint_eq(n, 1);
}
END_TEST

/* What was reported was re-armed too, so that it must not be forgotten. */
START_TEST(an_unarmed_part_is_told_with_what_came_before_it)
{
	_cleanup_(target_done) struct target target;
	_cleanup_(closep) int map = -EBADF;
	struct page_region regions[4] = {};
	struct hva walk_end = { 5 };
	uint64_t n = 0;

	start_armed(&target, kinds[_i], 8, &map);
	store(&target, 1);
	ck_assert_int_eq(uffd_unregister(target.uffd, target_pages(&target, 4, 4)), 0);
	ck_assert_int_eq(
		pagemap_scan(map, target.memory, PAGE_IS_WRITTEN, DIRTY, regions, 4, &n, &walk_end),
		PAGEMAP_UNARMED);
	ck_assert_uint_eq(n, 1);
	ck_assert_uint_eq(regions[0].start, target_page(&target, 1).v);
	ck_assert_uint_eq(walk_end.v, 5);
}
END_TEST

START_TEST(several_categories_report_pages_of_any)
{
	_cleanup_(target_done) struct target target;
	_cleanup_(closep) int map = -EBADF;
	struct page_region regions[4] = {};
	struct hva walk_end;
	uint64_t n;

	if (!features_get()->has_pagemap_scan)
		unit_skip("needs Linux 6.7");
	target_start(&target, TARGET_ANON, 4, 0);
	open_map(&target, &map);
	store(&target, 2);
	ck_assert_int_eq(pagemap_scan(map, target.memory, PAGE_IS_PRESENT | PAGE_IS_SWAPPED, 0,
				      regions, 4, &n, &walk_end),
			 0);
	ck_assert_uint_eq(n, 1);
	ck_assert_uint_eq(regions[0].start, target_page(&target, 2).v);
	ck_assert_uint_eq(regions[0].categories, PAGE_IS_PRESENT);
}
END_TEST

static const struct {
	enum target_memory memory;
	const char *mask; /* UFD_FEATURES_MASK: an older kernel has no scan */
} used[] = {
	{ TARGET_ANON, NULL },	   { TARGET_SHMEM, NULL },     { TARGET_HUGETLB, NULL },
	{ TARGET_ANON, "0x3fff" }, { TARGET_SHMEM, "0x3fff" }, { TARGET_HUGETLB, "0x3fff" },
};

START_TEST(the_first_used_page_is_found_and_markers_do_not_count)
{
	_cleanup_(target_done) struct target target;
	_cleanup_(closep) int map = -EBADF;
	struct hva first = { 5 };
	bool is_used = true;

	if (used[_i].mask)
		setenv("UFD_FEATURES_MASK", used[_i].mask, 1);
	target_start(&target, used[_i].memory, 4, features_wanted(true));
	open_map(&target, &map);
	ck_assert_int_eq(pagemap_first_used(map, target.memory, &is_used, &first), 0);
	ck_assert(!is_used);

	ck_assert_int_eq(uffd_register(target.uffd, target.memory, UFFD_MODE_WP, NULL), 0);
	ck_assert_int_eq(uffd_write_protect(target.uffd, target.memory, true), 0);
	ck_assert_int_eq(pagemap_first_used(map, target.memory, &is_used, &first), 0);
	ck_assert(!is_used);
	ck_assert_uint_eq(first.v, 5);

	ck_assert_int_eq(uffd_write_protect(target.uffd, target_pages(&target, 2, 1), false), 0);
	store(&target, 2);
	ck_assert_int_eq(pagemap_first_used(map, target.memory, &is_used, &first), 0);
	ck_assert(is_used);
	ck_assert_uint_eq(first.v, target_page(&target, 2).v);
	ck_assert_int_eq(pagemap_first_used(map, target_pages(&target, 3, 1), &is_used, &first), 0);
	ck_assert(!is_used);
}
END_TEST

/* Type and offset of a swap entry, as CAP_SYS_ADMIN sees them. */
static const struct {
	const char *what;
	uint64_t bits, type, offset;
	bool is_used;
} words[] = {
	{ "nothing", 0, 0, 0, false },
	{ "a page", PAGEMAP_PRESENT, 3, 77, true },
	{ "a protected page", PAGEMAP_PRESENT | PAGEMAP_UFFD_WP, 3, 77, true },
	{ "swapped out", PAGEMAP_SWAPPED, 0, 1, true },
	{ "protected and swapped out", PAGEMAP_SWAPPED | PAGEMAP_UFFD_WP, 0, 1, true },
	{ "a marker", PAGEMAP_SWAPPED | PAGEMAP_UFFD_WP, 31, 1, false },
	{ "a marker before Linux 6.3", PAGEMAP_SWAPPED | PAGEMAP_UFFD_WP, 30, 1, false },
	{ "a page of a device", PAGEMAP_SWAPPED | PAGEMAP_UFFD_WP, 30, 0x1234, true },
	{ "a page lost before Linux 6.3", PAGEMAP_SWAPPED | PAGEMAP_UFFD_WP, 31, 0x1234, true },
	{ "poison", PAGEMAP_SWAPPED, 31, 2, true },
	{ "a marker, or not", PAGEMAP_SWAPPED | PAGEMAP_UFFD_WP, 0, 0, false },
};

START_TEST(a_word_tells_content_from_markers)
{
	uint64_t word = words[_i].bits | words[_i].type | words[_i].offset << 5;
	uint64_t soft_dirty = UINT64_C(1) << 55;

	ck_assert_msg(pagemap_is_used(word) == words[_i].is_used, "%s", words[_i].what);
	ck_assert_msg(pagemap_is_used(word | soft_dirty) == words[_i].is_used, "%s",
		      words[_i].what);
}
END_TEST

/* An anonymous page that was only read shows the zero page and never faults again. */
START_TEST(a_page_that_was_only_read_is_used)
{
	_cleanup_(target_done) struct target target;
	_cleanup_(closep) int map = -EBADF;
	struct hva first;
	bool is_used = false;

	target_start(&target, TARGET_ANON, 2, 0);
	open_map(&target, &map);
	target_do(&target, target_load, target_page(&target, 1), 0);
	ck_assert_int_eq(pagemap_first_used(map, target.memory, &is_used, &first), 0);
	ck_assert(is_used);
	ck_assert_uint_eq(first.v, target_page(&target, 1).v);
}
END_TEST

int main(void)
{
	hugepages_reserve(5);
	return unit_run(
		"pagemap",
		(struct unit_test[]){
			UNIT(words_tell_present_and_protected_pages),
			UNIT(an_ended_process_has_no_words_and_no_map),
			UNIT_TABLE(a_scan_reports_stores_once, kinds),
			UNIT_TABLE(a_short_vector_stops_the_walk_and_loses_nothing, kinds),
			UNIT_TABLE(a_vector_without_room_is_refused_before_anything_is_lost, kinds),
			UNIT_TABLE(an_unarmed_part_is_told_with_what_came_before_it, kinds),
			UNIT(several_categories_report_pages_of_any),
			UNIT_TABLE(the_first_used_page_is_found_and_markers_do_not_count, used),
			UNIT_TABLE(a_word_tells_content_from_markers, words),
			UNIT(a_page_that_was_only_read_is_used),
			{},
		});
}
