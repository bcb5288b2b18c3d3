/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Tracking on the real kernel: every backing, both trackers, every moment at which it may begin. */
#include "system/test-dirty.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/units.h"
#include "support/hugepages.h"
#include "support/unit.h"

/* ---- what is written is reported, once ---- */

START_TEST(what_was_written_since_the_epoch_before_is_reported)
{
	struct dirty_fixture fixture;

	dirty_begin(&fixture, &dirty_rows[_i]);
	dirty_finish(&fixture);
	dirty_start(&fixture, "a");
	dirty_expect(&fixture, "a", (uint64_t[]){}, 0);
	child_poke(&fixture.child, 0, 1);
	child_poke(&fixture.child, 5, 1);
	child_poke(&fixture.child, 5, 2);
	child_poke(&fixture.child, DIRTY_PAGES - 1, 1);
	ck_assert_uint_eq(child_peek(&fixture.child, 3), child_word(3, 0));
	dirty_expect(&fixture, "a", (uint64_t[]){ 0, 5, DIRTY_PAGES - 1 }, 3);
	dirty_expect(&fixture, "a", (uint64_t[]){}, 0);
	child_poke(&fixture.child, 5, 3); /* written again: reported again */
	dirty_expect(&fixture, "a", (uint64_t[]){ 5 }, 1);
	dirty_stop(&fixture, "a");
	ck_assert_int_eq(ufd_pager_guest_dirty_stop(fixture.guest, "a"), -ENOENT);
	child_poke(&fixture.child, 6, 3); /* and nobody waits for anything */
	dirty_end(&fixture);
}
END_TEST

/* ---- when it begins ---- */

/* Of such a kernel more may be told than was written. */
static void skip_without_continue_wp(void)
{
	if (!features_get()->has_continue_wp)
		unit_skip("no CONTINUE that protects: pages of a file are told as written");
}

START_TEST(what_is_filled_is_no_write_from_the_first_instruction_on)
{
	struct dirty_fixture fixture;
	uint64_t wrong;

	/* a thread may touch what the background has just given the file, and not mapped yet */
	if (dirty_rows[_i].kind == CHILD_SHMEM && dirty_rows[_i].track == UFD_TRACK_WP)
		skip_without_continue_wp();
	dirty_prepare(&fixture, &dirty_rows[_i], DIRTY_PAGES);
	dirty_start(&fixture, "a");
	ck_assert_int_eq(ufd_pager_guest_start(fixture.guest), 0);
	ck_assert_uint_eq(child_peek(&fixture.child, 2), child_word(2, 0));
	child_poke(&fixture.child, 4, 1); /* absent: filled, then written */
	dirty_expect(&fixture, "a", (uint64_t[]){ 4 }, 1);
	child_poke(&fixture.child, 4, child_word(4, 0));
	child_check(&fixture.child, 3, CHILD_RANDOM, false, &wrong);
	ck_assert_uint_eq(wrong, 0);
	dirty_expect(&fixture, "a", (uint64_t[]){ 4 }, 1);
	dirty_finish(&fixture);
	child_poke(&fixture.child, 7, 1);
	dirty_expect(&fixture, "a", (uint64_t[]){ 7 }, 1);
	dirty_end(&fixture);
}
END_TEST

START_TEST(holes_that_are_left_are_no_writes)
{
	struct dirty_fixture fixture;

	dirty_prepare(&fixture, &dirty_rows[_i], DIRTY_PAGES);
	ck_assert_int_eq(ufd_pager_guest_remove_mapping(fixture.guest, fixture.mapper,
							fixture.child.address,
							fixture.child.length),
			 0);
	ufd_source_unref(fixture.source);
	ck_assert_int_eq(ufd_source_open(&fixture.source, "zero", -1, NULL), 0);
	fixture.memory = dirty_add(&fixture, "holes", 0, DIRTY_PAGES);
	dirty_start(&fixture, "a");
	ck_assert_int_eq(ufd_pager_guest_start(fixture.guest), 0);
	dirty_finish(&fixture);
	dirty_expect(&fixture, "a", (uint64_t[]){}, 0);
	ck_assert_uint_eq(child_peek(&fixture.child, 3), 0);
	dirty_expect(&fixture, "a", (uint64_t[]){}, 0);
	child_poke(&fixture.child, 4, 1);
	dirty_expect(&fixture, "a", (uint64_t[]){ 4 }, 1);
	dirty_end(&fixture);
}
END_TEST

