/* SPDX-License-Identifier: MIT */
/* Discarded ranges, sorted and merged: as many as there are gaps between them, not as calls. */
#include "client/discards.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

void discards_done(struct discards *discards)
{
	free(discards->ranges);
	*discards = (struct discards){};
}

int discards_reserve(struct discards *discards)
{
	size_t n = discards->n_allocated ? 2 * discards->n_allocated : 16;
	struct discard *ranges;

	if (discards->n_ranges < discards->n_allocated)
		return 0;
	ranges = reallocarray(discards->ranges, n, sizeof(*ranges));
	if (!ranges)
		return -ENOMEM;
	discards->ranges = ranges;
	discards->n_allocated = n;
	return 0;
}

void discards_add(struct discards *discards, uint64_t start, uint64_t end)
{
	struct discard *ranges = discards->ranges;
	size_t first = 0, last;

	/* [first, last) are the ranges that overlap or touch the new one. */
	while (first < discards->n_ranges && ranges[first].end < start)
		first++;
	last = first;
	while (last < discards->n_ranges && ranges[last].start <= end) {
		start = ranges[last].start < start ? ranges[last].start : start;
		end = ranges[last].end > end ? ranges[last].end : end;
		last++;
	}
	assert(last > first || discards->n_ranges < discards->n_allocated);
	memmove(ranges + first + 1, ranges + last, (discards->n_ranges - last) * sizeof(*ranges));
	discards->n_ranges -= last - first;
	discards->n_ranges++;
	ranges[first] = (struct discard){ start, end };
}
