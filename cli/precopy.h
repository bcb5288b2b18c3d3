/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a migration of a guest that runs would be like: an estimate from how it writes. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define PRECOPY_MAX_ROUNDS 30

/*
 * How much is dirty after how long. Two points are measured: what an interval wrote on average, and
 * what all of them wrote together, each page counted once. Who writes the same pages again and
 * again has a second point that is not far above the first.
 */
struct precopy_guest {
	uint64_t total_bytes; /* that the first round copies */
	double interval_s;
	double interval_bytes;
	double whole_s;
	double whole_bytes;
};

/* Readable. */
struct precopy {
	bool converges;
	unsigned int
		n_rounds; /* the first one, and all until the guest is stopped, or until it is given up */
	double seconds;	   /* of all rounds */
	double downtime_s; /* to copy what is left then */
	double left_bytes;
};

/* What is dirty after @seconds, each page counted once. */
double precopy_dirty_bytes(const struct precopy_guest *guest, double seconds);

/*
 * @bandwidth: bytes a second. It converges when what is left can be copied within @max_downtime_s.
 */
struct precopy precopy_estimate(const struct precopy_guest *guest, double bandwidth,
				double max_downtime_s);
