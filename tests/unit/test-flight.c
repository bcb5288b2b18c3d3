/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The flight recorder: what was written is read, from old to new, and never believed. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "guest/flight.h"
#include "support/unit.h"

static struct flight flight;

static const struct {
	const char *what;
	uint64_t time_ns, page, time_us, ret_page;
	int64_t value;
	int32_t ret_value;
	uint32_t memory;
	enum flight_kind kind;
} events[] = {
	{ "all zero but its kind", 0, 0, 0, 0, 0, 0, 0, FLIGHT_FAULT },
	{ "a thread", 5999, 7, 5, 7, 4194304, 4194304, 3, FLIGHT_FAULT },
	{ "negative", 1000, 1, 1, 1, -5, -5, 63, FLIGHT_HELD },
	{ "the largest page", 1000, (1ull << 40) - 1, 1, (1ull << 40) - 1, 1, 1, 255, FLIGHT_READ },
	{ "too large is cut", 1000, 1ull << 41 | 9, 1, 9, 1 << 24 | 3, 3, 0, FLIGHT_FILLED },
};

START_TEST(an_event_comes_back_as_it_was)
{
	struct flight_event event = {};
	struct flight_cursor cursor = {};

	flight_note(&flight, events[_i].time_ns, events[_i].kind, events[_i].memory,
		    events[_i].page, events[_i].value);
	ck_assert(flight_next(&flight, &cursor, &event));
	ck_assert_msg(event.time_us == events[_i].time_us && event.page == events[_i].ret_page &&
			      event.value == events[_i].ret_value &&
			      event.memory == events[_i].memory && event.kind == events[_i].kind,
		      "%s", events[_i].what);
	ck_assert(!flight_next(&flight, &cursor, &event));
}
END_TEST

START_TEST(the_last_ones_are_kept_from_old_to_new)
{
	struct flight_event event;
	struct flight_cursor cursor = {};
	uint64_t expected = 1000;

	for (uint64_t i = 0; i < FLIGHT_N_EVENTS + 1000; i++)
		flight_note(&flight, i * 1000, FLIGHT_FAULT, 0, i, 0);
	while (flight_next(&flight, &cursor, &event)) {
		ck_assert_uint_eq(event.page, expected);
		ck_assert_uint_eq(event.time_us, expected++);
	}
	ck_assert_uint_eq(expected, FLIGHT_N_EVENTS + 1000);

	/* who comes back sees what is new */
	flight_note(&flight, 1, FLIGHT_REMOVED, 0, 77, 0);
	ck_assert(flight_next(&flight, &cursor, &event));
	ck_assert_uint_eq(event.page, 77);
	ck_assert(!flight_next(&flight, &cursor, &event));
}
END_TEST

START_TEST(a_walk_ends_though_the_writer_goes_on)
{
	struct flight_cursor cursor = {};
	struct flight_event event;
	unsigned int n = 0;

	flight_note(&flight, 1000, FLIGHT_FAULT, 0, 0, 0);
	flight_note(&flight, 1000, FLIGHT_FAULT, 0, 0, 0);
	for (; flight_next(&flight, &cursor, &event); n++) {
		ck_assert_uint_lt(n, 2);
		flight_note(&flight, 1000, FLIGHT_FAULT, 0, 0, 0);
	}
	ck_assert_uint_eq(n, 2);
}
END_TEST

START_TEST(any_bytes_are_read_to_an_end)
{
	unsigned int seed = 1;

	for (unsigned int round = 0; round < 200; round++) {
		struct flight_event event;
		struct flight_cursor cursor = {};
		unsigned int n = 0;

		for (size_t i = 0; i < sizeof(flight); i += 4)
			memcpy((char *)&flight + i, &(int){ rand_r(&seed) }, 4);
		if (round % 3 == 0)
			flight.n_written = UINT64_MAX - round;
		for (; flight_next(&flight, &cursor, &event); n++)
			ck_assert_ptr_nonnull(flight_kind_name(event.kind));
		ck_assert_uint_le(n, FLIGHT_N_EVENTS);
	}
}
END_TEST

static void *write_without_end(void *must_stop)
{
	for (uint64_t i = 0; !atomic_load((_Atomic bool *)must_stop); i++)
		flight_note(&flight, i % 100000 * 1000, FLIGHT_FAULT, i % 256, i % 100000, i % 256);
	return NULL;
}

START_TEST(a_reader_never_sees_half_of_two)
{
	_Atomic bool must_stop = false;
	pthread_t writer;

	ck_assert_int_eq(pthread_create(&writer, NULL, write_without_end, &must_stop), 0);
	for (unsigned int n = 0; n < 20000;) {
		struct flight_event event;
		struct flight_cursor cursor = {};

		for (; flight_next(&flight, &cursor, &event); n++) {
			ck_assert_uint_eq(event.time_us, event.page);
			ck_assert_uint_eq(event.memory, (uint32_t)event.value);
		}
	}
	atomic_store(&must_stop, true);
	pthread_join(writer, NULL);
}
END_TEST

START_TEST(kinds_have_words)
{
	ck_assert_str_eq(flight_kind_name(FLIGHT_FAULT), "fault");
	ck_assert_str_eq(flight_kind_name(FLIGHT_HELD), "held-back");
	ck_assert_str_eq(flight_kind_name(FLIGHT_NONE), "unknown");
	ck_assert_str_eq(flight_kind_name(200), "unknown");
}
END_TEST

int main(void)
{
	return unit_run("flight", (struct unit_test[]){
					  UNIT_TABLE(an_event_comes_back_as_it_was, events),
					  UNIT(the_last_ones_are_kept_from_old_to_new),
					  UNIT(a_walk_ends_though_the_writer_goes_on),
					  UNIT(any_bytes_are_read_to_an_end),
					  UNIT(a_reader_never_sees_half_of_two),
					  UNIT(kinds_have_words),
					  {},
				  });
}
