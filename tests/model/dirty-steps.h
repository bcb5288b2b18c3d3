/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Included before lib/guest/dirty-map.c, as the model links it: the engine may die, and others go on, before and after
 * each store into a map of written pages.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

void store_point(void);
bool midway_stop(bool is_likely);

static inline uint64_t step_or(_Atomic uint64_t *word, uint64_t bits)
{
	uint64_t before;

	store_point();
	before = atomic_fetch_or_explicit(word, bits, memory_order_seq_cst);
	store_point();
	(void)midway_stop(true);
	return before;
}

static inline uint64_t step_and(_Atomic uint64_t *word, uint64_t bits)
{
	uint64_t before;

	store_point();
	before = atomic_fetch_and_explicit(word, bits, memory_order_seq_cst);
	store_point();
	return before;
}

#undef atomic_fetch_or_explicit
#undef atomic_fetch_and_explicit
/* who is armed is not in the ledger */
#define atomic_fetch_or_explicit(word, bits, order) \
	_Generic((word), _Atomic uint64_t *                  \
		 : step_or((_Atomic uint64_t *)(word), bits), \
		   default                                   \
		 : __atomic_fetch_or((uint32_t *)(word), bits, order))
#define atomic_fetch_and_explicit(word, bits, order) \
	_Generic((word), _Atomic uint64_t *                   \
		 : step_and((_Atomic uint64_t *)(word), bits), \
		   default                                    \
		 : __atomic_fetch_and((uint32_t *)(word), bits, order))
