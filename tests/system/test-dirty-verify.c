/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Dirty tracking tells every page that was written: each backing, each tracker, several consumers, lost
 * replies, discards, writes behind the guest's back, memory that comes and goes.
 *
 * 300 rounds of each row; with UFD_TEST_LONG=1 10,000 of each backing and tracker, and 1,666 of the rest.
 */
#include <stdlib.h>
#include <sys/mman.h>

#include "support/dirty-verify.h"
#include "support/hugepages.h"
#include "support/unit.h"

static const struct verify_row rows[] = {
	{ .what = "shmem, scan", .kind = CHILD_SHMEM, .n_threads = 2, .advice = MADV_REMOVE },
	{ .what = "shmem, wp",
	  .kind = CHILD_SHMEM,
	  .track = UFD_TRACK_WP,
	  .n_threads = 2,
	  .advice = MADV_REMOVE },
	{ .what = "shmem in the background, changed through its file, scan",
	  .kind = CHILD_SHMEM,
	  .n_threads = 2,
	  .advice = MADV_DONTNEED,
	  .has_background = true,
	  .has_foreign = true,
	  .is_brief = true },
	{ .what = "shmem in the background, changed through its file, wp",
	  .kind = CHILD_SHMEM,
	  .track = UFD_TRACK_WP,
	  .n_threads = 2,
	  .has_background = true,
	  .has_foreign = true,
	  .is_brief = true },
	{ .what = "shmem, copied from its file, scan",
	  .kind = CHILD_SHMEM,
	  .n_threads = 4,
	  .advice = MADV_REMOVE,
	  .has_background = true,
	  .is_from_file = true,
	  .is_brief = true },
	{ .what = "shmem, tracked when it has run, scan",
	  .kind = CHILD_SHMEM,
	  .n_threads = 2,
	  .advice = MADV_REMOVE,
	  .is_late = true,
	  .is_brief = true },
	{ .what = "shmem, tracked when it has run, wp",
	  .kind = CHILD_SHMEM,
	  .track = UFD_TRACK_WP,
	  .n_threads = 2,
	  .is_late = true,
	  .has_background = true,
	  .is_brief = true },
	{ .what = "shmem that comes and goes, scan",
	  .kind = CHILD_SHMEM,
	  .n_threads = 2,
	  .advice = MADV_REMOVE,
	  .is_split = true,
	  .is_brief = true },
	{ .what = "shmem that comes and goes, wp",
	  .kind = CHILD_SHMEM,
	  .track = UFD_TRACK_WP,
	  .n_threads = 1,
	  .is_split = true,
	  .is_brief = true },
	{ .what = "shmem of huge pages, scan",
	  .kind = CHILD_SHMEM,
	  .n_threads = 2,
	  .advice = MADV_REMOVE,
	  .is_populated = true },
	{ .what = "shmem of huge pages, wp",
	  .kind = CHILD_SHMEM,
	  .track = UFD_TRACK_WP,
	  .n_threads = 2,
	  .advice = MADV_REMOVE,
	  .is_populated = true },
	{ .what = "hugetlb, scan",
	  .kind = CHILD_HUGETLB,
	  .n_threads = 2,
	  .advice = MADV_REMOVE,
	  .has_foreign = true },
	{ .what = "hugetlb, wp",
	  .kind = CHILD_HUGETLB,
	  .track = UFD_TRACK_WP,
	  .n_threads = 2,
	  .advice = MADV_REMOVE },
	{ .what = "anonymous, scan", .kind = CHILD_ANON, .n_threads = 3, .advice = MADV_DONTNEED },
	{ .what = "anonymous, wp",
	  .kind = CHILD_ANON,
	  .track = UFD_TRACK_WP,
	  .n_threads = 2,
	  .advice = MADV_DONTNEED,
	  .has_background = true },
	{ .what = "anonymous that comes and goes, scan",
	  .kind = CHILD_ANON,
	  .n_threads = 2,
	  .advice = MADV_DONTNEED,
	  .is_split = true,
	  .has_background = true,
	  .is_brief = true },
	{ .what = "anonymous, of huge pages, scan",
	  .kind = CHILD_ANON,
	  .n_threads = 2,
	  .advice = MADV_DONTNEED,
	  .is_populated = true },
	{ .what = "anonymous, of huge pages, wp",
	  .kind = CHILD_ANON,
	  .track = UFD_TRACK_WP,
	  .n_threads = 2,
	  .is_populated = true },
	{ .what = "private and sealed, scan",
	  .kind = CHILD_PRIVATE,
	  .n_threads = 2,
	  .advice = MADV_DONTNEED,
	  .is_sealed = true },
	{ .what = "private and sealed, wp",
	  .kind = CHILD_PRIVATE,
	  .track = UFD_TRACK_WP,
	  .n_threads = 2,
	  .advice = MADV_DONTNEED,
	  .is_sealed = true,
	  .has_background = true },
};

START_TEST(every_page_that_was_written_is_told)
{
	const struct verify_row *row = &rows[_i];
	uint64_t n_rounds = verify_n_rounds();
	struct verdict verdict;

	if (row->kind == CHILD_HUGETLB && !hugepages_are_reserved())
		unit_skip("no huge pages of 2 MiB to be had");
	if (row->is_brief && n_rounds > 300)
		n_rounds /= 6;
	verify_run(row, n_rounds, (uint64_t)_i + 1, &verdict);
	if (verdict.refusal)
		unit_skip("%s", verdict.refusal);
	verdict_print(row, &verdict);
	ck_assert_msg(verdict_is_good(&verdict), "%s: see above", row->what);
}
END_TEST

int main(void)
{
	/* a row of 10,000 rounds takes longer than other tests may */
	if (getenv("UFD_TEST_LONG"))
		setenv("CK_TIMEOUT_MULTIPLIER", "20", 0);
	hugepages_reserve(8);
	return unit_run("dirty-verify",
			(struct unit_test[]){
				UNIT_TABLE(every_page_that_was_written_is_told, rows),
				{},
			});
}
