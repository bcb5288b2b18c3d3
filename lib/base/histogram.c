/* SPDX-License-Identifier: MIT */
/* Latencies, log-linear. */
#include "base/histogram.h"

#include <stdatomic.h>

#include "base/units.h"

/* Values below 16 have a bucket each; above, the four bits below the highest select the step. */
static unsigned int bucket_of(uint64_t value)
{
	unsigned int high, index;

	if (value < HISTOGRAM_STEPS)
		return (unsigned int)value;
	high = 63 - (unsigned int)__builtin_clzll(value);
	index = (high - 3) * HISTOGRAM_STEPS +
		(unsigned int)((value >> (high - 4)) & (HISTOGRAM_STEPS - 1));
	return index < HISTOGRAM_BUCKETS ? index : HISTOGRAM_BUCKETS - 1;
}

uint64_t histogram_edge_ns(unsigned int index)
{
	unsigned int octave = index / HISTOGRAM_STEPS, step = index % HISTOGRAM_STEPS;

	if (octave == 0)
		return step + 1;
	return (uint64_t)(HISTOGRAM_STEPS + step + 1) << (octave - 1);
}

static void add_relaxed(_Atomic uint64_t *counter, uint64_t n)
{
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n,
			      memory_order_relaxed);
}

void histogram_add(struct histogram *histogram, uint64_t sample_ns)
{
	add_relaxed(&histogram->counts[bucket_of(sample_ns)], 1);
	add_relaxed(&histogram->n_samples, 1);
	add_relaxed(&histogram->sum_ns, sample_ns);
	if (sample_ns > atomic_load_explicit(&histogram->max_ns, memory_order_relaxed))
		atomic_store_explicit(&histogram->max_ns, sample_ns, memory_order_relaxed);
}

uint64_t histogram_quantile_ns(const struct histogram *histogram, unsigned int per_mille)
{
	uint64_t n = atomic_load_explicit(&histogram->n_samples, memory_order_relaxed);
	uint64_t max = atomic_load_explicit(&histogram->max_ns, memory_order_relaxed);
	uint64_t wanted = (n * per_mille + 999) / 1000, seen = 0;

	if (n == 0)
		return 0;
	for (unsigned int i = 0; i < HISTOGRAM_BUCKETS; i++) {
		seen += atomic_load_explicit(&histogram->counts[i], memory_order_relaxed);
		if (seen >= wanted && seen)
			return min_u64(histogram_edge_ns(i), max);
	}
	return max;
}