START_TEST(tracking_begins_and_ends_while_the_guest_is_being_filled)
{
	struct dirty_fixture fixture;
	uint64_t wrong;

	dirty_begin(&fixture, &dirty_rows[_i]);
	for (uint64_t page = 0; page < 5; page++)
		child_poke(&fixture.child, page, child_word(page, 0));
	for (int round = 0; round < 2; round++) {
		dirty_start(&fixture, "a");
		child_poke(&fixture.child, 1, child_word(1, 0));
		child_poke(&fixture.child, 5 + round, child_word(5 + round, 0));
		ck_assert_uint_eq(child_peek(&fixture.child, 7 + round), child_word(7 + round, 0));
		dirty_expect(&fixture, "a", (uint64_t[]){ 1, 5 + round }, 2);
		dirty_stop(&fixture, "a");
		/* nobody tracks: nobody waits, protected or not */
		child_poke(&fixture.child, 2, child_word(2, 0));
		ck_assert_uint_eq(child_peek(&fixture.child, 9 + round), child_word(9 + round, 0));
	}
	child_check(&fixture.child, 2, CHILD_SEQUENTIAL, true, &wrong);
	ck_assert_uint_eq(wrong, 0);
	dirty_wait_event(&fixture, UFD_EVENT_GRADUATED);
	dirty_end(&fixture);
}
END_TEST

START_TEST(a_guest_that_has_graduated_is_tracked_and_graduates_again)
{
	UFD_OPTS(ufd_guest_stats, stats);
	struct dirty_fixture fixture;
	int advice = dirty_rows[_i].kind == CHILD_SHMEM || dirty_rows[_i].kind == CHILD_HUGETLB
			     ? MADV_REMOVE
			     : MADV_DONTNEED;

	dirty_begin(&fixture, &dirty_rows[_i]);
	dirty_finish(&fixture);
	dirty_wait_event(&fixture, UFD_EVENT_GRADUATED);
	/* nobody hears of these any more */
	child_advise(&fixture.child, 3, 2, advice);
	ck_assert_uint_eq(child_peek(&fixture.child, 3), 0);
	fixture.n_events[UFD_EVENT_GRADUATED] = 0;

	dirty_start(&fixture, "a");
	ufd_pager_guest_stats(fixture.guest, &stats);
	ck_assert(!stats.is_graduated);
	ck_assert_uint_eq(child_peek(&fixture.child, 3), 0);
	ck_assert_uint_eq(child_peek(&fixture.child, 4), 0);
	ck_assert_uint_eq(child_peek(&fixture.child, 5), child_word(5, 0));
	dirty_expect(&fixture, "a", (uint64_t[]){}, 0);
	child_poke(&fixture.child, 4, 1);
	child_poke(&fixture.child, 5, 1);
	dirty_expect(&fixture, "a", (uint64_t[]){ 4, 5 }, 2);
	ufd_pager_dispatch(fixture.pager);
	ck_assert_uint_eq(fixture.n_events[UFD_EVENT_DISCARD_UNANNOUNCED], 0);
	ck_assert_uint_eq(fixture.n_events[UFD_EVENT_GRADUATED], 0);
	dirty_stop(&fixture, "a");
	dirty_wait_event(&fixture, UFD_EVENT_GRADUATED);
	child_poke(&fixture.child, 5, 1);
	dirty_end(&fixture);
}
END_TEST

