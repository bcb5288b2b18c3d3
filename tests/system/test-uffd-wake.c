/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Who is woken by what, and what unread events do. */
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <string.h>

#include "base/clock.h"
#include "kernel/backing.h"
#include "kernel/features.h"
#include "kernel/uffd.h"
#include "support/hugepages.h"
#include "support/target.h"
#include "support/unit.h"

static unsigned char bytes[4 * HUGE_BYTES];

/* Faults of the target that nobody has resolved, read or not. */
static uint64_t count_waiters(const struct target *target)
{
	uint64_t unread, unresolved;

	ck_assert_int_eq(uffd_pending(target->uffd, &unread, &unresolved), 0);
	return unresolved;
}

static void read_one(const struct target *target, struct uffd_msg *message)
{
	struct pollfd readable = { .fd = target->uffd, .events = POLLIN };
	unsigned int n = 0;

	ck_assert_int_eq(poll(&readable, 1, 20000), 1);
	ck_assert_int_eq(uffd_read(target->uffd, message, 1, &n), 0);
	ck_assert_uint_eq(n, 1);
}

static int copy_page(const struct target *target, uint64_t index, unsigned int flags)
{
	uint64_t done;

	return uffd_copy(target->uffd, target_page(target, index), bytes, target->page_bytes, flags,
			 &done);
}

static const enum target_memory kinds[] = { TARGET_ANON, TARGET_SHMEM, TARGET_HUGETLB,
					    TARGET_PRIVATE };

START_TEST(a_fill_without_wake_and_a_present_page_wake_nobody)
{
	_cleanup_(target_done) struct target target;
	struct uffd_msg message;

	target_start(&target, kinds[_i], 2, 0);
	target_register(&target);
	bytes[0] = 0x77;
	target_ask(&target, target_load, target_page(&target, 0), 0);
	read_one(&target, &message);

	ck_assert_int_eq(copy_page(&target, 0, UFFD_FILL_NO_WAKE), 0);
	ck_assert_uint_eq(count_waiters(&target), 1);
	ck_assert_int_eq(copy_page(&target, 0, 0), UFFD_PRESENT);
	ck_assert_uint_eq(count_waiters(&target), 1);
	ck_assert_int_eq(uffd_wake(target.uffd, target_pages(&target, 0, 1)), 0);
	ck_assert_uint_eq(target_answer(&target), 0x77);
}
END_TEST

START_TEST(a_partial_fill_wakes_those_of_its_pages)
{
	_cleanup_(target_done) struct target target;
	struct uffd_msg message;
	uint64_t done;

	target_start(&target, kinds[_i], 4, 0);
	target_register(&target);
	ck_assert_int_eq(copy_page(&target, 1, 0), 0);
	target_ask(&target, target_load, target_page(&target, 0), 0);
	read_one(&target, &message);
	target_ask(&target, target_load, target_page(&target, 2), 0);
	read_one(&target, &message);

	ck_assert_int_eq(
		uffd_copy(target.uffd, target.memory.start, bytes, 3 * target.page_bytes, 0, &done),
		UFFD_PRESENT);
	ck_assert_uint_eq(done, target.page_bytes);
	target_answer(&target);
	ck_assert_uint_eq(count_waiters(&target), 1);
	ck_assert_int_eq(copy_page(&target, 2, 0), 0);
	target_answer(&target);
}
END_TEST

START_TEST(a_wake_of_an_unresolved_page_asks_anew)
{
	_cleanup_(target_done) struct target target;
	struct uffd_msg first, second;

	target_start(&target, kinds[_i], 2, 0);
	target_register(&target);
	target_ask(&target, target_load, target_page(&target, 1), 0);
	read_one(&target, &first);
	ck_assert_int_eq(uffd_wake(target.uffd, target.memory), 0);
	read_one(&target, &second);
	ck_assert_uint_eq(first.arg.pagefault.address, second.arg.pagefault.address);
	ck_assert_int_eq(copy_page(&target, 1, 0), 0);
	target_answer(&target);
}
END_TEST

