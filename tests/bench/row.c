/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One row. */
#include "row.h"

#include <math.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/units.h"
#include "machine.h"

#define N_PING_PONG    500
#define FLOOR_STRAYS   0.15 /* of the floor's own median: that round was disturbed */
#define OTHERS_DISTURB 0.10 /* of all CPU time of the row */

/* A row is noisy when more than a quarter of its rounds were disturbed. */
#define QUIET_ROUNDS 4

struct rounds {
	unsigned int n;
	double ratios[MAX_ROUNDS];
	double above[MAX_ROUNDS], below[MAX_ROUNDS], floor[MAX_ROUNDS];
};

static int compare(const void *a, const void *b)
{
	const double *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

static double median(const double *values, unsigned int n)
{
	double sorted[MAX_ROUNDS];

	for (unsigned int i = 0; i < n; i++)
		sorted[i] = values[i];
	qsort(sorted, n, sizeof(sorted[0]), compare);
	return n % 2 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
}

static double run_floor(struct bench *bench, const struct row *row, int cpu)
{
	if (row->floor == FLOOR_MEMCPY)
		return handler_memcpy_ns(bench->handler, cpu);
	return handler_ping_pong_ns(bench->handler, N_PING_PONG, cpu);
}

/* Both arms and the floor, beginning anywhere. */
static void run_round(struct bench *bench, const struct row *row, double *ret_above,
		      double *ret_below, double *ret_floor)
{
	int cpu = bench->cpus[row->is_same_cpu ? 0 : 1];
	unsigned int first = (unsigned int)rand() % 6;
	bool is_backward = first >= 3;

	bench->seed = (uint64_t)rand() << 32 | (unsigned int)rand() | 1;
	for (unsigned int i = 0; i < 3; i++) {
		switch ((first + (is_backward ? 3 - i : i)) % 3) {
		case 0:
			*ret_above = arm_run(bench, &row->above, cpu);
			break;
		case 1:
			*ret_below = arm_run(bench, &row->below, cpu);
			break;
		case 2:
			*ret_floor = run_floor(bench, row, cpu);
			break;
		}
	}
}

static bool is_disturbed(const struct rounds *rounds, double load_of_others)
{
	double middle = median(rounds->floor, rounds->n);
	unsigned int n = 0;

	for (unsigned int i = 0; i < rounds->n; i++)
		n += fabs(rounds->floor[i] / middle - 1) > FLOOR_STRAYS;
	return n * QUIET_ROUNDS > rounds->n || load_of_others > OTHERS_DISTURB;
}

static void summarize(const struct rounds *rounds, double load_of_others, struct result *ret)
{
	*ret = (struct result){
		.ratio = median(rounds->ratios, rounds->n),
		.min = rounds->ratios[0],
		.max = rounds->ratios[0],
		.above_ns = median(rounds->above, rounds->n),
		.below_ns = median(rounds->below, rounds->n),
		.floor_ns = median(rounds->floor, rounds->n),
		.is_noisy = is_disturbed(rounds, load_of_others),
		.load_of_others = load_of_others,
	};
	for (unsigned int i = 0; i < rounds->n; i++) {
		ret->min = fmin(ret->min, rounds->ratios[i]);
		ret->max = fmax(ret->max, rounds->ratios[i]);
	}
}

static void measure_once(struct bench *bench, const struct row *row, unsigned int n_rounds,
			 struct result *ret)
{
	struct rounds rounds = { .n = n_rounds };
	struct load before, after;
	double ignored;

	machine_warm(row->above.length_bytes + row->above.length_bytes / 8);
	if (n_rounds > 1)
		run_round(bench, row, &ignored, &ignored, &ignored);
	before = machine_load();
	for (unsigned int i = 0; i < n_rounds; i++) {
		run_round(bench, row, &rounds.above[i], &rounds.below[i], &rounds.floor[i]);
		rounds.ratios[i] = rounds.above[i] / rounds.below[i];
	}
	after = machine_load();
	summarize(&rounds, machine_load_of_others(before, after), ret);
}

void row_measure(struct bench *bench, const struct row *row, const struct effort *effort,
		 struct result *ret)
{
	unsigned int n_repeats = 0;

	for (;;) {
		measure_once(bench, row, effort->n_rounds, ret);
		if (!ret->is_noisy || n_repeats++ == effort->n_repeats)
			return;
		if (effort->no_repeat_after_ns && clock_now_ns() > effort->no_repeat_after_ns)
			return;
	}
}

bool row_reaches(const struct row *row, double ratio, double bound)
{
	return row->is_at_least ? ratio >= bound : ratio <= bound;
}

bool row_passes_gate(const struct row *row, const struct result *result)
{
	double best = row->is_at_least ? result->max : result->min;

	if (!row->gate)
		return true;
	return row_reaches(row, result->is_noisy ? best : result->ratio, row->gate);
}
