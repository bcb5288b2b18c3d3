/* SPDX-License-Identifier: MIT */
/* Latencies, log-linear: 16 steps to each power of two, so a quantile is right within 7 %. */
#pragma once

#include <stdint.h>

#define HISTOGRAM_STEPS	  16
#define HISTOGRAM_BUCKETS (HISTOGRAM_STEPS * 40)

/*
 * Embedded. One thread adds, any thread reads: the counts are relaxed atomics, so a reader may
 * see a sum that is one sample ahead of the buckets.
 */
struct histogram {
	_Atomic uint64_t counts[HISTOGRAM_BUCKETS];
	_Atomic uint64_t n_samples;
	_Atomic uint64_t sum_ns;
	_Atomic uint64_t max_ns;
};

/* Context: the one thread that owns the histogram; does not block. */
void histogram_add(struct histogram *histogram, uint64_t sample_ns);

/**
 * histogram_quantile_ns() - the least value that @per_mille of the samples do not exceed
 *
 * Context: Any thread; does not block.
 * Return:  nanoseconds (upper edge of the bucket, at most the maximum seen), 0 without samples.
 */
uint64_t histogram_quantile_ns(const struct histogram *histogram, unsigned int per_mille);

/* Upper edge of bucket @index in nanoseconds, exclusive. */
uint64_t histogram_edge_ns(unsigned int index);