START_TEST(a_wake_of_another_part_misses_the_waiters_of_a_huge_page)
{
	_cleanup_(target_done) struct target target;
	struct hva_range part;
	struct uffd_msg message;

	target_start(&target, TARGET_HUGETLB, 1, 0);
	target_register(&target);
	target_ask(&target, target_load, hva_add(target.memory.start, 8192), 0);
	read_one(&target, &message);
	ck_assert_int_eq(copy_page(&target, 0, UFFD_FILL_NO_WAKE), 0);
	part = (struct hva_range){ hva_add(target.memory.start, 8192), 4096 };
	ck_assert_int_eq(uffd_wake(target.uffd, part), 0);
	ck_assert_uint_eq(count_waiters(&target), 1);
	ck_assert_int_eq(uffd_wake(target.uffd, target.memory), 0);
	target_answer(&target);
}
END_TEST

static const struct {
	const char *what;
	enum target_memory memory;
	unsigned int modes;
	uint64_t flags; /* of the message; stores set WRITE besides */
} waits[] = {
	{ "missing", TARGET_ANON, UFFD_MODE_MISSING, 0 },
	{ "missing", TARGET_SHMEM, UFFD_MODE_MISSING, 0 },
	{ "minor", TARGET_SHMEM, UFFD_MODE_MINOR, UFFD_PAGEFAULT_FLAG_MINOR },
	{ "write-protected", TARGET_SHMEM, UFFD_MODE_WP, UFFD_PAGEFAULT_FLAG_WP },
	{ "write-protected", TARGET_ANON, UFFD_MODE_WP, UFFD_PAGEFAULT_FLAG_WP },
};

/* The kernel's UNREGISTER alone wakes the missing ones only. */
START_TEST(leaving_a_range_wakes_all_who_wait_there)
{
	_cleanup_(target_done) struct target target;
	struct uffd_msg message;

	target_start(&target, waits[_i].memory, 1, 0);
	if (waits[_i].modes != UFFD_MODE_MISSING)
		target_do(&target, target_store, target.memory.start, 1);
	if (waits[_i].modes == UFFD_MODE_MINOR) /* off the page table, still in the file */
		target_do(&target, target_forget, target.memory.start, target.page_bytes);
	ck_assert_int_eq(uffd_register(target.uffd, target.memory, waits[_i].modes, NULL), 0);
	if (waits[_i].modes == UFFD_MODE_WP)
		ck_assert_int_eq(uffd_write_protect(target.uffd, target.memory, true), 0);

	target_ask(&target, target_store, target.memory.start, 2);
	read_one(&target, &message);
	ck_assert_uint_eq(message.arg.pagefault.flags & ~(uint64_t)UFFD_PAGEFAULT_FLAG_WRITE,
			  waits[_i].flags);
	ck_assert_int_eq(uffd_unregister(target.uffd, target.memory), 0);
	target_answer(&target);
}
END_TEST

START_TEST(unprotecting_wakes_and_a_range_without_wp_is_unmapped)
{
	_cleanup_(target_done) struct target target;
	struct uffd_msg message;

	target_start(&target, kinds[_i], 2, 0);
	target_register(&target);
	ck_assert_int_eq(copy_page(&target, 0, 0), 0);
	ck_assert_int_eq(uffd_write_protect(target.uffd, target_pages(&target, 0, 1), true), 0);
	target_ask(&target, target_store, target_page(&target, 0), 9);
	read_one(&target, &message);
	ck_assert_uint_eq(message.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP,
			  UFFD_PAGEFAULT_FLAG_WP);
	ck_assert_int_eq(uffd_write_protect(target.uffd, target_pages(&target, 0, 1), false), 0);
	target_answer(&target);

	ck_assert_int_eq(uffd_unregister(target.uffd, target.memory), 0);
	ck_assert_int_eq(uffd_write_protect(target.uffd, target_pages(&target, 0, 1), true),
			 UFFD_UNMAPPED);
}
END_TEST

/* After the event was read its thread still has to run before fills go through. */
static int copy_when_settled(const struct target *target, uint64_t index)
{
	uint64_t deadline_ns = clock_now_ns() + 20 * NSEC_PER_SEC;
	int r;

	do {
		r = copy_page(target, index, 0);
		sched_yield();
	} while (r == UFFD_CHANGING && clock_now_ns() < deadline_ns);
	return r;
}

