/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* When a live snapshot stops copying and pauses. */
#include "snapshot/rounds.h"

#include "base/units.h"
#include "support/unit.h"

#define PAUSE_NS (100 * NSEC_PER_MSEC)

/* Rounds that copy 1 MiB a millisecond. */
static enum rounds_verdict look(struct rounds *rounds, uint64_t copied_mib, uint64_t left_mib)
{
	rounds_copied(rounds, copied_mib * MIB, copied_mib * NSEC_PER_MSEC);
	return rounds_judge(rounds, left_mib * MIB);
}

START_TEST(what_fits_the_pause_ends_the_rounds)
{
	struct rounds rounds = { .pause_ns = PAUSE_NS, .fixed_ns = 20 * NSEC_PER_MSEC };

	ck_assert_int_eq(look(&rounds, 1000, 300), ROUNDS_AGAIN);
	ck_assert_int_eq(look(&rounds, 300, 81), ROUNDS_AGAIN);
	ck_assert_int_eq(look(&rounds, 81, 80), ROUNDS_FIT);
	ck_assert_uint_eq(rounds_pause_ns(&rounds, 80 * MIB), PAUSE_NS);
}
END_TEST

START_TEST(nothing_left_fits_even_if_nothing_was_copied)
{
	struct rounds rounds = { .pause_ns = PAUSE_NS };

	ck_assert_uint_eq(rounds_pause_ns(&rounds, 1), UINT64_MAX);
	ck_assert_int_eq(rounds_judge(&rounds, 0), ROUNDS_FIT);
}
END_TEST

START_TEST(a_pause_that_devices_alone_exceed_never_fits)
{
	struct rounds rounds = { .pause_ns = PAUSE_NS, .fixed_ns = 2 * PAUSE_NS };

	ck_assert_int_eq(look(&rounds, 100, 0), ROUNDS_AGAIN);
	ck_assert_int_eq(look(&rounds, 0, 0), ROUNDS_AGAIN);
	ck_assert_int_eq(look(&rounds, 0, 0), ROUNDS_AGAIN);
	ck_assert_int_eq(look(&rounds, 0, 0), ROUNDS_STUCK);
}
END_TEST

START_TEST(no_progress_ends_the_rounds_after_a_few)
{
	struct rounds rounds = { .pause_ns = PAUSE_NS };
	int n = 1;

	ck_assert_int_eq(look(&rounds, 1000, 500), ROUNDS_AGAIN);
	while (look(&rounds, 500, 500) == ROUNDS_AGAIN)
		n++;
	ck_assert_int_eq(n, ROUNDS_N_STUCK);
}
END_TEST

START_TEST(progress_now_and_then_goes_on_but_not_for_ever)
{
	struct rounds rounds = { .pause_ns = PAUSE_NS };
	uint64_t left = 100000;
	int n = 1;

	ck_assert_int_eq(look(&rounds, left, left), ROUNDS_AGAIN);
	while (look(&rounds, left, left - (n % 2)) == ROUNDS_AGAIN) {
		left -= n % 2;
		n++;
	}
	ck_assert_int_eq(n, ROUNDS_N_MOST - 1);
}
END_TEST

int main(void)
{
	return unit_run("rounds", (struct unit_test[]){
					  UNIT(what_fits_the_pause_ends_the_rounds),
					  UNIT(nothing_left_fits_even_if_nothing_was_copied),
					  UNIT(a_pause_that_devices_alone_exceed_never_fits),
					  UNIT(no_progress_ends_the_rounds_after_a_few),
					  UNIT(progress_now_and_then_goes_on_but_not_for_ever),
					  {},
				  });
}
