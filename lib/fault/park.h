/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Parked faults: what cannot be answered now (no free slot, the address space is changing). The
 * message is forgotten and the page woken a moment later, so that whoever still needs it faults
 * again. When more are parked than there is room for, everything is woken instead.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/units.h"

#define N_PARKED    256
#define PARK_MIN_NS (20 * NSEC_PER_USEC)
#define PARK_MAX_NS (5 * NSEC_PER_MSEC)

struct demand;
struct mapper;

struct park {
	unsigned int n;
	bool has_overflowed;
	uint64_t wake_at_ns; /* UINT64_MAX when nothing is parked */
	uint64_t delay_ns;   /* doubles while parking goes on, up to PARK_MAX_NS */
	struct {
		struct mapper *mapper;
		struct hva_range range;
	} entries[N_PARKED];
};

void park_init(struct park *park);
void park_add(struct demand *demand, struct mapper *mapper, struct hva_range range);

/* Wake what is due. */
void park_run(struct demand *demand);

/* Every open mapping of every living mapper: after adoption, and after an overflow. */
void park_wake_all(struct demand *demand);
