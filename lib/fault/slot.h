/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Slots: a fill from the claim of its pages to their presence. Each has a buffer; the number is
 * fixed, and some are kept free of background work so that a demanded page always finds one.
 *
 *	state	| waits for				| leaves by
 *	--------+---------------------------------------+-----------------------------------
 *	free	| -					| slot_take()
 *	reading	| the source				| its completion -> fill or failure
 *	waiting	| a moment: retry_at_ns			| the time has come -> read or fill again
 *	verdict	| whether a foreign page may be restored| COMMAND_VERDICT
 *
 * The pages of a slot that are still filling are its own; those that were removed or written
 * meanwhile have left it. So a slot may be finished at any time by looking at the states.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/units.h"
#include "source/source.h"

#define N_SLOTS		   32
#define N_SLOTS_BACKGROUND 8 /* the most that background work may hold */
#define SLOT_BYTES \
	(2 * MIB) /* of its buffer, in address space; a whole page where pages are larger */

struct memory;

enum slot_state { SLOT_FREE, SLOT_READING, SLOT_WAITING, SLOT_VERDICT };

/* Who wants the pages; also what they are counted as. */
enum slot_cause { CAUSE_DEMAND, CAUSE_WINDOW, CAUSE_BACKGROUND };

struct slot {
	struct source_request request; /* first: completions carry its address */
	enum slot_state state;
	enum slot_cause cause;
	bool is_recovered; /* a former process died putting these in: what exists there is ours */
	bool has_bytes;	   /* the buffer holds them: fill, do not read again */
	bool is_zero;	   /* they are all zero; the buffer does not matter */
	struct memory *memory;
	struct page_range pages;
	uint64_t bytes_first; /* the page whose bytes begin the buffer */
	uint64_t started_ns;  /* the fault was read; for the histogram */
	uint64_t retry_at_ns;
	unsigned int n_tries;
	void *buffer;
	void *spare;		  /* of the request */
	int answer;		  /* of a source that completes elsewhere */
	_Atomic bool is_answered; /* release by the completing thread */
};

struct slots {
	struct slot slots[N_SLOTS];
	uint8_t free[N_SLOTS]; /* a stack: the warmest buffer on top */
	unsigned int n_free;
	unsigned int n_background;
	unsigned int n_waiting;
	uint64_t buffer_bytes; /* each */
	bool is_used;	       /* since they were trimmed */
	void *buffers;	       /* owned mapping */
};

/* @page_bytes: the largest page of the guest. Return: 0 or -errno. */
int slots_init(struct slots *slots, uint64_t page_bytes);
void slots_done(struct slots *slots);

/* Larger pages came: only while every slot is free. Return: 0, -EBUSY, -errno. */
int slots_grow(struct slots *slots, uint64_t page_bytes);

/* Give the buffers' memory back to the system: nothing happens any more, or not for a while. */
void slots_trim(struct slots *slots);

/* This one, which is free. */
struct slot *slot_take_index(struct slots *slots, unsigned int index);

/* NULL when there is none for this cause. */
struct slot *slot_take(struct slots *slots, enum slot_cause cause);
void slot_release(struct slots *slots, struct slot *slot);
void slot_wait(struct slots *slots, struct slot *slot, uint64_t retry_at_ns);
