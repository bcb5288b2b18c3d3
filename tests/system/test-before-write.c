/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copy before write on the real kernel: a page's first write waits for its copy, and for no other. */
#include "fault/before-write.h"

#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#include "base/cleanup.h"
#include "fault/engine.h"
#include "pager/hold.h"
#include "pager/paged.h"
#include "system/test-dirty.h"

#define N_PLACES 8 /* the least there are */

static const struct dirty_row rows[] = {
	{ "shmem", CHILD_SHMEM, UFD_TRACK_WP },
	{ "huge pages", CHILD_HUGETLB, UFD_TRACK_WP },
	{ "anonymous", CHILD_ANON, UFD_TRACK_WP },
	{ "private file", CHILD_PRIVATE, UFD_TRACK_WP },
};

/* A guest of which nothing is claimed, at the moment. */
static void begin(struct dirty_fixture *fixture, int row, struct before_write **ret)
{
	dirty_begin(fixture, &rows[row]);
	dirty_finish(fixture);
	dirty_start(fixture, "snapshot");
	ck_assert_int_eq(pager_before_write_new(fixture->guest, 0, ret), 0);
	ck_assert_int_eq(pager_before_write_set(fixture->guest, *ret), 0);
}

static void end(struct dirty_fixture *fixture, struct before_write *hook)
{
	ck_assert_int_eq(pager_before_write_set(fixture->guest, NULL), 0);
	before_write_free(hook);
	dirty_end(fixture);
}

static void expect_saved(struct dirty_fixture *fixture, struct before_write *hook, uint64_t page)
{
	_cleanup_(freep) unsigned char *bytes = malloc(fixture->child.page_bytes);
	struct saved_page saved;

	ck_assert_ptr_nonnull(bytes);
	ck_assert_msg(before_write_take(hook, &saved), "%s: page %llu was not saved",
		      fixture->row->what, (unsigned long long)page);
	ck_assert_uint_eq(saved.memory, fixture->memory);
	ck_assert_uint_eq(saved.page, page);
	child_page(page, fixture->child.page_bytes, bytes);
	ck_assert_mem_eq(saved.bytes, bytes, fixture->child.page_bytes);
	before_write_release(hook);
}

START_TEST(what_a_page_held_is_saved_before_its_first_write)
{
	struct before_write_stats stats;
	struct before_write *hook;
	struct dirty_fixture fixture;
	struct saved_page saved;

	begin(&fixture, _i, &hook);
	child_poke(&fixture.child, 1, 77);
	child_poke(&fixture.child, 1, 78);
	child_poke(&fixture.child, 9, 79);
	ck_assert_uint_eq(child_peek(&fixture.child, 1), 78);
	expect_saved(&fixture, hook, 1);
	expect_saved(&fixture, hook, 9);
	/* one that the walk has read before needs no copy; one that was copied is the walk's no more */
	ck_assert(before_write_claim(hook, fixture.memory, 3));
	child_poke(&fixture.child, 3, 80);
	ck_assert(!before_write_claim(hook, fixture.memory, 3));
	ck_assert(!before_write_claim(hook, fixture.memory, 9));
	ck_assert(before_write_is_claimed(hook, fixture.memory, 9));
	ck_assert(!before_write_is_claimed(hook, fixture.memory, 4));
	ck_assert(!before_write_take(hook, &saved));
	/* and what was written is told all the same */
	dirty_expect(&fixture, "snapshot", (uint64_t[]){ 1, 3, 9 }, 3);
	before_write_stats(hook, &stats);
	ck_assert_uint_eq(stats.n_copied, 2);
	ck_assert_uint_eq(stats.n_waits + stats.n_lost, 0);
	ck_assert_int_eq(stats.error, 0);
	end(&fixture, hook);
}
END_TEST

START_TEST(a_full_ring_holds_a_write_until_there_is_room)
{
	struct before_write_stats stats = {};
	struct before_write *hook;
	struct dirty_fixture fixture;

	begin(&fixture, _i, &hook);
	for (uint64_t page = 0; page < N_PLACES; page++)
		child_poke(&fixture.child, page, 90);
	child_begin_poke(&fixture.child, N_PLACES, 91);
	while (!stats.n_waits)
		before_write_stats(hook, &stats);
	ck_assert(!child_has_result(&fixture.child, 0));
	expect_saved(&fixture, hook, 0); /* a place */
	ck_assert(child_has_result(&fixture.child, 20000));
	(void)child_result(&fixture.child);
	for (uint64_t page = 1; page <= N_PLACES; page++)
		expect_saved(&fixture, hook, page);

	/* who gives up lets all go on */
	for (uint64_t page = 0; page < N_PLACES; page++)
		ck_assert(before_write_is_claimed(hook, fixture.memory, page));
	end(&fixture, hook);
}
END_TEST

