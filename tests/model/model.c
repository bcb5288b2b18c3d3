/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The model test: random schedules against the data plane. See world.h.
 *
 *	model [--seed N] [--steps N] [--expect-failure] [--coverage N] [--trace N]
 *
 * Without --seed the time is the seed. A run is cut into episodes, each with a seed of its own that
 * a failure prints: with it, and the number of steps, the failing episode comes again as the first.
 * --expect-failure is for mutants: success is to be caught. --coverage N: every cell of the decision
 * table must have been met N times. --trace N: a failure prints its last N steps (default 50).
 * UFD_TEST_SHORT=1 and UFD_TEST_LONG=1 change the number of steps; UFD_MODEL_STEPS=N bounds it.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "parties.h"

#define STEPS_SHORT   UINT64_C(1000000)
#define STEPS_CI      UINT64_C(8000000)
#define STEPS_LONG    (20 * STEPS_CI)
#define STEPS_EPISODE UINT64_C(2500)

static const struct option options[] = {
	{ "seed", required_argument, NULL, 's' },     { "steps", required_argument, NULL, 'n' },
	{ "coverage", required_argument, NULL, 'c' }, { "expect-failure", no_argument, NULL, 'e' },
	{ "trace", required_argument, NULL, 't' },    {},
};

static uint64_t number(const char *text)
{
	char *end;
	uint64_t value = strtoull(text, &end, 0);

	if (*end || end == text) {
		fprintf(stderr, "model: no number: %s\n", text);
		exit(2);
	}
	return value;
}

static bool is_set(const char *name)
{
	const char *value = getenv(name);

	return value && strcmp(value, "1") == 0;
}

/* Without --steps. */
static uint64_t usual_steps(void)
{
	const char *bound = getenv("UFD_MODEL_STEPS");
	uint64_t n_steps = is_set("UFD_TEST_LONG") ? STEPS_LONG : STEPS_CI;

	return bound ? min_u64(n_steps, number(bound)) : n_steps;
}

static int report(uint64_t n_steps, uint64_t n_wanted)
{
	unsigned int n_short = coverage_report(n_wanted);

	if (n_steps < STEPS_CI)
		printf("ok 2 - every cell of the decision table was met # SKIP a short run\n");
	else
		printf("%sok 2 - every cell of the decision table was met\n",
		       n_short ? "not " : "");
	return n_steps >= STEPS_CI && n_short > 0;
}

int main(int argc, char **argv)
{
	uint64_t seed = (uint64_t)time(NULL), n_wanted = 0, step;
	uint64_t n_steps = usual_steps();
	bool is_failure_wanted = false;
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		if (option == 's')
			seed = number(optarg);
		else if (option == 'n')
			n_steps = number(optarg);
		else if (option == 'c')
			n_wanted = number(optarg);
		else if (option == 't')
			trace_length(number(optarg));
		else if (option == 'e')
			is_failure_wanted = true;
		else
			return 2;
	}
	if (is_set("UFD_TEST_SHORT"))
		n_steps = min_u64(n_steps, STEPS_SHORT);
	printf("1..%d\n# seed %llu, %llu steps\n", n_wanted ? 2 : 1, (unsigned long long)seed,
	       (unsigned long long)n_steps);
	fflush(stdout);

	for (step = 0; step < n_steps; step += STEPS_EPISODE) {
		trace_replay(seed, is_failure_wanted);
		chance_seed(seed);
		episode_run(min_u64(STEPS_EPISODE, n_steps - step));
		chance_seed(seed);
		seed = chance_word();
	}
	printf("%sok 1 - random schedules\n", is_failure_wanted ? "not " : "");
	return n_wanted ? report(n_steps, n_wanted) : is_failure_wanted;
}
