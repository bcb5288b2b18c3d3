/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the demand thread counts. One writer; everybody reads with relaxed loads. */
#pragma once

#include <stdatomic.h>
#include <stdint.h>

#include "base/histogram.h"

struct fault_counters {
	_Alignas(64) _Atomic uint64_t faults_missing;
	_Atomic uint64_t faults_minor;
	_Atomic uint64_t faults_wp;
	_Atomic uint64_t faults_stale;	 /* resolved or under way already */
	_Atomic uint64_t faults_strange; /* outside every mapping we know */
	_Atomic uint64_t removes;
	_Atomic uint64_t pages_demand;
	_Atomic uint64_t pages_window;
	_Atomic uint64_t pages_background;
	_Atomic uint64_t pages_zero;
	_Atomic uint64_t filled_bytes;
	_Atomic uint64_t source_bytes;
	_Atomic uint64_t source_errors;
	_Atomic uint64_t foreign_touches;
	_Atomic uint64_t discards_unannounced;
	_Atomic uint64_t exhausted;
	_Atomic uint64_t wakes;
	_Atomic uint64_t retries;
	_Atomic uint64_t poisoned_pages;
	_Atomic uint64_t held; /* times that filling was held back before a memory limit */
	struct histogram demand_latency; /* message read to page filled */
};

static inline void count_add(_Atomic uint64_t *counter, uint64_t n)
{
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n,
			      memory_order_relaxed);
}

static inline void count_sub(_Atomic uint64_t *counter, uint64_t n)
{
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) - n,
			      memory_order_relaxed);
}

static inline uint64_t count_get(const _Atomic uint64_t *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}
