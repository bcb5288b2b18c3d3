/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Puts: what a successor must know of a fill that was under way.
 *
 * A page that is filling in the ledger of a process that died was put in by it, and perhaps written
 * by the guest since, or not. EEXIST cannot tell, since others may have made a page in the file
 * (fault/foreign.c); overwriting the one or showing the other would be a wrong page. So each slot
 * notes in the ledger what it puts in, just before the ioctl, and clears the note when the outcome
 * is in the page states. What is filling and noted is in doubt: it counts as ours if it exists. What
 * is filling and not noted only waited for its bytes: absent again.
 *
 * A slot that takes over a note keeps it until its pages are settled, however often we die.
 */
#include <assert.h>

#include "fault/engine.h"
#include "fault/fill.h"

static_assert(LEDGER_N_PUTS == N_SLOTS, "every slot notes its put");

static struct ledger_put *puts_of(const struct demand *demand)
{
	return ledger_messages(demand->guest->ledger)->puts;
}

void put_note(struct demand *demand, const struct slot *slot, struct page_range pages)
{
	struct ledger_put *put = &puts_of(demand)[slot - demand->slots.slots];

	put->memory = slot->memory->id;
	put->first = pages.first;
	/* a kill after any store finds no note, or all of it */
	atomic_store_explicit(&put->n_pages, (uint32_t)pages.count, memory_order_release);
}

void put_clear(struct demand *demand, const struct slot *slot)
{
	/* release: the page states that tell the outcome are there before */
	atomic_store_explicit(&puts_of(demand)[slot - demand->slots.slots].n_pages, 0,
			      memory_order_release);
}

/* The ledger is foreign input: a note that cannot be one of ours is none. */
static bool put_is_sound(const struct demand *demand, const struct ledger_put *put)
{
	const struct memory *memory;

	if (put->memory >= demand->n_memories)
		return false;
	memory = demand->guest->memories[put->memory];
	return memory && put->first < memory_n_pages(memory) &&
	       put->n_pages <= memory_n_pages(memory) - put->first &&
	       put->n_pages <= demand->slots.buffer_bytes / memory->page_bytes;
}

static bool put_is_in_doubt(const struct demand *demand, const struct memory *memory, uint64_t page)
{
	const struct ledger_put *puts = puts_of(demand);

	for (unsigned int i = 0; i < LEDGER_N_PUTS; i++)
		if (puts[i].memory == memory->id && page - puts[i].first < puts[i].n_pages)
			return true;
	return false;
}

/* Claims that only waited for their bytes. */
static void put_give_back(struct demand *demand, struct memory *memory, struct page_range left)
{
	struct page_range run;

	while (page_states_find(&memory->states, left, PAGE_FILLING, &run)) {
		for (uint64_t page = run.first; page < run.first + run.count; page++)
			if (!put_is_in_doubt(demand, memory, page))
				(void)page_states_move(&memory->states, page, PAGE_FILLING,
						       PAGE_ABSENT);
		left.count -= run.first + run.count - left.first;
		left.first = run.first + run.count;
	}
}

/* In those parts of the states that were ever written: a new terabyte costs nothing. */
static void put_give_back_all(struct demand *demand, struct memory *memory)
{
	const struct ledger *ledger = demand->guest->ledger;
	uint64_t pages_per_byte = PAGES_PER_WORD / sizeof(uint64_t);
	uint64_t at = memory->states_offset, length;
	uint64_t end = at + page_states_bytes(memory_n_pages(memory));

	for (; ledger_next_data(ledger, at, end, &at, &length); at += length) {
		uint64_t first = (at - memory->states_offset) * pages_per_byte;

		put_give_back(
			demand, memory,
			(struct page_range){ first, min_u64(length * pages_per_byte,
							    memory_n_pages(memory) - first) });
	}
}

/* The slot of the same number goes on with it. */
static void put_resume(struct demand *demand, unsigned int index)
{
	struct ledger_put *put = &puts_of(demand)[index];
	struct page_range pages = { put->first, put->n_pages }, run;
	struct memory *memory;
	struct slot *slot;

	if (!pages.count)
		return;
	memory = demand->guest->memories[put->memory];
	if (!page_states_find(&memory->states, pages, PAGE_FILLING, &run)) {
		put->n_pages = 0;
		return;
	}
	slot = slot_take_index(&demand->slots, index);
	slot->memory = memory;
	slot->pages = pages;
	slot->started_ns = demand->now_ns;
	slot->is_recovered = true;
	fill_read(demand, slot);
}

void put_recover(struct demand *demand)
{
	struct ledger_put *puts = puts_of(demand);

	for (unsigned int i = 0; i < LEDGER_N_PUTS; i++)
		if (puts[i].n_pages && !put_is_sound(demand, &puts[i]))
			puts[i].n_pages = 0;
	for (uint32_t i = 0; i < demand->n_memories; i++)
		if (demand->guest->memories[i])
			put_give_back_all(demand, demand->guest->memories[i]);
	for (unsigned int i = 0; i < LEDGER_N_PUTS; i++)
		put_resume(demand, i);
}
