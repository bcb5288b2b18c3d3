/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The limits of the control groups that guests are charged to. The bulk thread looks, since the
 * limits are files; the demand thread is told how far it may fill (fault/allowance.h).
 *
 * The nearer a limit, the sooner the next look; what several guests of ours have in common is
 * divided. Whoever else fills a group is not foreseen: that is what the margins are for.
 */
#include <unistd.h>

#include "base/clock.h"
#include "fault/allowance.h"
#include "kernel/memcg.h"
#include "pager/paged.h"

#define SOFT_MARGIN_MIN	  (4 * MIB)
#define SOFT_MARGIN_MAX	  (256 * MIB)
#define HARD_MARGIN_MIN	  (2 * MIB)
#define HARD_MARGIN_MAX	  (32 * MIB)
#define SHORT_BYTES	  (256 * KIB) /* one piece of background fill */
#define LOOK_MIN_NS	  (10 * NSEC_PER_MSEC)
#define LOOK_SHORT_NS	  (20 * NSEC_PER_MSEC)
#define LOOK_MAX_NS	  NSEC_PER_SEC
#define FILL_BYTES_PER_NS 8 /* nobody fills faster */

static uint64_t clamp(uint64_t value, uint64_t least, uint64_t most)
{
	return value < least ? least : min_u64(value, most);
}

static uint64_t less(uint64_t bytes, uint64_t margin)
{
	return bytes > margin ? bytes - margin : 0;
}

static bool is_filling(const struct ufd_pager_guest *paged)
{
	for (uint32_t i = 0; i < paged->guest->n_memories; i++)
		if (count_get(&paged->guest->memories[i]->n_absent))
			return true;
	return false;
}

/* The narrowest of its processes. */
static struct memcg_room room_of(const struct ufd_pager_guest *paged)
{
	struct memcg_room room = { UINT64_MAX, UINT64_MAX, UINT64_MAX, 0 }, one;

	for (uint32_t i = 0; i < paged->guest->n_mappers; i++) {
		const struct mapper *mapper = &paged->guest->mappers[i];
		uint64_t hard_bytes;

		if (memcg_room_of_process(&paged->pager->groups, mapper->pid, &one) < 0)
			continue;
		hard_bytes = min_u64(room.hard_bytes, one.hard_bytes);
		if (one.easy_bytes < room.easy_bytes)
			room = one;
		room.hard_bytes = hard_bytes;
	}
	return room;
}

/* Guests of ours that fill the same group, this one included. */
static uint64_t n_sharing(const struct ufd_pager_guest *paged)
{
	uint64_t n = 0;

	pthread_mutex_lock(&paged->pager->lock);
	for (const struct ufd_pager_guest *at = paged->pager->guests; at; at = at->next)
		n += at->limit_group == paged->limit_group;
	pthread_mutex_unlock(&paged->pager->lock);
	return n ? n : 1;
}

static uint64_t look(struct ufd_pager_guest *paged, struct demand *demand)
{
	struct allowance_look found = { .soft_bytes = UINT64_MAX, .hard_bytes = UINT64_MAX };
	struct memcg_room room;
	uint64_t soft_margin, n;

	found.filled_bytes = count_get(&demand_counters(demand)->filled_bytes);
	room = room_of(paged);
	paged->limit_group = room.group;
	if (room.easy_bytes == UINT64_MAX) {
		demand_allow(demand, &found);
		return LOOK_MAX_NS;
	}
	n = n_sharing(paged);
	soft_margin = clamp(room.limit_bytes / 16, SOFT_MARGIN_MIN, SOFT_MARGIN_MAX);
	/* who was held waits for some more, or it would be told of every page that comes free */
	if (demand_is_held(demand))
		soft_margin += soft_margin / 2;
	found.soft_bytes = less(room.easy_bytes, soft_margin) / n;
	if (room.hard_bytes != UINT64_MAX)
		found.hard_bytes = less(room.hard_bytes, clamp(room.limit_bytes / 64,
							       HARD_MARGIN_MIN, HARD_MARGIN_MAX)) /
				   n;
	found.is_short = found.soft_bytes < SHORT_BYTES;
	demand_allow(demand, &found);
	return found.is_short
		       ? LOOK_SHORT_NS
		       : clamp(found.soft_bytes / FILL_BYTES_PER_NS, LOOK_MIN_NS, LOOK_MAX_NS);
}

void limits_begin(struct ufd_pager_guest *paged, struct demand *demand)
{
	uint64_t one = 1;

	paged->look_at_ns = clock_now_ns() + look(paged, demand);
	/* the bulk thread may mean to sleep for longer */
	(void)!write(paged->pager->chore_fd, &one, sizeof(one));
}

void limits_look(struct ufd_pager_guest *paged)
{
	struct demand *demand = paged_demand(paged);
	uint64_t now_ns = clock_now_ns();

	if (!demand || (now_ns < paged->look_at_ns && !demand_wants_look(demand)))
		return;
	/* it is being hot-plugged: what it was allowed before stands */
	if (pthread_mutex_trylock(&paged->model_lock) != 0) {
		paged->look_at_ns = now_ns + LOOK_SHORT_NS;
		return;
	}
	if (is_filling(paged) || demand_is_held(demand)) {
		paged->look_at_ns = now_ns + look(paged, demand);
	} else {
		paged->limit_group = 0;
		paged->look_at_ns = now_ns + LOOK_MAX_NS;
	}
	pthread_mutex_unlock(&paged->model_lock);
}
