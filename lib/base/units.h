/* SPDX-License-Identifier: MIT */
/* Address spaces and units as types: what cannot be mixed up need not be remembered. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define KIB	      (UINT64_C(1) << 10)
#define MIB	      (UINT64_C(1) << 20)
#define GIB	      (UINT64_C(1) << 30)
#define TIB	      (UINT64_C(1) << 40)

#define NSEC_PER_USEC UINT64_C(1000)
#define NSEC_PER_MSEC UINT64_C(1000000)
#define NSEC_PER_SEC  UINT64_C(1000000000)

/* A host virtual address: valid in one process only. */
struct hva {
	uint64_t v;
};

/* A piece of one process's address space, half-open. */
struct hva_range {
	struct hva start;
	uint64_t length_bytes;
};

/* Pages of one memory, counted in that memory's own page size from its first byte; half-open. */
struct page_range {
	uint64_t first;
	uint64_t count;
};

static inline struct hva hva_add(struct hva start, uint64_t bytes)
{
	return (struct hva){ start.v + bytes };
}

/* @unit is a power of two. */
static inline bool is_aligned(uint64_t value, uint64_t unit)
{
	return (value & (unit - 1)) == 0;
}

static inline uint64_t align_down(uint64_t value, uint64_t unit)
{
	return value & ~(unit - 1);
}

static inline uint64_t align_up(uint64_t value, uint64_t unit)
{
	return (value + unit - 1) & ~(unit - 1);
}

static inline uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static inline uint64_t max_u64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}
