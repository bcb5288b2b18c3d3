/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The board and the flight recorder of the ledger, as this thread writes them: relaxed stores into
 * memory that is its own and hot, a few nanoseconds each. Nothing here is read again by the engine.
 */
#include <assert.h>
#include <string.h>
#include <unistd.h>

#include "fault/engine.h"

static_assert(BOARD_N_FILLS == N_SLOTS, "a fill of the board for every slot");
static_assert(BOARD_N_STALLS <= N_STALLED, "and stalls as far as they go");

#define SET(field, value) atomic_store_explicit(&(field), (value), memory_order_relaxed)

static uint64_t us_of(uint64_t time_ns)
{
	return time_ns / NSEC_PER_USEC;
}

void board_begin(struct demand *demand)
{
	struct board *board = demand->board;

	memset((void *)board, 0, sizeof(*board));
	SET(board->pager_pid, (uint32_t)getpid());
	SET(board->beat_us, us_of(demand->now_ns));
	flight_note(demand->flight, demand->now_ns,
		    demand->config.is_adopted ? FLIGHT_ADOPTED : FLIGHT_STARTED, 0, 0, getpid());
}

void board_beat(struct demand *demand)
{
	SET(demand->board->beat_us, us_of(demand->now_ns));
	SET(demand->board->n_parked, demand->park.n);
}

void board_fill(struct demand *demand, const struct slot *slot, enum board_state state, int error)
{
	struct board_fill *fill = &demand->board->fills[slot - demand->slots.slots];

	SET(fill->page, slot->pages.first);
	SET(fill->n_pages, (uint32_t)slot->pages.count);
	SET(fill->since_us, us_of(slot->started_ns));
	SET(fill->read_us, state == BOARD_READING ? us_of(demand->now_ns) : 0);
	SET(fill->retry_at_us, state == BOARD_WAITING ? us_of(slot->retry_at_ns) : 0);
	SET(fill->n_tries, slot->n_tries);
	SET(fill->error, error);
	SET(fill->cause, (uint8_t)slot->cause);
	SET(fill->memory, (uint8_t)slot->memory->id);
	atomic_store_explicit(&fill->state, (uint8_t)state, memory_order_release);
}

void board_free(struct demand *demand, const struct slot *slot)
{
	SET(demand->board->fills[slot - demand->slots.slots].state, BOARD_FREE);
}

void board_stall(struct demand *demand, unsigned int index)
{
	const struct stalled *entry = &demand->stalls.entries[index];
	struct board_stall *stall;

	if (index >= BOARD_N_STALLS)
		return;
	stall = &demand->board->stalls[index];
	if (index >= demand->stalls.n) {
		SET(stall->since_us, 0);
		return;
	}
	SET(stall->page, entry->page);
	SET(stall->retry_at_us, us_of(entry->retry_at_ns));
	SET(stall->error, entry->error);
	SET(stall->memory, entry->memory->id);
	atomic_store_explicit(&stall->since_us, us_of(entry->since_ns), memory_order_release);
}

void demand_note(struct demand *demand, enum flight_kind kind, const struct memory *memory,
		 uint64_t page, int64_t value)
{
	flight_note(demand->flight, demand->now_ns, kind, memory ? memory->id : 0, page, value);
}
