/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The roster: mappers and mappings, packed. */
#include "guest/roster.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "guest/guest.h"
#include "guest/ledger.h"

#define N_CHUNKS (MAX_MAPPINGS / ROSTER_CHUNK)

/* In the ledger, layout 1. */
struct mapper_record {
	uint64_t start_ticks;
	uint64_t features;
	uint32_t pid;
	uint32_t has_pagemap;
};

/*
 * The same. 1,024 of them fit beside everything else, because the bits that page alignment leaves free
 * are used. A word of zeros in front is a free place.
 */
struct mapping_record {
	uint64_t address_stage; /* from bit 0: stage, 2 bits; mapper, 4 */
	uint64_t length_memory; /* from bit 0: memory, 8 bits */
	uint64_t offset_bytes;
};
#define STAGE_BITS    2
#define MAPPER_BITS   4
#define MEMORY_BITS   8
#define SMALLEST_PAGE 4096

static_assert(MAX_MAPPERS <= 1 << MAPPER_BITS && MAX_MEMORIES <= 1 << MEMORY_BITS, "ids fit");

int roster_put_mapper(struct ledger *ledger, uint32_t id, const struct recorded_mapper *mapper)
{
	struct mapper_record record = {
		.start_ticks = mapper->start_ticks,
		.features = mapper->features,
		.pid = (uint32_t)mapper->pid,
		.has_pagemap = mapper->has_pagemap,
	};

	return ledger_put_record(ledger, LEDGER_MAPPER, id, &record, sizeof(record));
}

int roster_get_mapper(const struct ledger *ledger, uint32_t id, struct recorded_mapper *ret)
{
	struct mapper_record record;
	size_t n_bytes;
	int r;

	r = ledger_copy_record(ledger, LEDGER_MAPPER, id, &record, sizeof(record), &n_bytes);
	if (r)
		return r;
	if (n_bytes != sizeof(record) || !record.pid || record.pid > INT32_MAX)
		return LEDGER_DAMAGED;
	*ret = (struct recorded_mapper){
		.pid = (pid_t)record.pid,
		.start_ticks = record.start_ticks,
		.features = record.features,
		.has_pagemap = record.has_pagemap,
	};
	return 0;
}

int roster_find_place(const struct guest_view *view, uint32_t *ret_place)
{
	uint64_t taken[MAX_MAPPINGS / 64] = {};

	for (uint32_t i = 0; i < view->n_mappings; i++)
		taken[view->mappings[i]->place / 64] |= UINT64_C(1)
							<< view->mappings[i]->place % 64;
	for (uint32_t i = 0; i < MAX_MAPPINGS / 64; i++)
		if (taken[i] != UINT64_MAX) {
			*ret_place = i * 64 + (uint32_t)__builtin_ctzll(~taken[i]);
			return 0;
		}
	return GUEST_FULL;
}

static void mapping_pack(struct mapping_record *record, const struct mapping *mapping)
{
	assert(is_aligned(mapping->range.start.v | mapping->range.length_bytes, SMALLEST_PAGE));

	*record = (struct mapping_record){
		.address_stage = mapping->range.start.v | mapping->stage |
				 (uint64_t)mapping->mapper->id << STAGE_BITS,
		.length_memory = mapping->range.length_bytes | mapping->memory->id,
		.offset_bytes = mapping->offset_bytes,
	};
}

int roster_put(struct ledger *ledger, const struct guest_view *view, uint32_t place)
{
	struct mapping_record chunk[ROSTER_CHUNK] = {};
	uint32_t id = place / ROSTER_CHUNK, n = 0;

	for (uint32_t i = 0; i < view->n_mappings; i++) {
		const struct mapping *mapping = view->mappings[i];

		if (mapping->place / ROSTER_CHUNK != id)
			continue;
		mapping_pack(&chunk[mapping->place % ROSTER_CHUNK], mapping);
		n = (uint32_t)max_u64(n, mapping->place % ROSTER_CHUNK + 1);
	}
	if (n)
		return ledger_put_record(ledger, LEDGER_MAPPING, id, chunk, n * sizeof(chunk[0]));
	ledger_drop_record(ledger, LEDGER_MAPPING, id);
	return 0;
}

static void mapping_unpack(const struct mapping_record *record, uint32_t place,
			   struct recorded_mapping *ret)
{
	uint64_t low = record->address_stage & (SMALLEST_PAGE - 1);

	*ret = (struct recorded_mapping){
		.place = place,
		.mapper = (uint32_t)(low >> STAGE_BITS),
		.memory = (uint32_t)(record->length_memory & (SMALLEST_PAGE - 1)),
		.stage = (enum mapping_stage)(low & ((1 << STAGE_BITS) - 1)),
		.range = { { align_down(record->address_stage, SMALLEST_PAGE) },
			   align_down(record->length_memory, SMALLEST_PAGE) },
		.offset_bytes = record->offset_bytes,
	};
}

int roster_next(const struct ledger *ledger, uint32_t *cursor, struct recorded_mapping *ret)
{
	struct mapping_record chunk[ROSTER_CHUNK];
	size_t n_bytes = 0;
	int r = -ENOENT;

	for (uint32_t at = *cursor; at < MAX_MAPPINGS; at++) {
		const struct mapping_record *record = &chunk[at % ROSTER_CHUNK];

		if (at == *cursor || at % ROSTER_CHUNK == 0)
			r = ledger_copy_record(ledger, LEDGER_MAPPING, at / ROSTER_CHUNK, chunk,
					       sizeof(chunk), &n_bytes);
		if (r == 0 && (n_bytes > sizeof(chunk) || n_bytes % sizeof(chunk[0])))
			return LEDGER_DAMAGED;
		if (r == -ENOENT) {
			at = at / ROSTER_CHUNK * ROSTER_CHUNK + ROSTER_CHUNK - 1;
			continue;
		}
		if (at % ROSTER_CHUNK >= n_bytes / sizeof(chunk[0]) ||
		    !(record->address_stage & ((1 << STAGE_BITS) - 1)))
			continue;
		mapping_unpack(record, at, ret);
		*cursor = at + 1;
		return 0;
	}
	return -ENOENT;
}
