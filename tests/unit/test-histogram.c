/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Latencies, log-linear. */
#include <string.h>

#include "base/histogram.h"
#include "base/units.h"
#include "support/unit.h"

static struct histogram histogram; /* 5 KiB; zero in each test's own process */

START_TEST(no_samples_give_zero)
{
	ck_assert_uint_eq(histogram_quantile_ns(&histogram, 500), 0);
	ck_assert_uint_eq(histogram_quantile_ns(&histogram, 1000), 0);
}
END_TEST

static const uint64_t samples[] = {
	0,    1,     15,     16,	   17,
	31,   32,    33,     1000,	   4095,
	4096, 12345, 999999, NSEC_PER_SEC, 3600 * NSEC_PER_SEC,
};

START_TEST(one_sample_is_every_quantile)
{
	histogram_add(&histogram, samples[_i]);
	ck_assert_uint_eq(histogram_quantile_ns(&histogram, 1), samples[_i]);
	ck_assert_uint_eq(histogram_quantile_ns(&histogram, 1000), samples[_i]);
	ck_assert_uint_eq(histogram.n_samples, 1);
	ck_assert_uint_eq(histogram.sum_ns, samples[_i]);
	ck_assert_uint_eq(histogram.max_ns, samples[_i]);
}
END_TEST

START_TEST(edges_rise_and_a_bucket_is_at_most_seven_percent_wide)
{
	for (unsigned int i = 1; i < HISTOGRAM_BUCKETS; i++) {
		uint64_t low = histogram_edge_ns(i - 1), high = histogram_edge_ns(i);

		ck_assert_uint_gt(high, low);
		if (i >= HISTOGRAM_STEPS)
			ck_assert_uint_le((high - low) * 100, low * 7);
	}
}
END_TEST

START_TEST(a_sample_is_counted_below_its_edge_and_not_below_the_one_before)
{
	for (unsigned int i = 1; i < HISTOGRAM_BUCKETS; i++) {
		memset(&histogram, 0, sizeof(histogram));
		histogram_add(&histogram, histogram_edge_ns(i) - 1);
		ck_assert_uint_eq(histogram.counts[i], 1);
		memset(&histogram, 0, sizeof(histogram));
		histogram_add(&histogram, histogram_edge_ns(i - 1));
		ck_assert_uint_eq(histogram.counts[i], 1);
	}
}
END_TEST

static const struct {
	unsigned int per_mille;
	uint64_t exact;
} quantiles[] = {
	{ 10, 100 },   { 250, 2500 }, { 500, 5000 },   { 900, 9000 },
	{ 990, 9900 }, { 999, 9990 }, { 1000, 10000 },
};

START_TEST(quantiles_of_an_even_spread_are_right_within_seven_percent)
{
	uint64_t value;

	for (uint64_t i = 10000; i > 0; i--)
		histogram_add(&histogram, i);
	value = histogram_quantile_ns(&histogram, quantiles[_i].per_mille);
	ck_assert_uint_ge(value, quantiles[_i].exact);
	ck_assert_uint_le(value * 100, quantiles[_i].exact * 107);
}
END_TEST

START_TEST(what_is_longer_than_the_scale_lands_in_the_last_bucket)
{
	histogram_add(&histogram, UINT64_MAX);
	ck_assert_uint_eq(histogram.counts[HISTOGRAM_BUCKETS - 1], 1);
	ck_assert_uint_eq(histogram.max_ns, UINT64_MAX);
}
END_TEST

int main(void)
{
	return unit_run(
		"histogram",
		(struct unit_test[]){
			UNIT(no_samples_give_zero),
			UNIT_TABLE(one_sample_is_every_quantile, samples),
			UNIT(edges_rise_and_a_bucket_is_at_most_seven_percent_wide),
			UNIT(a_sample_is_counted_below_its_edge_and_not_below_the_one_before),
			UNIT_TABLE(quantiles_of_an_even_spread_are_right_within_seven_percent,
				   quantiles),
			UNIT(what_is_longer_than_the_scale_lands_in_the_last_bucket),
			{},
		});
}
