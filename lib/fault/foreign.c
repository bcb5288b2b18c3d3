/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Foreign touches: a page appeared in the file before we filled it. Somebody wrote or read the hole
 * through a descriptor or a mapping that is not registered with us.
 *
 * Mapping it would show the guest those bytes in place of its own. If nobody else maps the memory,
 * the source's bytes are written over it: no guest can have mapped it, since the registration for
 * minor faults makes our CONTINUE the only way in. Otherwise the page stalls, and says why.
 *
 * Order: the bytes, present in the ledger, CONTINUE. A successor that finds the page still filling,
 * and no put of it in the ledger, knows that it is foreign and writes the bytes again.
 */
#include <errno.h>

#include "fault/fill.h"
#include "kernel/backing.h"

void foreign_touch(struct demand *demand, struct slot *slot, uint64_t page)
{
	count_add(&demand->counters.foreign_touches, 1);
	slot->pages.count -= page - slot->pages.first;
	slot->pages.first = page;
	slot->state = SLOT_VERDICT;
	board_fill(demand, slot, BOARD_VERDICT, EEXIST);
	demand_note(demand, FLIGHT_FOREIGN, slot->memory, page, 0);
	/* one verdict answers for all touches that it finds */
	if (!demand->is_verdict_asked[slot->memory->id])
		demand_ask(demand, CHORE_FOREIGN, slot->memory, page);
	demand->is_verdict_asked[slot->memory->id] = true;
}

/* Return: 0 or -errno of the write. */
static int foreign_restore(struct demand *demand, struct slot *slot)
{
	struct memory *memory = slot->memory;
	uint64_t page = slot->pages.first;
	const unsigned char *bytes = slot->is_zero ? demand->zeros : slot->buffer;
	struct mapping *mapping;
	int r;

	if (!slot->is_zero)
		bytes += (page - slot->bytes_first) * memory->page_bytes;
	r = backing_write(memory->backing, memory->backing_offset + page * memory->page_bytes,
			  bytes, memory->page_bytes);
	if (r < 0)
		return r;
	/* the file's time has moved by it */
	atomic_fetch_add_explicit(&memory->n_marked, 1, memory_order_release);
	if (page_states_move(&memory->states, page, PAGE_FILLING, PAGE_PRESENT))
		demand_settled(demand, memory, 1);
	demand_note(demand, FLIGHT_FILLED, memory, page, 1);
	stall_forget(demand, memory, (struct page_range){ page, 1 });
	for (uint32_t i = 0; i < demand->view->n_mappings; i++) {
		mapping = demand->view->mappings[i];
		if (mapping->memory == memory && mapping_shows(mapping, page) &&
		    !mapping->mapper->is_gone)
			fill_map(demand, mapping, (struct page_range){ page, 1 });
	}
	demand_tell(demand, UFD_EVENT_FOREIGN_TOUCH, memory, page, 1);
	return 0;
}

/* Leave the page to policy; the rest of the slot goes on. */
static void foreign_refuse(struct demand *demand, struct slot *slot, int error)
{
	struct memory *memory = slot->memory;
	uint64_t page = slot->pages.first;

	demand_tell(demand, UFD_EVENT_FOREIGN_TOUCH, memory, page, 0);
	(void)page_states_move(&memory->states, page, PAGE_FILLING, PAGE_ABSENT);
	slot->pages.first++;
	slot->pages.count--;
	stall_add(demand, memory, page, error);
}

void foreign_verdict(struct demand *demand, struct memory *memory, bool is_alone)
{
	demand->is_verdict_asked[memory->id] = false;
	for (unsigned int i = 0; i < N_SLOTS; i++) {
		struct slot *slot = &demand->slots.slots[i];
		int r = -EBUSY;

		if (slot->state != SLOT_VERDICT || slot->memory != memory)
			continue;
		slot->state = SLOT_READING;
		if (page_states_get(&memory->states, slot->pages.first) == PAGE_FILLING) {
			if (is_alone)
				r = foreign_restore(demand, slot);
			if (r < 0)
				foreign_refuse(demand, slot, -r);
		}
		fill_put(demand, slot);
	}
}
