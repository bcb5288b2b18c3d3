/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Background fill: prefetch requests in their order, then every memory from its first page on.
 * Small pieces while the guest is faulting, larger ones when it is quiet, at most the guest's rate.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/units.h"

#define N_PREFETCH	       64
#define BACKGROUND_BUSY_BYTES  (16 * KIB)
#define BACKGROUND_QUIET_BYTES (256 * KIB)
#define BACKGROUND_QUIET_NS    NSEC_PER_MSEC
#define BACKGROUND_ZERO_PAGES  65536		     /* holes are told apart this far at once */
#define TRACKED_HOLE_PAGES     512		     /* and this far if they have to be protected */
#define BACKGROUND_PAUSE_NS    (200 * NSEC_PER_MSEC) /* before another pass over what failed */

struct demand;
struct memory;

struct background {
	struct {
		struct memory *memory;
		struct page_range pages;
	} prefetch[N_PREFETCH];
	unsigned int first_prefetch, n_prefetch;
	uint32_t memory; /* linear pass: index of the memory, and the next page of it */
	uint64_t page;
	bool is_forced;	       /* COMMAND_FINISH: whatever the settings say, without limit */
	uint64_t resume_at_ns; /* after a pass that left something absent */
	int64_t tokens_bytes;
	uint64_t refilled_at_ns;
};

/* Return: false if 64 requests wait already. */
bool background_prefetch(struct demand *demand, struct memory *memory, struct page_range pages);

/* Begin again from the first page: something became absent, or came new. */
void background_restart(struct demand *demand);

/**
 * background_piece() - fill one piece
 * @ret_sleep_ns: when it returns false: how long until there may be more to do
 *
 * Return: true if something was done.
 */
bool background_piece(struct demand *demand, uint64_t *ret_sleep_ns);

/* The memory is going. */
void background_forget(struct background *background, const struct memory *memory);