START_TEST(writes_go_on_when_the_copy_is_given_up)
{
	struct before_write_stats stats = {};
	struct before_write *hook, *other;
	struct dirty_fixture fixture;

	begin(&fixture, _i, &hook);
	ck_assert_int_eq(pager_before_write_new(fixture.guest, 0, &other), 0);
	ck_assert_int_eq(pager_before_write_set(fixture.guest, other), -EBUSY);
	before_write_free(other);
	for (uint64_t page = 0; page < N_PLACES; page++)
		child_poke(&fixture.child, page, 90);
	child_begin_poke(&fixture.child, N_PLACES, 91);
	while (!stats.n_waits)
		before_write_stats(hook, &stats);
	ck_assert_int_eq(pager_before_write_set(fixture.guest, NULL), 0);
	ck_assert(child_has_result(&fixture.child, 20000));
	(void)child_result(&fixture.child);
	before_write_free(hook);
	dirty_end(&fixture);
}
END_TEST

/* A bulk thread that has read a page, and claims it. */
struct claimant {
	struct before_write *hook;
	uint32_t memory;
	sem_t done;
	bool counts;
};

static void *claim_page(void *userdata)
{
	struct claimant *claimant = userdata;

	claimant->counts = before_write_claim(claimant->hook, claimant->memory, 3);
	sem_post(&claimant->done);
	return NULL;
}

/* The kernel lets a discard go on when it was read: what was copied since then may be its zeros. */
START_TEST(nothing_is_claimed_between_a_discard_and_the_word_of_it)
{
	struct demand *demand = calloc(1, sizeof(*demand));
	struct claimant claimant = {};
	struct before_write_stats stats;
	struct dirty_fixture fixture;
	struct timespec until;
	pthread_t thread;

	dirty_begin(&fixture, &rows[_i]);
	dirty_finish(&fixture);
	ck_assert_ptr_nonnull(demand);
	ck_assert_int_eq(pager_before_write_new(fixture.guest, 0, &claimant.hook), 0);
	claimant.memory = fixture.memory;
	sem_init(&claimant.done, 0, 0);
	demand->before_write = claimant.hook;

	before_write_listen(demand, true);
	ck_assert_int_eq(pthread_create(&thread, NULL, claim_page, &claimant), 0);
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_nsec += 50 * NSEC_PER_MSEC;
	until.tv_sec += until.tv_nsec / NSEC_PER_SEC;
	until.tv_nsec %= NSEC_PER_SEC;
	ck_assert_int_eq(sem_timedwait(&claimant.done, &until), -1);
	before_write_lose(demand, fixture.guest->guest->memories[fixture.memory],
			  (struct page_range){ 3, 1 });
	before_write_listen(demand, false);
	pthread_join(thread, NULL);
	ck_assert(claimant.counts);
	before_write_stats(claimant.hook, &stats);
	ck_assert_uint_eq(stats.n_lost, 1);

	sem_destroy(&claimant.done);
	before_write_free(claimant.hook);
	free(demand);
	dirty_end(&fixture);
}
END_TEST

START_TEST(what_is_discarded_unsaved_is_counted_as_lost)
{
	struct before_write_stats stats;
	struct before_write *hook;
	struct dirty_fixture fixture;
	int advice = rows[_i].kind == CHILD_SHMEM || rows[_i].kind == CHILD_HUGETLB ? MADV_REMOVE
										    : MADV_DONTNEED;

	begin(&fixture, _i, &hook);
	child_poke(&fixture.child, 2, 1);
	ck_assert(before_write_claim(hook, fixture.memory, 4));
	child_advise(&fixture.child, 2, 4, advice);
	dirty_expect_sum(&fixture, "snapshot", 4);
	before_write_stats(hook, &stats);
	ck_assert_uint_eq(stats.n_lost, 2); /* 3 and 5 */
	end(&fixture, hook);
}
END_TEST

/* A hole may be punched before the kernel tells of it: the bytes of whoever read it then are not the page's. */
START_TEST(what_read_zero_and_is_discarded_afterwards_is_lost)
{
	struct before_write_stats stats;
	struct before_write *hook;
	struct dirty_fixture fixture;
	int advice = rows[_i].kind == CHILD_SHMEM || rows[_i].kind == CHILD_HUGETLB ? MADV_REMOVE
										    : MADV_DONTNEED;

	begin(&fixture, _i, &hook);
	ck_assert(before_write_claim_zero(hook, fixture.memory, 3));
	ck_assert(before_write_claim_zero(hook, fixture.memory, 7));
	ck_assert(before_write_claim(hook, fixture.memory, 4));
	child_advise(&fixture.child, 3, 2, advice);
	dirty_expect_sum(&fixture, "snapshot", 2);
	before_write_stats(hook, &stats);
	ck_assert_uint_eq(stats.n_lost, 1); /* 3 */
	end(&fixture, hook);
}
END_TEST

int main(void)
{
	hugepages_reserve(2 * DIRTY_PAGES);
	return unit_run(
		"before-write",
		(struct unit_test[]){
			UNIT_TABLE(what_a_page_held_is_saved_before_its_first_write, rows),
			UNIT_TABLE(a_full_ring_holds_a_write_until_there_is_room, rows),
			UNIT_TABLE(writes_go_on_when_the_copy_is_given_up, rows),
			UNIT_TABLE(what_is_discarded_unsaved_is_counted_as_lost, rows),
			UNIT_TABLE(what_read_zero_and_is_discarded_afterwards_is_lost, rows),
			UNIT(nothing_is_claimed_between_a_discard_and_the_word_of_it),
			{},
		});
}
