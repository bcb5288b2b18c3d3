/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One row of the result: a ratio of two arms that took turns.
 *
 * Absolute times of one machine differ by half from minute to minute, and the ratio of two times
 * taken minutes apart with them. The ratio of two neighbours does not: so every round runs both
 * arms and a floor, in random order, gives one ratio, and the row is the median of the rounds'.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "arm.h"

enum row_floor { FLOOR_PING_PONG, FLOOR_MEMCPY };

struct row {
	const char *group;
	char name[64];
	bool is_same_cpu; /* the server runs where the VMM does */
	bool is_at_least; /* the target is a lower bound, else an upper one */
	double target;	  /* 0: none */
	double gate;	  /* a generous form of it; 0: none */
	enum row_floor floor;
	uint64_t moved_bytes;	 /* both arms are told as bytes a second; 0: as times */
	bool is_rate;		 /* both arms are told as so many a second */
	struct arm above, below; /* the ratio is above / below */
};

#define MAX_ROUNDS 15

/* Readable. */
struct result {
	double ratio, min, max;
	double above_ns, below_ns, floor_ns; /* medians */
	bool is_noisy;
	double load_of_others;
};

/* How much a row is worth. */
struct effort {
	unsigned int n_rounds;	     /* before them one is thrown away, if there are several */
	unsigned int n_repeats;	     /* of a noisy row */
	uint64_t no_repeat_after_ns; /* moment; 0: never */
};

void row_measure(struct bench *bench, const struct row *row, const struct effort *effort,
		 struct result *ret);

/* Has the ratio reached the bound? */
bool row_reaches(const struct row *row, double ratio, double bound);

/* Is the result within the gate? A noisy one fails only if not one of its rounds was. */
bool row_passes_gate(const struct row *row, const struct result *result);
