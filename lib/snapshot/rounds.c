/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* When to stop copying a guest that runs. */
#include "snapshot/rounds.h"

void rounds_copied(struct rounds *rounds, uint64_t n_bytes, uint64_t time_ns)
{
	rounds->copied_bytes += n_bytes;
	rounds->copied_ns += time_ns;
	rounds->n_rounds++;
}

uint64_t rounds_pause_ns(const struct rounds *rounds, uint64_t left_bytes)
{
	double copy_ns;

	if (left_bytes == 0)
		return rounds->fixed_ns;
	if (rounds->copied_bytes == 0)
		return UINT64_MAX;
	copy_ns = (double)left_bytes * (double)rounds->copied_ns / (double)rounds->copied_bytes;
	return copy_ns < 1e18 ? rounds->fixed_ns + (uint64_t)copy_ns : UINT64_MAX;
}

enum rounds_verdict rounds_judge(struct rounds *rounds, uint64_t left_bytes)
{
	if (rounds_pause_ns(rounds, left_bytes) <= rounds->pause_ns)
		return ROUNDS_FIT;
	if (rounds->n_rounds <= 1 || left_bytes < rounds->least_bytes) {
		rounds->least_bytes = left_bytes;
		rounds->n_stuck = 0;
	} else {
		rounds->n_stuck++;
	}
	return rounds->n_stuck >= ROUNDS_N_STUCK || rounds->n_rounds >= ROUNDS_N_MOST
		       ? ROUNDS_STUCK
		       : ROUNDS_AGAIN;
}
