/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the demand thread tells: notices to the guest's owner, chores to the bulk thread, and the two
 * facts they are about: what is settled, and who is gone.
 */
#include <assert.h>
#include <unistd.h>

#include "fault/engine.h"

static bool notice_queue(struct demand *demand, const struct notice *notice)
{
	uint64_t one = 1;

	if (!ring_add(&demand->notices, notice))
		return false;
	if (demand->config.event_fd >= 0)
		(void)!write(demand->config.event_fd, &one, sizeof(one));
	return true;
}

void demand_tell(struct demand *demand, uint32_t kind, struct memory *memory, uint64_t page,
		 int64_t value)
{
	struct notice notice = { .kind = kind,
				 .time_ns = demand->now_ns,
				 .memory = memory,
				 .offset_bytes = memory ? page * memory->page_bytes : 0,
				 .value = value };

	if (demand->n_lost || !notice_queue(demand, &notice))
		demand->n_lost++;
}

void demand_tell_lost(struct demand *demand)
{
	struct notice notice = { .kind = UFD_EVENT_LOST,
				 .time_ns = demand->now_ns,
				 .value = (int64_t)demand->n_lost };

	if (!demand->n_lost || !notice_queue(demand, &notice))
		return;
	demand->n_lost = 0;
	if (demand->stalls.was_any && !demand->stalls.n)
		demand_tell(demand, UFD_EVENT_RECOVERED, NULL, 0, 0);
	if (demand->is_complete_told)
		demand_tell(demand, UFD_EVENT_COMPLETED, NULL, 0, 0);
	if (demand->has_ended)
		demand_tell(demand, UFD_EVENT_ENDED, NULL, 0, 0);
}

void demand_ask(struct demand *demand, enum chore_kind kind, struct memory *memory, uint64_t page)
{
	struct chore chore = { .kind = kind, .memory = memory, .page = page };
	uint64_t one = 1;

	/* Room for all: questions about a memory are asked one at a time. */
	(void)ring_add(&demand->chores, &chore);
	if (demand->config.chore_fd >= 0)
		(void)!write(demand->config.chore_fd, &one, sizeof(one));
}

void demand_settled(struct demand *demand, struct memory *memory, uint64_t n_pages)
{
	if (!n_pages)
		return;
	assert(count_get(&memory->n_absent) >= n_pages);
	count_sub(&memory->n_absent, n_pages);
}

bool demand_is_complete(const struct demand *demand)
{
	for (uint32_t i = 0; i < demand->n_memories; i++) {
		const struct memory *memory = demand->guest->memories[i];

		/* what nobody maps, or only the dead, is never filled */
		if (count_get(&memory->n_absent) && guest_view_has_memory(demand->view, memory))
			return false;
	}
	return demand->n_memories > 0 && !demand->has_ended;
}

void demand_mapper_gone(struct demand *demand, struct mapper *mapper)
{
	bool any = false;

	if (mapper->is_gone)
		return;
	mapper->is_gone = true;
	demand_note(demand, FLIGHT_MAPPER_GONE, NULL, 0, mapper->pid);
	demand_tell(demand, UFD_EVENT_MAPPER_ENDED, NULL, 0, mapper->pid);
	for (uint32_t i = 0; i < demand->n_mappers; i++)
		any |= !demand->guest->mappers[i].is_gone;
	if (any || demand->has_ended)
		return;
	demand->has_ended = true;
	demand_tell(demand, UFD_EVENT_ENDED, NULL, 0, 0);
}