START_TEST(discards_are_writes)
{
	struct dirty_fixture fixture;
	int advice = dirty_rows[_i].kind == CHILD_SHMEM || dirty_rows[_i].kind == CHILD_HUGETLB
			     ? MADV_REMOVE
			     : MADV_DONTNEED;

	dirty_begin(&fixture, &dirty_rows[_i]);
	for (uint64_t page = 0; page < 6; page++)
		ck_assert_uint_eq(child_peek(&fixture.child, page), child_word(page, 0));
	dirty_start(&fixture, "a");
	child_advise(&fixture.child, 2, 1, advice);
	child_advise(&fixture.child, 8, 1, advice); /* absent: it is zeros from now on */
	dirty_expect(&fixture, "a", (uint64_t[]){ 2, 8 }, 2);
	ck_assert_uint_eq(child_peek(&fixture.child, 2), 0);
	ck_assert_uint_eq(child_peek(&fixture.child, 8), 0);
	dirty_expect(&fixture, "a", (uint64_t[]){}, 0);
	child_poke(&fixture.child, 2, 5);
	dirty_expect(&fixture, "a", (uint64_t[]){ 2 }, 1);
	dirty_end(&fixture);
}
END_TEST

/* ---- consumers and epochs ---- */

START_TEST(a_lost_reply_loses_nothing)
{
	UFD_OPTS(ufd_dirty_epoch, epoch);
	struct dirty_fixture fixture;

	dirty_begin(&fixture, &dirty_rows[_i]);
	dirty_finish(&fixture);
	dirty_start(&fixture, "a");
	child_poke(&fixture.child, 1, 1);
	dirty_read(&fixture, "a", 0, &epoch);
	ck_assert_uint_eq(epoch.epoch, 1);
	ck_assert_uint_le(epoch.begun_ns, epoch.taken_ns);
	child_poke(&fixture.child, 2, 1);
	for (int i = 0; i < 3; i++) { /* the same again: it did not arrive */
		dirty_read(&fixture, "a", 0, &epoch);
		ck_assert_uint_eq(epoch.epoch, 1);
		dirty_expect_map(&fixture, "a", fixture.memory, (uint64_t[]){ 1, 2 }, 2);
	}
	child_poke(&fixture.child, 3, 1);
	dirty_read(&fixture, "a", 1, &epoch);
	ck_assert_uint_eq(epoch.epoch, 2);
	dirty_expect_map(&fixture, "a", fixture.memory, (uint64_t[]){ 3 }, 1);
	ck_assert_int_eq(ufd_pager_guest_dirty_read(fixture.guest, "a", 0, &epoch), -ESTALE);
	ck_assert_int_eq(ufd_pager_guest_dirty_read(fixture.guest, "a", 3, &epoch), -ESTALE);
	dirty_read(&fixture, "a", 1, &epoch);
	dirty_expect_map(&fixture, "a", fixture.memory, (uint64_t[]){ 3 }, 1);
	dirty_end(&fixture);
}
END_TEST

