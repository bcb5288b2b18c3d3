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

#define FIRST_BITS 40
#define COUNT_BITS 16

static_assert(MAX_MEMORIES <= 256, "a memory's id has 8 bits");

/* A note, unpacked. */
struct put {
	uint32_t memory;
	struct page_range pages;
};

static _Atomic uint64_t *puts_of(const struct demand *demand)
{
	return ledger_messages(demand->guest->ledger)->puts;
}

static struct put put_get(const struct demand *demand, unsigned int index)
{
	uint64_t word = atomic_load_explicit(&puts_of(demand)[index], memory_order_acquire);

	return (struct put){
		.memory = (uint32_t)(word >> (FIRST_BITS + COUNT_BITS)),
		.pages = { word & ((UINT64_C(1) << FIRST_BITS) - 1),
			   word >> FIRST_BITS & ((UINT64_C(1) << COUNT_BITS) - 1) },
	};
}

void put_note(struct demand *demand, const struct slot *slot, struct page_range pages)
{
	uint64_t word = (uint64_t)slot->memory->id << (FIRST_BITS + COUNT_BITS) |
			pages.count << FIRST_BITS | pages.first;

	/* release: what the page states tell of the note before is there before */
	atomic_store_explicit(&puts_of(demand)[slot - demand->slots.slots], word,
			      memory_order_release);
}

void put_clear(struct demand *demand, const struct slot *slot)
{
	atomic_store_explicit(&puts_of(demand)[slot - demand->slots.slots], 0,
			      memory_order_release);
}

/*
 * The ledger is foreign input: a note that cannot be one of ours is none. Nor is there doubt about a
 * memory whose bytes are in its file: whatever the file holds is right.
 */
static bool put_is_sound(const struct demand *demand, struct put put)
{
	const struct memory *memory;

	if (put.memory >= demand->n_memories)
		return false;
	memory = demand->guest->memories[put.memory];
	return !memory->is_backing_source && put.pages.first < memory_n_pages(memory) &&
	       put.pages.count <= memory_n_pages(memory) - put.pages.first &&
	       put.pages.count <= demand->slots.buffer_bytes / memory->page_bytes;
}

bool put_is_in_doubt(const struct demand *demand, const struct memory *memory, uint64_t page)
{
	for (unsigned int i = 0; i < LEDGER_N_PUTS; i++) {
		struct put put = put_get(demand, i);

		if (put.memory == memory->id && page - put.pages.first < put.pages.count)
			return true;
	}
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
	struct put put = put_get(demand, index);
	struct memory *memory;
	struct page_range run;
	struct slot *slot;

	if (!put.pages.count)
		return;
	memory = demand->guest->memories[put.memory];
	if (!page_states_find(&memory->states, put.pages, PAGE_FILLING, &run)) {
		puts_of(demand)[index] = 0;
		return;
	}
	slot = slot_take_index(&demand->slots, index);
	slot->memory = memory;
	/* what was lost before the crash is another's by now: pages go in order */
	slot->pages.first = run.first;
	slot->pages.count = put.pages.first + put.pages.count - run.first;
	put_note(demand, slot, slot->pages);
	slot->started_ns = demand->now_ns;
	slot->is_recovered = true;
	board_fill(demand, slot, BOARD_FILLING, 0);
	fill_read(demand, slot);
}

void put_recover(struct demand *demand)
{
	for (unsigned int i = 0; i < LEDGER_N_PUTS; i++)
		if (!put_is_sound(demand, put_get(demand, i)))
			puts_of(demand)[i] = 0;
	for (uint32_t i = 0; i < demand->n_memories; i++)
		put_give_back_all(demand, demand->guest->memories[i]);
	for (unsigned int i = 0; i < LEDGER_N_PUTS; i++)
		put_resume(demand, i);
}
