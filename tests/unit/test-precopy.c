/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Would a guest that writes like this migrate? */
#include "precopy.h"

#include "base/units.h"
#include "support/unit.h"

#define TOTAL (1024 * MIB)

static const struct {
	const char *what;
	struct precopy_guest guest;
	double bandwidth;
	bool converges;
	unsigned int least_rounds, most_rounds;
	double least_s, most_s;
	double least_down_s, most_down_s;
} rows[] = {
	{ "who writes nothing needs one round",
	  { TOTAL, 1, 0, 10, 0 },
	  128 * MIB,
	  true,
	  1,
	  1,
	  8,
	  8,
	  0,
	  0 },
	{ "each round is shorter by the part that was written in it",
	  { TOTAL, 1, 64 * MIB, 100, 6400 * MIB },
	  128 * MIB,
	  true,
	  5,
	  5,
	  15.5,
	  15.5,
	  0.25,
	  0.25 },
	{ "who writes faster than it can be copied never ends",
	  { TOTAL, 1, 200 * MIB, 100, 20000 * MIB },
	  128 * MIB,
	  false,
	  2,
	  3,
	  8,
	  30,
	  8,
	  8 },
	{ "but the same few pages again and again are copied once a round",
	  { TOTAL, 1, 16 * MIB, 100, 16 * MIB },
	  128 * MIB,
	  true,
	  1,
	  1,
	  8,
	  8,
	  0.125,
	  0.125 },
	{ "a hot set that is too big for the pause is not worth more rounds",
	  { TOTAL, 0.1, 256 * MIB, 100, 256 * MIB },
	  128 * MIB,
	  false,
	  2,
	  3,
	  8,
	  13,
	  2,
	  2 },
	{ "no bandwidth is no migration", { TOTAL, 1, 0, 1, 0 }, 0, false, 0, 0, 0, 0, 0, 0 },
};

START_TEST(rounds_follow_from_how_a_guest_writes)
{
	struct precopy precopy = precopy_estimate(&rows[_i].guest, rows[_i].bandwidth, 0.3);

	ck_assert_msg(precopy.converges == rows[_i].converges, "%s", rows[_i].what);
	ck_assert_uint_ge(precopy.n_rounds, rows[_i].least_rounds);
	ck_assert_uint_le(precopy.n_rounds, rows[_i].most_rounds);
	ck_assert_double_ge(precopy.seconds, rows[_i].least_s - 1e-6);
	ck_assert_double_le(precopy.seconds, rows[_i].most_s + 1e-6);
	ck_assert_double_ge(precopy.downtime_s, rows[_i].least_down_s - 1e-6);
	ck_assert_double_le(precopy.downtime_s, rows[_i].most_down_s + 1e-6);
}
END_TEST

static const struct {
	double seconds, bytes;
} times[] = {
	{ 0, 0 },	  { 0.5, 5 * MIB }, { 1, 10 * MIB }, { 6, 15 * MIB },
	{ 11, 20 * MIB }, { 21, 30 * MIB }, { 1e6, TOTAL },
};

START_TEST(what_is_dirty_grows_slower_when_pages_are_written_again)
{
	const struct precopy_guest guest = { TOTAL, 1, 10 * MIB, 11, 20 * MIB };

	ck_assert_double_eq_tol(precopy_dirty_bytes(&guest, times[_i].seconds), times[_i].bytes, 1);
}
END_TEST

START_TEST(one_interval_is_all_there_is_to_go_by_at_first)
{
	const struct precopy_guest guest = { TOTAL, 2, 10 * MIB, 2, 10 * MIB };

	ck_assert_double_eq_tol(precopy_dirty_bytes(&guest, 8), 40 * MIB, 1);
}
END_TEST

int main(void)
{
	return unit_run(
		"precopy",
		(struct unit_test[]){
			UNIT_TABLE(rounds_follow_from_how_a_guest_writes, rows),
			UNIT_TABLE(what_is_dirty_grows_slower_when_pages_are_written_again, times),
			UNIT(one_interval_is_all_there_is_to_go_by_at_first),
			{},
		});
}