START_TEST(each_consumer_has_a_baseline_of_its_own)
{
	UFD_OPTS(ufd_consumer_info, info);
	UFD_OPTS(ufd_dirty_epoch, epoch);
	struct dirty_fixture fixture;
	char name[] = "c0";

	dirty_begin(&fixture, &dirty_rows[_i]);
	dirty_finish(&fixture);
	ck_assert_int_eq(ufd_pager_guest_dirty_read(fixture.guest, "a", 0, &epoch), -ENOENT);
	dirty_start(&fixture, "a");
	ck_assert_int_eq(ufd_pager_guest_dirty_start(fixture.guest, "a"), -EEXIST);
	child_poke(&fixture.child, 1, 1);
	dirty_start(&fixture, "b");
	child_poke(&fixture.child, 1, 2);
	child_poke(&fixture.child, 2, 1);
	dirty_expect(&fixture, "b", (uint64_t[]){ 1, 2 }, 2);
	child_poke(&fixture.child, 3, 1);
	dirty_expect(&fixture, "a", (uint64_t[]){ 1, 2, 3 }, 3);
	ck_assert_int_eq(ufd_pager_consumer_info(fixture.guest, 1, &info), 0);
	ck_assert_str_eq(info.name, "b");
	ck_assert_uint_eq(info.epoch, 1);
	ck_assert_uint_eq(info.unread_bytes, fixture.child.page_bytes);
	ck_assert_int_eq(ufd_pager_consumer_info(fixture.guest, 2, &info), -ENOENT);
	dirty_stop(&fixture, "a");
	child_poke(&fixture.child, 4, 1);
	dirty_expect(&fixture, "b", (uint64_t[]){ 3, 4 }, 2);

	for (; name[1] < '0' + UFD_MAX_CONSUMERS - 1; name[1]++)
		dirty_start(&fixture, name);
	ck_assert_int_eq(ufd_pager_guest_dirty_start(fixture.guest, name), -ENOSPC);
	ck_assert_int_eq(ufd_pager_guest_dirty_start(fixture.guest, ""), -EINVAL);
	child_poke(&fixture.child, 9, 1);
	for (name[1] = '0'; name[1] < '0' + UFD_MAX_CONSUMERS - 1; name[1]++)
		dirty_expect(&fixture, name, (uint64_t[]){ 9 }, 1);
	dirty_end(&fixture);
}
END_TEST

/* Of one that starts while others are tracked: pages that lost their protection before it came. */
START_TEST(what_is_written_twice_is_told_to_who_came_between)
{
	struct dirty_fixture fixture;

	dirty_begin(&fixture, &dirty_rows[_i]);
	dirty_finish(&fixture);
	dirty_start(&fixture, "a");
	child_poke(&fixture.child, 6, 1);
	dirty_start(&fixture, "b");
	dirty_expect(&fixture, "b", (uint64_t[]){}, 0);
	child_poke(&fixture.child, 6, 2);
	dirty_expect(&fixture, "b", (uint64_t[]){ 6 }, 1);
	dirty_expect(&fixture, "a", (uint64_t[]){ 6 }, 1);
	dirty_end(&fixture);
}
END_TEST

/* ---- who has ended ---- */

START_TEST(a_dead_guest_is_an_error_and_never_clean)
{
	UFD_OPTS(ufd_dirty_epoch, epoch);
	struct dirty_fixture fixture;

	dirty_begin(&fixture, &dirty_rows[_i]);
	dirty_finish(&fixture);
	dirty_start(&fixture, "a");
	child_poke(&fixture.child, 1, 1);
	ck_assert_int_eq(kill(fixture.child.pid, SIGKILL), 0);
	dirty_wait_event(&fixture, UFD_EVENT_ENDED);
	for (int i = 0; i < 2; i++)
		ck_assert_int_eq(ufd_pager_guest_dirty_read(fixture.guest, "a", 0, &epoch), -ESRCH);
	ck_assert_int_eq(ufd_pager_guest_dirty_start(fixture.guest, "b"), -ESRCH);
	dirty_stop(&fixture, "a");
	dirty_end(&fixture);
}
END_TEST

static uint64_t run_another_program(const struct paged_child *self, const void *argument)
{
	char *const words[] = { "sleep", "60", NULL };

	(void)self;
	(void)argument;
	(void)execvp(words[0], words);
	return 0;
}

START_TEST(a_process_that_runs_another_program_is_not_clean)
{
	UFD_OPTS(ufd_dirty_epoch, epoch);
	struct dirty_fixture fixture;
	int r;

	dirty_begin(&fixture, &dirty_rows[_i]);
	dirty_finish(&fixture);
	dirty_start(&fixture, "a");
	child_poke(&fixture.child, 1, 1);
	/* its end of the socket closes with the exec: there is no answer, when it is done */
	ck_assert_uint_eq(child_call(&fixture.child, run_another_program, NULL, 0), UINT64_MAX);
	r = ufd_pager_guest_dirty_read(fixture.guest, "a", 0, &epoch);
	ck_assert_int_eq(r, -ESRCH);
	dirty_end(&fixture);
}
END_TEST

