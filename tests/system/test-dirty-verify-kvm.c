/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Dirty tracking tells every page that a guest of KVM wrote: its memory is lazily restored meanwhile. */
#include <stdlib.h>

#include "support/dirty-verify.h"
#include "support/unit.h"

static const struct verify_row rows[] = {
	{ .what = "KVM on shmem, scan", .kind = CHILD_SHMEM, .n_threads = 2, .is_kvm = true },
	{ .what = "KVM on shmem, wp",
	  .kind = CHILD_SHMEM,
	  .track = UFD_TRACK_WP,
	  .n_threads = 1,
	  .is_kvm = true,
	  .has_background = true },
	{ .what = "KVM on anonymous memory, scan",
	  .kind = CHILD_ANON,
	  .n_threads = 2,
	  .is_kvm = true,
	  .has_background = true },
	{ .what = "KVM on huge pages, scan",
	  .kind = CHILD_ANON,
	  .n_threads = 2,
	  .is_kvm = true,
	  .is_populated = true },
};

START_TEST(every_page_that_a_vcpu_wrote_is_told)
{
	const struct verify_row *row = &rows[_i];
	struct verdict verdict;

#ifdef __SANITIZE_THREAD__
	unit_skip("ThreadSanitizer does not see that a vCPU stands still");
#endif
	verify_run(row, verify_n_rounds() / 3, (uint64_t)_i + 200, &verdict);
	if (verdict.refusal)
		unit_skip("%s", verdict.refusal);
	verdict_print(row, &verdict);
	ck_assert_msg(verdict_is_good(&verdict), "%s: see above", row->what);
}
END_TEST

int main(void)
{
	if (getenv("UFD_TEST_LONG"))
		setenv("CK_TIMEOUT_MULTIPLIER", "40", 0);
	return unit_run("dirty-verify-kvm",
			(struct unit_test[]){
				UNIT_TABLE(every_page_that_a_vcpu_wrote_is_told, rows),
				{},
			});
}
