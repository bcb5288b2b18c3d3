/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The roster: mappers and mappings come back from the ledger as they were recorded. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/units.h"
#include "guest/guest.h"
#include "guest/roster.h"
#include "support/unit.h"

#define PAGE 4096

static struct guest *new_guest(unsigned int n_mappers, uint32_t n_memories)
{
	struct guest *guest = NULL;
	struct mapper *mapper;

	ck_assert_int_eq(guest_new(&guest, "guest"), 0);
	for (unsigned int i = 0; i < n_mappers; i++)
		ck_assert_int_eq(guest_add_mapper(guest, -EBADF, -EBADF, -EBADF, 42, 0, &mapper),
				 0);
	for (uint32_t id = 0; id < n_memories; id++) {
		char name[16];
		struct memory_config config = {
			.name = name,
			.page_bytes = PAGE,
			.length_bytes = 4 * GIB,
			.backing = -EBADF,
		};
		struct memory *memory;

		snprintf(name, sizeof(name), "ram%u", id);
		ck_assert_int_eq(memory_new(&memory, id, &config, guest->ledger), 0);
		ck_assert_int_eq(guest_add_memory(guest, memory), 0);
	}
	return guest;
}

/* One page of memory @memory at page @address. Return: its place; the record is written. */
static uint32_t add(struct guest *guest, uint32_t mapper, uint32_t memory, uint64_t address,
		    enum mapping_stage stage)
{
	struct mapping mapping = {
		.mapper = &guest->mappers[mapper],
		.memory = guest->memories[memory],
		.range = { { address * PAGE }, PAGE },
		.offset_bytes = address % 1024 * PAGE,
		.stage = stage,
	};
	struct mapping *added;
	struct guest_view *old;

	ck_assert_int_eq(roster_find_place(guest->view, &mapping.place), 0);
	ck_assert_int_eq(guest_add_mapping(guest, &mapping, &old, &added), 0);
	free(old);
	ck_assert_int_eq(roster_put(guest->ledger, guest->view, mapping.place), 0);
	return mapping.place;
}

static void take(struct guest *guest, uint32_t mapper, uint64_t address)
{
	struct hva_range range = { { address * PAGE }, PAGE };
	struct guest_view *old;
	struct mapping *mapping;
	uint32_t place;

	ck_assert_int_eq(
		guest_remove_mapping(guest, &guest->mappers[mapper], range, &old, &mapping), 0);
	place = mapping->place;
	free(old);
	free(mapping);
	ck_assert_int_eq(roster_put(guest->ledger, guest->view, place), 0);
}

static const struct recorded_mapper mappers[] = {
	{ .pid = 1, .start_ticks = 0, .features = 0, .has_pagemap = false },
	{ .pid = 4194304, .start_ticks = UINT64_MAX, .features = 0x1ffff, .has_pagemap = true },
};

START_TEST(a_mapper_comes_back)
{
	_cleanup_(guest_freep) struct guest *guest = new_guest(0, 0);
	struct recorded_mapper found;

	ck_assert_int_eq(roster_get_mapper(guest->ledger, 3, &found), -ENOENT);
	ck_assert_int_eq(roster_put_mapper(guest->ledger, 3, &mappers[_i]), 0);
	ck_assert_int_eq(roster_get_mapper(guest->ledger, 3, &found), 0);
	ck_assert_int_eq(found.pid, mappers[_i].pid);
	ck_assert_uint_eq(found.start_ticks, mappers[_i].start_ticks);
	ck_assert_uint_eq(found.features, mappers[_i].features);
	ck_assert(found.has_pagemap == mappers[_i].has_pagemap);
}
END_TEST

START_TEST(a_mapper_that_cannot_be_is_damage)
{
	_cleanup_(guest_freep) struct guest *guest = new_guest(0, 0);
	struct recorded_mapper mapper = { .pid = 0 }, found;
	uint64_t words[4] = { 1, 2, 3, 4 };

	ck_assert_int_eq(roster_put_mapper(guest->ledger, 0, &mapper), 0);
	ck_assert_int_eq(roster_get_mapper(guest->ledger, 0, &found), LEDGER_DAMAGED);
	mapper.pid = -7;
	ck_assert_int_eq(roster_put_mapper(guest->ledger, 0, &mapper), 0);
	ck_assert_int_eq(roster_get_mapper(guest->ledger, 0, &found), LEDGER_DAMAGED);
	ck_assert_int_eq(ledger_put_record(guest->ledger, LEDGER_MAPPER, 0, words, 32), 0);
	ck_assert_int_eq(roster_get_mapper(guest->ledger, 0, &found), LEDGER_DAMAGED);
	ck_assert_int_eq(ledger_put_record(guest->ledger, LEDGER_MAPPER, 0, words, 8), 0);
	ck_assert_int_eq(roster_get_mapper(guest->ledger, 0, &found), LEDGER_DAMAGED);
}
END_TEST