/* ---- more than one mapping, more than one memory ---- */

START_TEST(writes_through_any_mapping_are_one_memory_s)
{
	struct dirty_fixture fixture;
	uint64_t again, n;
	bool is_shared = dirty_rows[_i].kind == CHILD_SHMEM || dirty_rows[_i].kind == CHILD_HUGETLB;

	if (!is_shared)
		return;
	skip_without_continue_wp();
	dirty_begin(&fixture, &dirty_rows[_i]);
	again = child_map_again(&fixture.child);
	ck_assert_int_eq(ufd_pager_guest_add_mapping(fixture.guest, fixture.mapper, fixture.memory,
						     again, fixture.child.length, 0, NULL),
			 0);
	n = (again - fixture.child.address) / fixture.child.page_bytes;
	ck_assert_uint_eq(child_peek(&fixture.child, 0), child_word(0, 0));
	ck_assert_uint_eq(child_peek(&fixture.child, n + 1), child_word(1, 0));
	dirty_start(&fixture, "a");
	ck_assert_uint_eq(child_peek(&fixture.child, 2), child_word(2, 0));
	ck_assert_uint_eq(child_peek(&fixture.child, n + 2), child_word(2, 0));
	ck_assert_uint_eq(child_peek(&fixture.child, n), child_word(0, 0));
	dirty_expect(&fixture, "a", (uint64_t[]){}, 0);
	child_poke(&fixture.child, 1, 1);
	child_poke(&fixture.child, n + 2, 1);
	child_poke(&fixture.child, n + 3, 1);
	child_poke(&fixture.child, 3, 2);
	dirty_expect(&fixture, "a", (uint64_t[]){ 1, 2, 3 }, 3);
	child_poke(&fixture.child, 3, 1);
	dirty_expect(&fixture, "a", (uint64_t[]){ 3 }, 1);
	/* one that came while it was tracked, and is not looked at any more */
	ck_assert_int_eq(ufd_pager_guest_remove_mapping(fixture.guest, fixture.mapper, again,
							fixture.child.length),
			 0);
	dirty_expect(&fixture, "a", (uint64_t[]){ 0, 1, 2, 3 },
		     dirty_rows[_i].track == UFD_TRACK_SCAN ? 4 : 0);
	ck_assert_int_eq(ufd_pager_guest_add_mapping(fixture.guest, fixture.mapper, fixture.memory,
						     again, fixture.child.length, 0, NULL),
			 0);
	dirty_expect(&fixture, "a", (uint64_t[]){}, 0);
	child_poke(&fixture.child, n + 3, 1);
	dirty_expect(&fixture, "a", (uint64_t[]){ 3 }, 1);
	dirty_end(&fixture);
}
END_TEST

START_TEST(what_comes_while_it_is_tracked_is_tracked)
{
	struct dirty_fixture fixture;
	uint64_t page_bytes, wrong, half = DIRTY_PAGES / 2;
	uint32_t later;

	dirty_prepare(&fixture, &dirty_rows[_i], DIRTY_PAGES);
	page_bytes = fixture.child.page_bytes;
	/* only the first half, for the time being */
	ck_assert_int_eq(ufd_pager_guest_remove_mapping(fixture.guest, fixture.mapper,
							fixture.child.address,
							fixture.child.length),
			 0);
	fixture.memory = dirty_add(&fixture, "low", 0, half);
	ck_assert_int_eq(ufd_pager_guest_start(fixture.guest), 0);
	ck_assert_uint_eq(child_peek(&fixture.child, 1), child_word(1, 0));
	dirty_start(&fixture, "a");
	later = dirty_add(&fixture, "high", half, half);
	ck_assert_uint_eq(child_peek(&fixture.child, half), child_word(half, 0));
	child_poke(&fixture.child, half + 1, child_word(half + 1, 0));
	child_poke(&fixture.child, 1, child_word(1, 0));
	dirty_expect_sum(&fixture, "a", 2);
	dirty_expect_map(&fixture, "a", fixture.memory, (uint64_t[]){ 1 }, 1);
	dirty_expect_map(&fixture, "a", later, (uint64_t[]){ 1 }, 1);
	child_check(&fixture.child, 2, CHILD_RANDOM, false, &wrong);
	ck_assert_uint_eq(wrong, 0);
	dirty_expect_sum(&fixture, "a", 0);
	/* and what goes, goes */
	ck_assert_int_eq(ufd_pager_guest_remove_mapping(fixture.guest, fixture.mapper,
							fixture.child.address + half * page_bytes,
							half * page_bytes),
			 0);
	child_poke(&fixture.child, 3, 1);
	dirty_expect(&fixture, "a", (uint64_t[]){ 3 }, 1);
	dirty_end(&fixture);
}
END_TEST

