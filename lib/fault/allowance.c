/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How much may still be filled before the limit of a memory control group. */
#include "fault/allowance.h"

#include <unistd.h>

#include "fault/engine.h"

void allowance_init(struct allowance *allowance)
{
	atomic_store(&allowance->soft_bytes, UINT64_MAX);
	atomic_store(&allowance->hard_bytes, UINT64_MAX);
}

/* Filled, and claimed to be filled. */
static uint64_t allowance_used(const struct demand *demand)
{
	uint64_t n = count_get(&demand->counters.filled_bytes);

	for (unsigned int i = 0; demand->slots.n_free < N_SLOTS && i < N_SLOTS; i++) {
		const struct slot *slot = &demand->slots.slots[i];

		if (slot->state != SLOT_FREE)
			n += slot->pages.count * slot->memory->page_bytes;
	}
	return n;
}

static void allowance_ask(struct demand *demand)
{
	uint64_t one = 1;

	if (atomic_exchange_explicit(&demand->allowance.is_wanted, true, memory_order_relaxed))
		return;
	if (demand->config.chore_fd >= 0)
		(void)!write(demand->config.chore_fd, &one, sizeof(one));
}

static void allowance_hold(struct demand *demand, uint64_t left_bytes)
{
	if (atomic_exchange_explicit(&demand->allowance.is_held, true, memory_order_relaxed))
		return;
	count_add(&demand->counters.held, 1);
	atomic_store_explicit(&demand->board->held_since_us, demand->now_ns / NSEC_PER_USEC,
			      memory_order_relaxed);
	demand_note(demand, FLIGHT_HELD, NULL, 0, (int64_t)(left_bytes / MIB));
	demand_tell(demand, UFD_EVENT_HELD, NULL, 0, (int64_t)(left_bytes / MIB));
}

uint64_t allowance_pages(struct demand *demand, const struct memory *memory, enum slot_cause cause,
			 uint64_t n_pages)
{
	struct allowance *allowance = &demand->allowance;
	uint64_t soft = atomic_load_explicit(&allowance->soft_bytes, memory_order_relaxed);
	uint64_t hard = atomic_load_explicit(&allowance->hard_bytes, memory_order_relaxed);
	uint64_t used, limit, n;

	if ((soft == UINT64_MAX && hard == UINT64_MAX) || memory->is_huge)
		return n_pages;

	used = allowance_used(demand);
	limit = cause == CAUSE_DEMAND ? hard : soft;
	n = limit > used ? (limit - used) / memory->page_bytes : 0;
	if (soft <= used) {
		/* in the margin: the demanded page, and not its neighbours */
		n = min_u64(n, 1);
		if (atomic_load_explicit(&allowance->is_short, memory_order_relaxed))
			allowance_hold(demand, hard > used ? hard - used : 0);
		else
			allowance_ask(demand);
	}
	return min_u64(n, n_pages);
}

void allowance_run(struct demand *demand)
{
	struct allowance *allowance = &demand->allowance;

	if (!atomic_load_explicit(&allowance->is_held, memory_order_relaxed) ||
	    atomic_load_explicit(&allowance->is_short, memory_order_relaxed))
		return;
	atomic_store_explicit(&allowance->is_held, false, memory_order_relaxed);
	atomic_store_explicit(&demand->board->held_since_us, 0, memory_order_relaxed);
	stall_retry_all(demand);
	demand_tell(demand, UFD_EVENT_RELEASED, NULL, 0, 0);
}

/* ---- for the bulk thread ---- */

void demand_allow(struct demand *demand, const struct allowance_look *look)
{
	struct allowance *allowance = &demand->allowance;
	uint64_t soft = UINT64_MAX, hard = UINT64_MAX, one = 1;
	bool is_awaited;

	if (look->soft_bytes != UINT64_MAX)
		soft = look->filled_bytes + look->soft_bytes;
	if (look->hard_bytes != UINT64_MAX)
		hard = look->filled_bytes + look->hard_bytes;
	atomic_store_explicit(&allowance->soft_bytes, soft, memory_order_relaxed);
	atomic_store_explicit(&allowance->hard_bytes, hard, memory_order_relaxed);
	atomic_store_explicit(&allowance->is_short, look->is_short, memory_order_relaxed);
	is_awaited = atomic_exchange(&allowance->is_wanted, false) ||
		     (!look->is_short && atomic_load(&allowance->is_held));
	if (is_awaited)
		(void)!write(demand->command_fd, &one, sizeof(one));
}

bool demand_wants_look(const struct demand *demand)
{
	return atomic_load_explicit(&demand->allowance.is_wanted, memory_order_relaxed);
}

bool demand_is_held(const struct demand *demand)
{
	return atomic_load_explicit(&demand->allowance.is_held, memory_order_relaxed);
}
