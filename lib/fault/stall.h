/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pages whose bytes cannot be had, while somebody waits for them: asked for again with backoff, and
 * after the guest's deadline given to its policy.
 *
 * A stalled page is absent; the entry remembers since when. Pages beyond N_STALLED are not
 * remembered: they are parked, fault again and fail again.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/units.h"

#define N_STALLED    256
#define STALL_MIN_NS (10 * NSEC_PER_MSEC)
#define STALL_MAX_NS (2 * NSEC_PER_SEC)

struct demand;
struct mapping;
struct memory;

struct stalled {
	struct memory *memory;
	uint64_t page;
	uint64_t since_ns;
	uint64_t retry_at_ns;
	uint64_t delay_ns;
	int error;	       /* of the last try, positive errno */
	bool is_asked;	       /* a slot is trying again */
	bool is_past_deadline; /* told */
};

struct stalls {
	unsigned int n;
	bool was_any;	  /* a stall was told, ever */
	uint64_t next_ns; /* the earliest retry or deadline; UINT64_MAX: none */
	struct stalled entries[N_STALLED];
};

void stalls_init(struct stalls *stalls);

/* The demanded @page failed with @error (positive errno), and is absent again. */
void stall_add(struct demand *demand, struct memory *memory, uint64_t page, int error);

/* Is the page known to be stalled (and its fault therefore no news)? */
bool stall_knows(const struct demand *demand, const struct memory *memory, uint64_t page);

/* Pages came after all, or are gone. */
void stall_forget(struct demand *demand, struct memory *memory, struct page_range pages);

/* The fill that asked for these pages came to nothing: ask again later. */
void stall_unask(struct demand *demand, struct memory *memory, struct page_range pages);

/* A marker that raises SIGBUS at @page of this mapping; who waits there gets it. */
void stall_put_poison(struct demand *demand, struct mapping *mapping, uint64_t page);

/* What kept pages away may be over: ask again for all of them now. */
void stall_retry_all(struct demand *demand);

/* Ask again for what is due, apply the policy to what is overdue. */
void stall_run(struct demand *demand);