/*
 * Who ran before he was attached has mapped bytes that are in the memory's own file: there is no fault that would tell
 * us of them.
 */
START_TEST(what_was_mapped_before_is_tracked)
{
	struct dirty_fixture fixture;
	uint64_t half = DIRTY_PAGES / 2;
	uint32_t later;

	if (dirty_rows[_i].kind != CHILD_SHMEM && dirty_rows[_i].kind != CHILD_HUGETLB)
		return;
	dirty_prepare(&fixture, &dirty_rows[_i], DIRTY_PAGES);
	ck_assert_int_eq(ufd_pager_guest_remove_mapping(fixture.guest, fixture.mapper,
							fixture.child.address,
							fixture.child.length),
			 0);
	child_poke(&fixture.child, 1, 1);
	child_poke(&fixture.child, 4, 1);
	child_poke(&fixture.child, half + 2, 1);
	ufd_source_unref(fixture.source);
	ck_assert_int_eq(ufd_source_open(&fixture.source, "backing", -1, NULL), 0);
	fixture.memory = dirty_add(&fixture, "low", 0, half);
	ck_assert_int_eq(ufd_pager_guest_start(fixture.guest), 0);
	dirty_start(&fixture, "a");
	dirty_expect(&fixture, "a", (uint64_t[]){}, 0);
	child_poke(&fixture.child, 4, 2);
	dirty_expect(&fixture, "a", (uint64_t[]){ 4 }, 1);
	/* of one that comes while it is tracked, all that is there counts as written */
	later = dirty_add(&fixture, "high", half, half);
	dirty_expect_sum(&fixture, "a", 1);
	dirty_expect_map(&fixture, "a", later, (uint64_t[]){ 2 }, 1);
	child_poke(&fixture.child, half + 2, 2);
	child_poke(&fixture.child, 4, 3); /* their file's time moves for both */
	dirty_expect_sum(&fixture, "a", 2);
	dirty_expect_map(&fixture, "a", fixture.memory, (uint64_t[]){ 4 }, 1);
	dirty_expect_map(&fixture, "a", later, (uint64_t[]){ 2 }, 1);
	ck_assert_uint_eq(child_peek(&fixture.child, half + 2), 2);
	dirty_end(&fixture);
}
END_TEST

/* ---- many ---- */

