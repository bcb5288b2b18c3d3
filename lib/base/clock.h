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