START_TEST(a_mapping_comes_back_with_its_stage)
{
	_cleanup_(guest_freep) struct guest *guest = new_guest(MAX_MAPPERS, MAX_MEMORIES);
	struct recorded_mapping found;
	uint32_t cursor = 0;

	ck_assert_int_eq(roster_next(guest->ledger, &cursor, &found), -ENOENT);
	add(guest, 7, 63, UINT64_C(0x7ffffffff), MAPPING_LEAVING);
	add(guest, 0, 0, 16, MAPPING_ARRIVING);
	add(guest, 3, 1, 17, MAPPING_OPEN);

	cursor = 0;
	ck_assert_int_eq(roster_next(guest->ledger, &cursor, &found), 0);
	ck_assert_uint_eq(found.mapper, 7);
	ck_assert_uint_eq(found.memory, 63);
	ck_assert_uint_eq(found.range.start.v, UINT64_C(0x7ffffffff000));
	ck_assert_uint_eq(found.range.length_bytes, PAGE);
	ck_assert_uint_eq(found.offset_bytes, 1023 * PAGE);
	ck_assert_int_eq(found.stage, MAPPING_LEAVING);
	ck_assert_int_eq(roster_next(guest->ledger, &cursor, &found), 0);
	ck_assert_int_eq(found.stage, MAPPING_ARRIVING);
	ck_assert_uint_eq(found.mapper, 0);
	ck_assert_int_eq(roster_next(guest->ledger, &cursor, &found), 0);
	ck_assert_int_eq(found.stage, MAPPING_OPEN);
	ck_assert_uint_eq(found.mapper, 3);
	ck_assert_int_eq(roster_next(guest->ledger, &cursor, &found), -ENOENT);
}
END_TEST

/* All that a guest may have, at once. */
START_TEST(all_mappings_fit_and_places_are_taken_again)
{
	_cleanup_(guest_freep) struct guest *guest = new_guest(MAX_MAPPERS, MAX_MEMORIES);
	struct recorded_mapping found;
	struct mapping one = { .range = { { 0 }, PAGE } };
	struct guest_view *old;
	struct mapping *added;
	uint32_t cursor = 0, place, n = 0;
	bool is_seen[MAX_MAPPINGS] = {};

	for (uint32_t i = 0; i < MAX_MAPPINGS; i++)
		ck_assert_uint_eq(
			add(guest, i % MAX_MAPPERS, i % MAX_MEMORIES, 100 + i, MAPPING_OPEN), i);
	ck_assert_int_eq(roster_find_place(guest->view, &place), GUEST_FULL);
	one.mapper = &guest->mappers[0];
	one.memory = guest->memories[0];
	ck_assert_int_eq(guest_add_mapping(guest, &one, &old, &added), GUEST_FULL);

	take(guest, 500 % MAX_MAPPERS, 600);
	take(guest, 33 % MAX_MAPPERS, 133);
	ck_assert_uint_eq(add(guest, 0, 0, 5000, MAPPING_OPEN), 33);
	while (roster_next(guest->ledger, &cursor, &found) == 0) {
		ck_assert(!is_seen[found.place]);
		is_seen[found.place] = true;
		ck_assert_uint_eq(found.range.start.v / PAGE,
				  found.place == 33 ? 5000 : 100 + found.place);
		n++;
	}
	ck_assert_uint_eq(n, MAX_MAPPINGS - 1);
	ck_assert(!is_seen[500]);
}
END_TEST

START_TEST(the_last_of_a_record_takes_it_along)
{
	_cleanup_(guest_freep) struct guest *guest = new_guest(1, 1);
	const void *data;
	size_t n_bytes;

	add(guest, 0, 0, 1, MAPPING_OPEN);
	ck_assert_int_eq(ledger_get_record(guest->ledger, LEDGER_MAPPING, 0, &data, &n_bytes), 0);
	take(guest, 0, 1);
	ck_assert_int_eq(ledger_get_record(guest->ledger, LEDGER_MAPPING, 0, &data, &n_bytes),
			 -ENOENT);
}
END_TEST

static const size_t wrong_lengths[] = { 1, 23, 25, 24 * 32 + 24, 1200 };

START_TEST(a_record_of_no_length_is_damage)
{
	_cleanup_(guest_freep) struct guest *guest = new_guest(1, 1);
	struct recorded_mapping found;
	unsigned char bytes[1200];
	uint32_t cursor = 0;

	memset(bytes, 0x11, sizeof(bytes));
	ck_assert_int_eq(
		ledger_put_record(guest->ledger, LEDGER_MAPPING, 5, bytes, wrong_lengths[_i]), 0);
	ck_assert_int_eq(roster_next(guest->ledger, &cursor, &found), LEDGER_DAMAGED);
}
END_TEST

int main(void)
{
	return unit_run("roster",
			(struct unit_test[]){
				UNIT_TABLE(a_mapper_comes_back, mappers),
				UNIT(a_mapper_that_cannot_be_is_damage),
				UNIT(a_mapping_comes_back_with_its_stage),
				UNIT(all_mappings_fit_and_places_are_taken_again),
				UNIT(the_last_of_a_record_takes_it_along),
				UNIT_TABLE(a_record_of_no_length_is_damage, wrong_lengths),
				{},
			});
}
