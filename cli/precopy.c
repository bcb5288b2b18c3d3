/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Estimates of migrations. */
#include "precopy.h"

/* A round that leaves more of this part of the one before it will not come to an end. */
#define HOPELESS 0.97

static double least(double a, double b)
{
	return a < b ? a : b;
}

/* Straight from nothing to the first point, from there to the second, and on. */
double precopy_dirty_bytes(const struct precopy_guest *guest, double seconds)
{
	double slope, bytes;

	if (guest->interval_s <= 0)
		return 0;
	if (seconds <= guest->interval_s || guest->whole_s <= guest->interval_s) {
		bytes = guest->interval_bytes * seconds / guest->interval_s;
	} else {
		slope = (guest->whole_bytes - guest->interval_bytes) /
			(guest->whole_s - guest->interval_s);
		bytes = guest->interval_bytes +
			(slope > 0 ? slope : 0) * (seconds - guest->interval_s);
	}
	return least(bytes, (double)guest->total_bytes);
}

struct precopy precopy_estimate(const struct precopy_guest *guest, double bandwidth,
				double max_downtime_s)
{
	struct precopy precopy = { .left_bytes = (double)guest->total_bytes };

	if (bandwidth <= 0)
		return precopy;
	while (precopy.n_rounds < PRECOPY_MAX_ROUNDS) {
		double round_s = precopy.left_bytes / bandwidth;
		double left = precopy_dirty_bytes(guest, round_s);
		bool is_hopeless = left > HOPELESS * precopy.left_bytes && precopy.n_rounds > 0;

		precopy.n_rounds++;
		precopy.seconds += round_s;
		precopy.left_bytes = left;
		precopy.downtime_s = left / bandwidth;
		precopy.converges = precopy.downtime_s <= max_downtime_s;
		if (precopy.converges || is_hopeless)
			break;
	}
	return precopy;
}
