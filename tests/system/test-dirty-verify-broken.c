/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A tracker that does not protect again what it has reported is found out.
 *
 * Linked with tests/support/break-rearm.c, which takes that out of both trackers; else as
 * tests/system/test-dirty-verify.c.
 */
#include "support/dirty-verify.h"
#include "support/unit.h"

static const struct verify_row rows[] = {
	{ .what = "scan without protecting again", .kind = CHILD_SHMEM, .n_threads = 2 },
	{ .what = "scan without protecting again, anonymous", .kind = CHILD_ANON, .n_threads = 2 },
	{ .what = "wp without protecting again",
	  .kind = CHILD_SHMEM,
	  .track = UFD_TRACK_WP,
	  .n_threads = 2 },
	{ .what = "wp without protecting again, anonymous",
	  .kind = CHILD_ANON,
	  .track = UFD_TRACK_WP,
	  .n_threads = 2 },
};

START_TEST(a_tracker_that_does_not_protect_again_is_found_out)
{
	struct verdict verdict;

	verify_run(&rows[_i], verify_n_rounds(), (uint64_t)_i + 300, &verdict);
	if (verdict.refusal)
		unit_skip("%s", verdict.refusal);
	verdict_print(&rows[_i], &verdict);
	ck_assert_str_eq(verdict.failure, "");
	ck_assert_uint_eq(verdict.n_wrong, 0);
	/* a scan reports the same pages for ever; wp does not see who writes them again */
	ck_assert_uint_gt(rows[_i].track == UFD_TRACK_WP ? verdict.n_lost : verdict.n_noise, 0);
}
END_TEST

int main(void)
{
	return unit_run(
		"dirty-verify-broken",
		(struct unit_test[]){
			UNIT_TABLE(a_tracker_that_does_not_protect_again_is_found_out, rows),
			{},
		});
}
