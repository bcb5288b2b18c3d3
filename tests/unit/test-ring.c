/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The ring between one producer and one consumer. */
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/ring.h"
#include "support/unit.h"

/* An odd size, so that entries straddle cache lines; sum makes a torn entry visible. */
struct entry {
	uint64_t number;
	uint64_t sum;
	uint32_t filler;
} __attribute__((packed));

static struct entry make_entry(uint64_t number)
{
	return (struct entry){ number, ~number * 31, (uint32_t)number };
}

static void check_entry(const struct entry *entry, uint64_t number)
{
	struct entry expected = make_entry(number);

	ck_assert_mem_eq(entry, &expected, sizeof(expected));
}

START_TEST(empty_ring_gives_nothing_and_leaves_ret_alone)
{
	_cleanup_(ring_done) struct ring ring = {};
	struct entry entry = make_entry(7);

	ck_assert_int_eq(ring_init(&ring, 8, sizeof(struct entry)), 0);
	ck_assert(!ring_remove(&ring, &entry));
	check_entry(&entry, 7);
}
END_TEST

START_TEST(full_ring_takes_nothing_until_one_is_removed)
{
	_cleanup_(ring_done) struct ring ring = {};
	struct entry entry;

	ck_assert_int_eq(ring_init(&ring, 4, sizeof(struct entry)), 0);
	for (uint64_t i = 0; i < 4; i++) {
		entry = make_entry(i);
		ck_assert(ring_add(&ring, &entry));
	}
	entry = make_entry(99);
	ck_assert(!ring_add(&ring, &entry));
	ck_assert(ring_remove(&ring, &entry));
	check_entry(&entry, 0);

	entry = make_entry(4);
	ck_assert(ring_add(&ring, &entry));
	for (uint64_t i = 1; i <= 4; i++) {
		ck_assert(ring_remove(&ring, &entry));
		check_entry(&entry, i);
	}
	ck_assert(!ring_remove(&ring, &entry));
}
END_TEST

/* The counters run freely and are compared by difference only. */
START_TEST(order_survives_the_wrap_of_the_counters)
{
	_cleanup_(ring_done) struct ring ring = {};
	struct entry entry;

	ck_assert_int_eq(ring_init(&ring, 4, sizeof(struct entry)), 0);
	ring.n_added = ring.n_removed = UINT32_MAX - 5;
	for (uint64_t i = 0; i < 20; i++) {
		for (uint64_t j = 0; j < 3; j++) {
			entry = make_entry(i * 3 + j);
			ck_assert(ring_add(&ring, &entry));
		}
		for (uint64_t j = 0; j < 3; j++) {
			ck_assert(ring_remove(&ring, &entry));
			check_entry(&entry, i * 3 + j);
		}
	}
	ck_assert_uint_lt(ring.n_added, 100);
}
END_TEST

/* Sanitizers and emulation take ten times as long for each. */
static uint64_t n_passed(void)
{
	return getenv("UFD_TEST_SHORT") ? 50000 : 500000;
}

static void *produce(void *argument)
{
	struct ring *ring = argument;
	uint64_t n = n_passed();

	for (uint64_t i = 0; i < n; i++) {
		struct entry entry = make_entry(i);

		while (!ring_add(ring, &entry))
			sched_yield();
	}
	return NULL;
}

START_TEST(two_threads_pass_every_entry_whole_and_in_order)
{
	_cleanup_(ring_done) struct ring ring = {};
	uint64_t n = n_passed();
	struct entry entry;
	pthread_t producer;

	ck_assert_int_eq(ring_init(&ring, 16, sizeof(struct entry)), 0);
	ck_assert_int_eq(pthread_create(&producer, NULL, produce, &ring), 0);
	for (uint64_t i = 0; i < n; i++) {
		while (!ring_remove(&ring, &entry))
			sched_yield();
		check_entry(&entry, i);
	}
	ck_assert(!ring_remove(&ring, &entry));
	pthread_join(producer, NULL);
}
END_TEST

int main(void)
{
	return unit_run("ring", (struct unit_test[]){
					UNIT(empty_ring_gives_nothing_and_leaves_ret_alone),
					UNIT(full_ring_takes_nothing_until_one_is_removed),
					UNIT(order_survives_the_wrap_of_the_counters),
					UNIT(two_threads_pass_every_entry_whole_and_in_order),
					{},
				});
}
