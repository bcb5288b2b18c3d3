/* SPDX-License-Identifier: MIT */
/* Time in nanoseconds: monotonic, and the day's. Linked apart, so that the model test brings its own clock. */
#pragma once

#include <stdint.h>

/**
 * clock_now_ns() - CLOCK_MONOTONIC
 *
 * Context: Any thread; does not block.
 */
uint64_t clock_now_ns(void);

/* CLOCK_REALTIME: now, and what it was at a moment of CLOCK_MONOTONIC, as far as nobody set it since. The same. */
uint64_t clock_wall_now_ns(void);
uint64_t clock_wall_ns(uint64_t monotonic_ns);

/* A moment later; UINT64_MAX (never) when that is beyond the end of time. */
static inline uint64_t clock_add_ns(uint64_t at_ns, uint64_t ns)
{
	return ns > UINT64_MAX - at_ns ? UINT64_MAX : at_ns + ns;
}
