/* SPDX-License-Identifier: MIT */
/* Time in nanoseconds. */
#include "base/clock.h"

#include <time.h>

#include "base/units.h"

static uint64_t read_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * NSEC_PER_SEC + (uint64_t)now.tv_nsec;
}

uint64_t clock_now_ns(void)
{
	return read_ns(CLOCK_MONOTONIC);
}

uint64_t clock_wall_now_ns(void)
{
	return read_ns(CLOCK_REALTIME);
}

uint64_t clock_wall_ns(uint64_t monotonic_ns)
{
	return clock_wall_now_ns() - (clock_now_ns() - monotonic_ns);
}
