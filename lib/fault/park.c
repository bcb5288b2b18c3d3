/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Parked faults. */
#include "fault/park.h"

#include "fault/engine.h"
#include "kernel/uffd.h"

void park_init(struct park *park)
{
	park->n = 0;
	park->has_overflowed = false;
	park->wake_at_ns = UINT64_MAX;
	park->delay_ns = PARK_MIN_NS;
}

void park_add(struct demand *demand, struct mapper *mapper, struct hva_range range)
{
	struct park *park = &demand->park;

	if (park->wake_at_ns == UINT64_MAX)
		park->wake_at_ns = demand->now_ns + park->delay_ns;

	/* A storm repeats one address: the newest entries are the likely duplicates. */
	for (unsigned int i = 0; i < park->n && i < 16; i++) {
		struct hva_range *known = &park->entries[park->n - 1 - i].range;

		if (park->entries[park->n - 1 - i].mapper != mapper ||
		    known->start.v != range.start.v)
			continue;
		/* a page, and later a run of them that begins there */
		known->length_bytes = max_u64(known->length_bytes, range.length_bytes);
		return;
	}
	if (park->n == N_PARKED) {
		park->has_overflowed = true;
		return;
	}
	park->entries[park->n].mapper = mapper;
	park->entries[park->n].range = range;
	park->n++;
}

void park_wake_all(struct demand *demand)
{
	for (uint32_t i = 0; i < demand->view->n_mappings; i++) {
		struct mapping *mapping = demand->view->mappings[i];

		if (!mapping->is_open || mapping->mapper->is_gone)
			continue;
		(void)uffd_wake(mapping->mapper->uffd, mapping->range);
		count_add(&demand->counters.wakes, 1);
	}
}

void park_run(struct demand *demand)
{
	struct park *park = &demand->park;

	if (demand->now_ns < park->wake_at_ns)
		return;

	if (park->has_overflowed)
		park_wake_all(demand);
	for (unsigned int i = 0; i < park->n && !park->has_overflowed; i++) {
		if (park->entries[i].mapper->is_gone)
			continue;
		(void)uffd_wake(park->entries[i].mapper->uffd, park->entries[i].range);
		count_add(&demand->counters.wakes, 1);
	}
	park->n = 0;
	park->has_overflowed = false;
	park->wake_at_ns = UINT64_MAX;
	park->delay_ns = min_u64(park->delay_ns * 2, PARK_MAX_NS);
}
