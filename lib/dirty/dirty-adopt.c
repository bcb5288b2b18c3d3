/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Consumers of a former process: found in the ledger, and what it had begun taken back. */
#include <errno.h>
#include <string.h>

#include "dirty/dirty-log.h"

/* Do the bytes [@at, @at + @length) of the ledger hold states, or maps that were found before? */
static bool is_taken(const struct guest *guest, uint64_t at, uint64_t length)
{
	for (uint32_t i = 0; i < guest->n_memories; i++) {
		const struct memory *memory = guest->memories[i];
		uint64_t n_pages = memory_n_pages(memory);

		if (memory->is_forgotten)
			continue;
		if (at < memory->states_offset + page_states_bytes(n_pages) &&
		    memory->states_offset < at + length)
			return true;
		for (uint32_t slot = 0; slot < MAX_CONSUMERS; slot++) {
			const struct dirty_map *map = &memory->dirty.maps[slot];

			if (map->pending && at < map->area_offset + dirty_map_bytes(n_pages) &&
			    map->area_offset < at + length)
				return true;
		}
	}
	return false;
}

static int adopt_maps(struct dirty_log *log, uint32_t slot)
{
	struct guest *guest = log->guest;
	uint64_t offsets[MAX_MEMORIES];
	size_t n_bytes;
	int r = ledger_copy_record(guest->ledger, LEDGER_DIRTY, slot, offsets, sizeof(offsets),
				   &n_bytes);

	if (r == -ENOENT || (r == 0 && n_bytes != sizeof(offsets)))
		return LEDGER_DAMAGED;
	for (uint32_t i = 0; r == 0 && i < guest->n_memories; i++) {
		struct memory *memory = guest->memories[i];
		uint64_t length = dirty_map_bytes(memory_n_pages(memory));

		if (memory->is_forgotten)
			continue;
		/* it was being declared: no page of it is anywhere */
		if (!offsets[i] && !memory->n_mappings)
			continue;
		if (!offsets[i] || is_taken(guest, offsets[i], length))
			return LEDGER_DAMAGED;
		r = memory_adopt_maps(memory, guest->ledger, slot, offsets[i]);
	}
	return r;
}

static bool is_sound(const struct dirty_log *log, uint32_t slot, const struct consumer *consumer)
{
	size_t n_name = strnlen(consumer->name, sizeof(consumer->name));

	if (!n_name || n_name == sizeof(consumer->name) || consumer->stage < CONSUMER_STARTING ||
	    consumer->stage > CONSUMER_STOPPING ||
	    (consumer->stage == CONSUMER_READING && consumer->epoch == 0))
		return false;
	for (uint32_t i = 0; i < slot; i++)
		if (log->consumers[i].stage != CONSUMER_FREE &&
		    strcmp(log->consumers[i].name, consumer->name) == 0)
			return false;
	return true;
}

/* Return: 0, -ENOENT (there is none in this slot), LEDGER_DAMAGED, -errno. */
static int adopt_consumer(struct dirty_log *log, uint32_t slot)
{
	struct consumer *consumer = &log->consumers[slot];
	struct consumer recorded;
	size_t n_bytes;
	int r = ledger_copy_record(log->guest->ledger, LEDGER_CONSUMER, slot, &recorded,
				   sizeof(recorded), &n_bytes);

	if (r)
		return r;
	if (n_bytes != sizeof(recorded) || !is_sound(log, slot, &recorded))
		return LEDGER_DAMAGED;
	*consumer = recorded;
	/* of one that did not start, or was being stopped, nobody asks */
	if (recorded.stage == CONSUMER_STARTING || recorded.stage == CONSUMER_STOPPING)
		return 0;
	r = adopt_maps(log, slot);
	if (r == 0)
		dirty_log_arm(log, slot);
	return r;
}

static int adopt_look(struct dirty_log *log, uint32_t memory)
{
	struct file_look *look = &log->looks[memory];
	size_t n_bytes;
	int r = ledger_copy_record(log->guest->ledger, LEDGER_TRACKED, memory, look, sizeof(*look),
				   &n_bytes);

	if (r == 0 && n_bytes != sizeof(*look))
		return LEDGER_DAMAGED;
	look->is_adopted = true;
	return r == -ENOENT ? 0 : r;
}

int dirty_log_adopt(struct dirty_log *log)
{
	for (uint32_t i = 0; i < log->guest->n_memories; i++) {
		int r = adopt_look(log, i);

		log->settled_discards[i] = UINT64_MAX; /* a former process was told of some */
		if (r)
			return r;
	}

	for (uint32_t slot = 0; slot < MAX_CONSUMERS; slot++) {
		int r = adopt_consumer(log, slot);

		if (r && r != -ENOENT)
			return r;
	}
	return 0;
}

bool dirty_log_recover(struct dirty_log *log)
{
	bool is_any = false, is_any_left = false;

	scan_recover(log->guest);
	for (uint32_t slot = 0; slot < MAX_CONSUMERS; slot++) {
		uint32_t stage = log->consumers[slot].stage;

		if (stage == CONSUMER_READING)
			dirty_log_take_back(log, slot);
		is_any |= stage != CONSUMER_FREE;
		is_any_left |= stage == CONSUMER_STARTED || stage == CONSUMER_READING;
	}
	return is_any && !is_any_left;
}

void dirty_log_drop_unfinished(struct dirty_log *log)
{
	for (uint32_t slot = 0; slot < MAX_CONSUMERS; slot++)
		if (log->consumers[slot].stage == CONSUMER_STARTING ||
		    log->consumers[slot].stage == CONSUMER_STOPPING)
			dirty_log_drop(log, slot);
}
