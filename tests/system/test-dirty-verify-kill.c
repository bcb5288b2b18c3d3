/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Dirty tracking loses nothing when the engine is killed and adopted: at random moments and at random calls of
 * the kernel and stores into the ledger, also inside a read, a start and an adoption.
 */
#include <stdlib.h>
#include <sys/mman.h>

#include "base/units.h"
#include "guest/dirty-map.h"
#include "guest/ledger.h"
#include "guest/page-state.h"
#include "kernel/pagemap.h"
#include "kernel/uffd.h"
#include "support/dirty-verify.h"
#include "support/hugepages.h"
#include "support/mortal-pager.h"
#include "support/unit.h"

/* ---- where it may end ---- */

FATE_WRAP(int, pagemap_scan,
	  (int fd, struct hva_range range, uint64_t categories, uint64_t flags,
	   struct page_region *vector, uint64_t n_vector, uint64_t *ret_n,
	   struct hva *ret_walk_end),
	  (fd, range, categories, flags, vector, n_vector, ret_n, ret_walk_end))
FATE_WRAP(int, uffd_write_protect, (int fd, struct hva_range range, bool protect),
	  (fd, range, protect))
FATE_WRAP(int, uffd_copy,
	  (int fd, struct hva to, const void *from, uint64_t length, unsigned int flags,
	   uint64_t *done),
	  (fd, to, from, length, flags, done))
FATE_WRAP(int, uffd_read,
	  (int fd, struct uffd_msg *buffer, unsigned int n_buffer, unsigned int *ret_n),
	  (fd, buffer, n_buffer, ret_n))
FATE_WRAP(int, uffd_register,
	  (int fd, struct hva_range range, unsigned int modes, uint64_t *ioctls),
	  (fd, range, modes, ioctls))
FATE_WRAP(bool, page_states_move,
	  (struct page_states * states, uint64_t page, enum page_state from, enum page_state to),
	  (states, page, from, to))
FATE_WRAP_VOID(dirty_map_move, (_Atomic uint64_t *from, _Atomic uint64_t *to, uint64_t n_pages),
	       (from, to, n_pages))
FATE_WRAP(uint64_t, dirty_map_take,
	  (_Atomic uint64_t *from, _Atomic uint64_t *to, uint64_t n_pages, bool is_replacing),
	  (from, to, n_pages, is_replacing))
FATE_WRAP(int, ledger_put_record,
	  (struct ledger * ledger, uint32_t tag, uint32_t id, const void *data, size_t n_bytes),
	  (ledger, tag, id, data, n_bytes))

/* ---- */

static const struct verify_row rows[] = {
	{ .what = "shmem, scan",
	  .kind = CHILD_SHMEM,
	  .n_threads = 2,
	  .advice = MADV_REMOVE,
	  .kill_each = 2 },
	{ .what = "shmem, wp",
	  .kind = CHILD_SHMEM,
	  .track = UFD_TRACK_WP,
	  .n_threads = 2,
	  .advice = MADV_REMOVE,
	  .kill_each = 2 },
	{ .what = "shmem in the background, changed through its file, scan",
	  .kind = CHILD_SHMEM,
	  .n_threads = 2,
	  .advice = MADV_REMOVE,
	  .has_background = true,
	  .has_foreign = true,
	  .kill_each = 2 },
	{ .what = "shmem that comes and goes, scan",
	  .kind = CHILD_SHMEM,
	  .n_threads = 2,
	  .is_split = true,
	  .kill_each = 2 },
	{ .what = "shmem that comes and goes, wp",
	  .kind = CHILD_SHMEM,
	  .track = UFD_TRACK_WP,
	  .n_threads = 2,
	  .is_split = true,
	  .kill_each = 2 },
	{ .what = "shmem, tracked when it has run, scan",
	  .kind = CHILD_SHMEM,
	  .n_threads = 2,
	  .is_late = true,
	  .has_background = true,
	  .kill_each = 2 },
	{ .what = "hugetlb, scan",
	  .kind = CHILD_HUGETLB,
	  .n_threads = 2,
	  .advice = MADV_REMOVE,
	  .kill_each = 2 },
	{ .what = "hugetlb, wp",
	  .kind = CHILD_HUGETLB,
	  .track = UFD_TRACK_WP,
	  .n_threads = 2,
	  .kill_each = 2 },
	{ .what = "anonymous, scan",
	  .kind = CHILD_ANON,
	  .n_threads = 2,
	  .advice = MADV_DONTNEED,
	  .has_background = true,
	  .kill_each = 2 },
	{ .what = "anonymous, wp",
	  .kind = CHILD_ANON,
	  .track = UFD_TRACK_WP,
	  .n_threads = 2,
	  .advice = MADV_DONTNEED,
	  .kill_each = 2 },
	{ .what = "anonymous, of huge pages, scan",
	  .kind = CHILD_ANON,
	  .n_threads = 2,
	  .advice = MADV_DONTNEED,
	  .is_populated = true,
	  .kill_each = 2 },
	{ .what = "private and sealed, scan",
	  .kind = CHILD_PRIVATE,
	  .n_threads = 2,
	  .advice = MADV_DONTNEED,
	  .is_sealed = true,
	  .kill_each = 2 },
};

START_TEST(no_kill_loses_a_page)
{
	const struct verify_row *row = &rows[_i];
	struct verdict verdict;

	if (row->kind == CHILD_HUGETLB && !hugepages_are_reserved())
		unit_skip("no huge pages of 2 MiB to be had");
	verify_run(row, verify_n_rounds() / 5, (uint64_t)_i + 100, &verdict);
	if (verdict.refusal)
		unit_skip("%s", verdict.refusal);
	verdict_print(row, &verdict);
	ck_assert_msg(verdict_is_good(&verdict), "%s: see above", row->what);
	ck_assert_uint_ge(verdict.n_kills, verdict.n_rounds / 16);
}
END_TEST

int main(void)
{
	if (getenv("UFD_TEST_LONG"))
		setenv("CK_TIMEOUT_MULTIPLIER", "20", 0);
	hugepages_reserve(8);
	return unit_run("dirty-verify-kill", (struct unit_test[]){
						     UNIT_TABLE(no_kill_loses_a_page, rows),
						     {},
					     });
}
