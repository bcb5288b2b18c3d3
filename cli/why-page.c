/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The pages that somebody waits for, and what is done about each. */
#include <stdatomic.h>
#include <string.h>

#include "why.h"

#define CAUSE_IS_DEMAND 0

static uint64_t relaxed(const _Atomic uint64_t *word)
{
	return atomic_load_explicit(word, memory_order_relaxed);
}

struct why_page *why_page_get(struct why *why, uint32_t memory, uint64_t page)
{
	struct why_page *entry;

	for (size_t i = 0; i < why->n_pages; i++)
		if (why->pages[i].memory == memory && why->pages[i].page == page)
			return &why->pages[i];
	if (why->n_pages == WHY_MAX_PAGES || memory >= MAX_MEMORIES ||
	    page >= why->view->memories[memory].n_pages)
		return NULL;
	entry = &why->pages[why->n_pages++];
	*entry = (struct why_page){
		.memory = memory,
		.page = page,
		.state = ledger_view_state(why->view, memory, page),
		.is_poisoned = ledger_view_is_poisoned(why->view, memory, page),
	};
	if (entry->state == PAGE_PRESENT)
		entry->doing = PAGE_DONE;
	else if (why->view->board->held_since_us)
		entry->doing = PAGE_HELD;
	return entry;
}

/* ---- the board ------------------------------------------------------------------------------- */

static void take_stall(struct why *why, const struct board_stall *stall)
{
	uint64_t since_us = relaxed(&stall->since_us);
	struct why_page *page;

	if (!since_us)
		return;
	page = why_page_get(why, stall->memory, relaxed(&stall->page));
	if (!page || page->state == PAGE_PRESENT)
		return;
	page->doing = PAGE_STALLED;
	page->since_us = since_us;
	page->retry_at_us = relaxed(&stall->retry_at_us);
	page->error = stall->error;
}

static enum page_doing doing_of(uint8_t state)
{
	switch (state) {
	case BOARD_READING:
		return PAGE_READING;
	case BOARD_WAITING:
		return PAGE_TO_RETRY;
	case BOARD_VERDICT:
		return PAGE_ASKING;
	default:
		return PAGE_PUTTING;
	}
}

/* @is_wanted: somebody waits for this page; else only fills for faults count. */
static void take_fill(struct why *why, const struct board_fill *fill, struct why_page *page)
{
	uint8_t state = atomic_load_explicit(&fill->state, memory_order_acquire);

	if (state == BOARD_FREE || page->state == PAGE_PRESENT || page->doing == PAGE_STALLED)
		return;
	if (page->doing != PAGE_HELD)
		page->doing = doing_of(state);
	page->since_us = relaxed(&fill->since_us);
	page->read_us = state == BOARD_READING ? relaxed(&fill->read_us) : 0;
	page->retry_at_us = relaxed(&fill->retry_at_us);
	page->n_tries = fill->n_tries;
	page->error = fill->error;
}

/* The fill that a page is part of. */
static const struct board_fill *fill_of(const struct board *board, uint32_t memory, uint64_t page)
{
	for (unsigned int i = 0; i < BOARD_N_FILLS; i++) {
		const struct board_fill *fill = &board->fills[i];

		if (fill->state != BOARD_FREE && fill->memory == memory &&
		    page - relaxed(&fill->page) < fill->n_pages)
			return fill;
	}
	return NULL;
}

/* ---- faults that were read and are not resolved ---------------------------------------------- */

/* What was read from the userfaultfd by the last read() and not looked at. */
static void take_messages(struct why *why)
{
	const struct ledger_messages *messages = why->view->messages;

	if (!atomic_load(&messages->is_reading))
		return;
	for (unsigned int i = 0; i < LEDGER_N_MESSAGES; i++) {
		const struct uffd_msg *message = &messages->messages[i];
		uint64_t page;
		uint32_t memory;

		if (message->event == UFFD_EVENT_PAGEFAULT &&
		    ledger_view_find(why->view, messages->mapper, message->arg.pagefault.address,
				     &memory, &page))
			(void)why_page_get(why, memory, page);
	}
}

/*
 * Faults of the flight recorder whose page is not there yet: what the demand thread parked, or had
 * no slot for.
 */
static void take_faults(struct why *why)
{
	struct flight_event event;
	struct flight_cursor cursor = {};

	while (flight_next(why->view->flight, &cursor, &event)) {
		struct why_page *page;
		enum page_state state;

		if (event.kind != FLIGHT_FAULT)
			continue;
		state = ledger_view_state(why->view, event.memory, event.page);
		if (state != PAGE_ABSENT && state != PAGE_FILLING)
			continue;
		page = why_page_get(why, event.memory, event.page);
		if (page && !page->since_us)
			page->since_us = event.time_us;
	}
}

void why_find_pages(struct why *why)
{
	const struct board *board;

	if (!why->view)
		return;
	board = why->view->board;
	for (unsigned int i = 0; i < BOARD_N_STALLS; i++)
		take_stall(why, &board->stalls[i]);
	for (unsigned int i = 0; i < BOARD_N_FILLS; i++)
		if (board->fills[i].state != BOARD_FREE && board->fills[i].cause == CAUSE_IS_DEMAND)
			(void)why_page_get(why, board->fills[i].memory,
					   relaxed(&board->fills[i].page));
	take_messages(why);
	take_faults(why);
	for (size_t i = 0; i < why->n_pages; i++) {
		const struct board_fill *fill = fill_of(board, why->pages[i].memory,
							why->pages[i].page);

		if (fill)
			take_fill(why, fill, &why->pages[i]);
	}
}

const char *why_doing_name(enum page_doing doing)
{
	switch (doing) {
	case PAGE_QUEUED:
		return "queued";
	case PAGE_READING:
		return "reading";
	case PAGE_TO_RETRY:
		return "retrying";
	case PAGE_PUTTING:
		return "filling";
	case PAGE_ASKING:
		return "verdict";
	case PAGE_STALLED:
		return "stalled";
	case PAGE_HELD:
		return "held";
	case PAGE_DONE:
		return "done";
	}
	return "unknown";
}
