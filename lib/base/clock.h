/* SPDX-License-Identifier: MIT */
/* Monotonic time in nanoseconds. Linked apart, so that the model test brings its own clock. */
#pragma once

#include <stdint.h>

/**
 * clock_now_ns() - CLOCK_MONOTONIC
 *
 * Context: Any thread; does not block.
 */
uint64_t clock_now_ns(void);

/* A moment later; UINT64_MAX (never) when that is beyond the end of time. */
static inline uint64_t clock_add_ns(uint64_t at_ns, uint64_t ns)
{
	return ns > UINT64_MAX - at_ns ? UINT64_MAX : at_ns + ns;
}
