/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Background fill. */
#include "fault/background.h"

#include "fault/engine.h"
#include "fault/fill.h"

bool background_prefetch(struct demand *demand, struct memory *memory, struct page_range pages)
{
	struct background *background = &demand->background;
	unsigned int i;

	if (background->n_prefetch == N_PREFETCH)
		return false;
	i = (background->first_prefetch + background->n_prefetch++) % N_PREFETCH;
	background->prefetch[i].memory = memory;
	background->prefetch[i].pages = pages;
	return true;
}

void background_restart(struct demand *demand)
{
	demand->background.memory = 0;
	demand->background.page = 0;
	demand->background.resume_at_ns = 0;
}

void background_forget(struct background *background, const struct memory *memory)
{
	unsigned int n = background->n_prefetch;

	/* what stays is queued again, in its order */
	background->n_prefetch = 0;
	for (unsigned int i = 0; i < n; i++) {
		unsigned int from = (background->first_prefetch + i) % N_PREFETCH;
		unsigned int to = (background->first_prefetch + background->n_prefetch) %
				  N_PREFETCH;

		if (background->prefetch[from].memory == memory)
			continue;
		background->prefetch[to] = background->prefetch[from];
		background->n_prefetch++;
	}
}

static uint64_t background_piece_bytes(const struct demand *demand)
{
	return demand->now_ns - demand->fault_ns < BACKGROUND_QUIET_NS ? BACKGROUND_BUSY_BYTES
								       : BACKGROUND_QUIET_BYTES;
}

/* Nanoseconds until the bucket holds something; 0: it does. */
static uint64_t background_wait_ns(struct demand *demand)
{
	struct background *background = &demand->background;
	uint64_t rate = demand->config.background_rate;
	uint64_t passed_ns = demand->now_ns - background->refilled_at_ns;

	if (!rate || background->is_forced)
		return 0;
	/* At most 50 ms worth is saved up. */
	if (passed_ns > 50 * NSEC_PER_MSEC)
		passed_ns = 50 * NSEC_PER_MSEC;
	background->tokens_bytes += (int64_t)((__uint128_t)rate * passed_ns / NSEC_PER_SEC);
	if (background->tokens_bytes > (int64_t)(rate / 20 + BACKGROUND_QUIET_BYTES))
		background->tokens_bytes = (int64_t)(rate / 20 + BACKGROUND_QUIET_BYTES);
	background->refilled_at_ns = demand->now_ns;
	if (background->tokens_bytes > 0)
		return 0;
	return (uint64_t)((__uint128_t)(uint64_t)(1 - background->tokens_bytes) * NSEC_PER_SEC /
			  rate) +
	       1;
}

/*
 * One piece at the first absent page of @pages; *@pages moves on past it.
 * Return: false when no slot is free.
 */
static bool background_fill(struct demand *demand, struct memory *memory, struct page_range *pages)
{
	struct page_range run;
	uint64_t n_piece, n_holes;

	if (!page_states_find(&memory->states, *pages, PAGE_ABSENT, &run)) {
		pages->first += pages->count;
		pages->count = 0;
		return true;
	}
	n_piece = max_u64(background_piece_bytes(demand) / memory->page_bytes, 1);
	if (run.count > n_piece) {
		uint64_t n_zero = 0;

		/* A hole costs nothing however long it is, unless it has to be protected. */
		if (fill_is_zero(demand, memory,
				 (struct page_range){ run.first,
						      min_u64(run.count, BACKGROUND_ZERO_PAGES) },
				 &n_zero))
			n_piece = memory_is_tracked(memory) ? min_u64(n_zero, TRACKED_HOLE_PAGES)
							    : n_zero;
		run.count = min_u64(run.count, n_piece);
	}
	n_holes = count_get(&demand->counters.pages_zero);
	if (!fill_begin(demand, memory, run, CAUSE_BACKGROUND))
		return false;
	if (count_get(&demand->counters.pages_zero) == n_holes)
		demand->background.tokens_bytes -= (int64_t)(run.count * memory->page_bytes);
	pages->count -= run.first + run.count - pages->first;
	pages->first = run.first + run.count;
	return true;
}

static bool background_prefetch_piece(struct demand *demand)
{
	struct background *background = &demand->background;
	unsigned int i = background->first_prefetch;

	if (!background_fill(demand, background->prefetch[i].memory,
			     &background->prefetch[i].pages))
		return false;
	if (!background->prefetch[i].pages.count) {
		background->first_prefetch = (i + 1) % N_PREFETCH;
		background->n_prefetch--;
	}
	return true;
}

/* The memory of the linear pass that has absent pages; NULL at the end of the pass. */
static struct memory *background_memory(struct demand *demand)
{
	struct background *background = &demand->background;

	for (; background->memory < demand->n_memories; background->memory++) {
		struct memory *memory = demand->guest->memories[background->memory];

		if (background->page < memory_n_pages(memory) && count_get(&memory->n_absent) &&
		    memory->page_bytes <= demand->slots.buffer_bytes &&
		    guest_view_has_memory(demand->view, memory))
			return memory;
		background->page = 0;
	}
	return NULL;
}

bool background_piece(struct demand *demand, uint64_t *ret_sleep_ns)
{
	struct background *background = &demand->background;
	struct memory *memory;
	struct page_range left;
	uint64_t wait_ns;

	*ret_sleep_ns = UINT64_MAX;
	wait_ns = background_wait_ns(demand);
	if (wait_ns) {
		*ret_sleep_ns = wait_ns;
		return false;
	}
	if (background->n_prefetch)
		return background_prefetch_piece(demand);
	if (!demand->config.is_background && !background->is_forced)
		return false;
	if (demand->now_ns < background->resume_at_ns) {
		*ret_sleep_ns = background->resume_at_ns - demand->now_ns;
		return false;
	}

	memory = background_memory(demand);
	if (!memory) {
		if (demand_is_complete(demand))
			return false;
		/* What this pass left is in slots, stalled or unmapped: look again in a while. */
		background_restart(demand);
		background->resume_at_ns = demand->now_ns + BACKGROUND_PAUSE_NS;
		*ret_sleep_ns = BACKGROUND_PAUSE_NS;
		return false;
	}
	left = (struct page_range){ background->page, memory_n_pages(memory) - background->page };
	if (!background_fill(demand, memory, &left))
		return false;
	background->page = left.first;
	return true;
}