START_TEST(an_unread_discard_holds_up_fills_until_it_is_read)
{
	_cleanup_(target_done) struct target target;
	struct pollfd readable = { .events = POLLIN };
	struct uffd_msg message;
	uint64_t done = 9;

	if (!(features_get()->uffd & UFFD_FEATURE_EVENT_REMOVE))
		unit_skip("no UFFD_FEATURE_EVENT_REMOVE");
	target_start(&target, kinds[_i], 2, UFFD_FEATURE_EVENT_REMOVE);
	target_register(&target);
	ck_assert_int_eq(copy_page(&target, 0, 0), 0);
	target_ask(&target, target_discard, target_page(&target, 0), target.page_bytes);
	readable.fd = target.uffd;
	ck_assert_int_eq(poll(&readable, 1, 20000), 1);

	ck_assert_int_eq(copy_page(&target, 1, 0), UFFD_CHANGING);
	ck_assert_int_eq(uffd_write_protect(target.uffd, target.memory, true), UFFD_CHANGING);
	ck_assert(uffd_is_changing(target.uffd));
	if (target.memfd >= 0)
		ck_assert_int_eq(uffd_continue(target.uffd, target.memory, 0, &done),
				 UFFD_CHANGING);
	ck_assert(!target_has_answered(&target, 0));

	read_one(&target, &message);
	ck_assert_int_eq(message.event, UFFD_EVENT_REMOVE);
	ck_assert_uint_eq(message.arg.remove.start, target.memory.start.v);
	ck_assert_uint_eq(message.arg.remove.end, target.memory.start.v + target.page_bytes);
	ck_assert_uint_eq(target_answer(&target), 0);
	ck_assert_int_eq(copy_when_settled(&target, 1), 0);
}
END_TEST

/*
 * The discard may begin before the registration ends, or after it, or never be heard. But if its message comes, it
 * does so while the address space is changing: who sees that it is not, has nothing left to read.
 */
START_TEST(no_message_of_a_range_comes_after_it_was_left_and_nothing_changes)
{
	_cleanup_(target_done) struct target target;
	struct uffd_msg message;
	unsigned int n_heard = 0, n = 9;

	if (!(features_get()->uffd & UFFD_FEATURE_EVENT_REMOVE))
		unit_skip("no UFFD_FEATURE_EVENT_REMOVE");
	target_start(&target, kinds[_i], 2, UFFD_FEATURE_EVENT_REMOVE);
	for (unsigned int i = 0; i < 200 || !n_heard; i++) {
		target_register(&target);
		ck_assert(!uffd_is_changing(target.uffd));
		target_ask(&target, target_discard, target_page(&target, 0), target.page_bytes);
		for (unsigned int k = 0; k < i; k++)
			sched_yield(); /* from too early to too late */
		ck_assert_int_eq(uffd_unregister(target.uffd, target.memory), 0);
		while (uffd_is_changing(target.uffd)) {
			ck_assert_int_eq(uffd_read(target.uffd, &message, 1, &n), 0);
			n_heard += n;
		}
		ck_assert_int_eq(uffd_read(target.uffd, &message, 1, &n), 0);
		ck_assert_uint_eq(n, 0);
		ck_assert_uint_eq(target_answer(&target), 0);
		ck_assert_int_eq(uffd_read(target.uffd, &message, 1, &n), 0);
		ck_assert_uint_eq(n, 0);
	}
}
END_TEST

int main(void)
{
	hugepages_reserve(5);
	return unit_run(
		"uffd-wake",
		(struct unit_test[]){
			UNIT_TABLE(a_fill_without_wake_and_a_present_page_wake_nobody, kinds),
			UNIT_TABLE(a_partial_fill_wakes_those_of_its_pages, kinds),
			UNIT_TABLE(a_wake_of_an_unresolved_page_asks_anew, kinds),
			UNIT(a_wake_of_another_part_misses_the_waiters_of_a_huge_page),
			UNIT_TABLE(leaving_a_range_wakes_all_who_wait_there, waits),
			UNIT_TABLE(unprotecting_wakes_and_a_range_without_wp_is_unmapped, kinds),
			UNIT_TABLE(an_unread_discard_holds_up_fills_until_it_is_read, kinds),
			UNIT_TABLE(
				no_message_of_a_range_comes_after_it_was_left_and_nothing_changes,
				kinds),
			{},
		});
}