START_TEST(no_page_is_lost_where_a_vector_ends)
{
	const uint64_t n_pages = 24 * 1024; /* more than one piece */
	UFD_OPTS(ufd_dirty_epoch, epoch);
	struct dirty_fixture fixture;
	uint64_t words[24 * 1024 / 64], stride = 2;

	if (dirty_rows[_i].kind == CHILD_HUGETLB)
		return;
	dirty_prepare(&fixture, &dirty_rows[_i], n_pages);
	ck_assert_int_eq(ufd_pager_guest_start(fixture.guest), 0);
	dirty_finish(&fixture);
	dirty_start(&fixture, "a");
	dirty_write_strided(&fixture, stride);
	dirty_read(&fixture, "a", 0, &epoch);
	ck_assert_uint_eq(epoch.dirty_bytes, n_pages / stride * 4096);
	ck_assert_uint_eq(epoch.uncertain_bytes, 0);
	ck_assert_int_eq(ufd_pager_guest_dirty_bitmap(fixture.guest, "a", fixture.memory, 0, words,
						      n_pages / 64),
			 0);
	for (uint64_t i = 0; i < n_pages / 64; i++)
		ck_assert_uint_eq(words[i], UINT64_C(0x5555555555555555));
	/* from any page on */
	ck_assert_int_eq(ufd_pager_guest_dirty_bitmap(fixture.guest, "a", fixture.memory, 1, words,
						      n_pages / 64),
			 0);
	for (uint64_t i = 0; i < n_pages / 64; i++)
		ck_assert_uint_eq(words[i],
				  UINT64_C(0xaaaaaaaaaaaaaaaa) &
					  (i + 1 < n_pages / 64 ? UINT64_MAX : UINT64_MAX >> 1));
	dirty_read(&fixture, "a", 1, &epoch);
	ck_assert_uint_eq(epoch.dirty_bytes, 0);
	dirty_end(&fixture);
}
END_TEST

/* ---- refused ---- */

START_TEST(a_file_that_others_may_write_is_refused)
{
	struct dirty_fixture fixture;
	const struct dirty_row row = { "private file, not sealed", CHILD_PRIVATE, UFD_TRACK_SCAN };

	dirty_prepare_unsealed(&fixture, &row, DIRTY_PAGES);
	ck_assert_int_eq(ufd_pager_guest_start(fixture.guest), 0);
	ck_assert_int_eq(ufd_pager_guest_dirty_start(fixture.guest, "a"), -EOPNOTSUPP);
	ck_assert_ptr_nonnull(strstr(ufd_pager_guest_dirty_refusal(fixture.guest), "seal"));
	ck_assert_ptr_nonnull(strstr(ufd_pager_guest_dirty_refusal(fixture.guest), "ram"));
	/* read-only to everybody will do */
	ck_assert_int_eq(fchmod(fixture.child.memfd, 0444), 0);
	dirty_start(&fixture, "a");
	ck_assert_str_eq(ufd_pager_guest_dirty_refusal(fixture.guest), "");
	dirty_end(&fixture);
}
END_TEST

int main(void)
{
	hugepages_reserve(2 * DIRTY_PAGES);
	return unit_run(
		"dirty",
		(struct unit_test[]){
			UNIT_TABLE(what_was_written_since_the_epoch_before_is_reported, dirty_rows),
			UNIT_TABLE(what_is_filled_is_no_write_from_the_first_instruction_on,
				   dirty_rows),
			UNIT_TABLE(holes_that_are_left_are_no_writes, dirty_rows),
			UNIT_TABLE(tracking_begins_and_ends_while_the_guest_is_being_filled,
				   dirty_rows),
			UNIT_TABLE(a_guest_that_has_graduated_is_tracked_and_graduates_again,
				   dirty_rows),
			UNIT_TABLE(discards_are_writes, dirty_rows),
			UNIT_TABLE(a_lost_reply_loses_nothing, dirty_rows),
			UNIT_TABLE(each_consumer_has_a_baseline_of_its_own, dirty_rows),
			UNIT_TABLE(what_is_written_twice_is_told_to_who_came_between, dirty_rows),
			UNIT_TABLE(a_dead_guest_is_an_error_and_never_clean, dirty_rows),
			UNIT_TABLE(a_process_that_runs_another_program_is_not_clean, dirty_rows),
			UNIT_TABLE(writes_through_any_mapping_are_one_memory_s, dirty_rows),
			UNIT_TABLE(what_comes_while_it_is_tracked_is_tracked, dirty_rows),
			UNIT_TABLE(what_was_mapped_before_is_tracked, dirty_rows),
			UNIT_TABLE(no_page_is_lost_where_a_vector_ends, dirty_rows),
			UNIT(a_file_that_others_may_write_is_refused),
			{},
		});
}
