/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How much may still be filled before the limit of a memory control group.
 *
 * A page put in by COPY is charged to the guest's process, and at its limit the kernel kills there.
 * So the bulk thread looks at the limits (they are files) and says how far filled_bytes may grow;
 * between two looks the demand thread reckons by itself, and never waits to be told while there is
 * room. Background work stops first and leaves a margin; demanded pages go on through the margin, and
 * stall where it ends. What needs no new page of the group is never held: huge pages come from
 * their pool, and bytes that are in the memory's own file are only mapped.
 *
 *	state	| fills					| leaves by
 *	--------+---------------------------------------+------------------------------------------
 *	open	| all					| the soft allowance is used up -> asking
 *	asking	| demanded ones				| a look: open or held
 *	held	| demanded ones up to the hard one	| a look that finds room -> open
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/units.h"
#include "fault/slot.h"

struct demand;
struct memory;

/* What the bulk thread found. */
struct allowance_look {
	uint64_t
		filled_bytes; /* the counter, read before the limits were: what is filled meanwhile counts twice */
	uint64_t soft_bytes; /* for background work from then on; UINT64_MAX: there is no limit */
	uint64_t hard_bytes; /* for demanded pages */
	bool is_short;	     /* looking again would not find more for background work */
};

struct allowance {
	/* written by the bulk thread, read relaxed: each is good alone */
	_Atomic uint64_t soft_bytes; /* of filled_bytes */
	_Atomic uint64_t hard_bytes;
	_Atomic bool is_short;
	/* written by the demand thread */
	_Atomic bool is_wanted; /* a look is asked for */
	_Atomic bool is_held;
};

void allowance_init(struct allowance *allowance);

/* How many of @n_pages at most may be filled for this cause; 0: hold it. */
uint64_t allowance_pages(struct demand *demand, const struct memory *memory, enum slot_cause cause,
			 uint64_t n_pages);

/* Each round: when there is room again, go on. */
void allowance_run(struct demand *demand);
