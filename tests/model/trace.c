/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What happened, kept unformatted until somebody must read it; and the end of a run that failed. */
#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "parties.h"

#define N_ENTRIES	   131072
#define N_ENTRIES_AT_LEAST 100 /* printed */

static struct {
	const char *format;
	uint64_t values[4];
} entries[N_ENTRIES];
static uint64_t n_entries;
static uint64_t replay_seed, last_step;
static uint64_t n_steps_printed = 50;
static bool is_wanted;

void trace(const char *format, uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
	entries[n_entries % N_ENTRIES].format = format;
	entries[n_entries % N_ENTRIES].values[0] = a;
	entries[n_entries % N_ENTRIES].values[1] = b;
	entries[n_entries % N_ENTRIES].values[2] = c;
	entries[n_entries % N_ENTRIES].values[3] = d;
	n_entries++;
}

void trace_step(uint64_t step)
{
	last_step = step;
	trace(NULL, step, world.now_ns, 0, 0);
}

void trace_replay(uint64_t seed, bool is_failure_wanted)
{
	replay_seed = seed;
	is_wanted = is_failure_wanted;
	n_entries = 0;
}

void trace_length(uint64_t n_steps)
{
	n_steps_printed = n_steps;
}

static void print_entries(void)
{
	uint64_t first = n_entries > N_ENTRIES ? n_entries - N_ENTRIES : 0;
	bool is_recent = false;

	for (uint64_t i = first; i < n_entries; i++) {
		const uint64_t *v = entries[i % N_ENTRIES].values;
		const char *format = entries[i % N_ENTRIES].format;

		/* who goes round in circles has no step any more */
		is_recent |= n_entries - i <= N_ENTRIES_AT_LEAST;
		is_recent |= !format && v[0] + n_steps_printed >= last_step;
		if (!is_recent)
			continue;
		if (!format) {
			fprintf(stderr, "# step %llu at %llu ns\n", (unsigned long long)v[0],
				(unsigned long long)v[1]);
			continue;
		}
		fputs("#\t", stderr);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
		fprintf(stderr, format, v[0], v[1], v[2], v[3]);
#pragma GCC diagnostic pop
		fputc('\n', stderr);
	}
}

void model_fail(const char *format, ...)
{
	va_list values;

	if (!is_wanted)
		print_entries();
	fputs("# FAILED: ", stderr);
	va_start(values, format);
	vfprintf(stderr, format, values);
	va_end(values);
	fprintf(stderr, "\n# after step %llu; again with: --seed %llu --steps %llu\n",
		(unsigned long long)last_step, (unsigned long long)replay_seed,
		(unsigned long long)last_step + 1);
	printf("%sok 1 - random schedules\n", is_wanted ? "" : "not ");
	fflush(stdout);
	_exit(is_wanted ? 0 : 1);
}

#ifndef NDEBUG
/* Assertions of the code under test are findings like any other. */
void __assert_fail(const char *text, const char *file, unsigned int line, const char *function)
{
	model_fail("assertion %s in %s() (%s:%u)", text, function, file, line);
}
#endif
