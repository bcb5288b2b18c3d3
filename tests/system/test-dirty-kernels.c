/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Tracking on kernels that can do less, as far as this one can be made to look like them. */
#include "system/test-dirty.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/unit.h"

static const struct {
	const char *what;
	uint64_t hidden; /* features that this kernel does not have */
	uint32_t track, child;
	const char *refusal; /* NULL: it works */
} kernels[] = {
	{ "all of them", 0, UFD_TRACK_SCAN, UFD_TRACK_SCAN, NULL },
	{ "no WP_ASYNC, and scan is wanted", UFFD_FEATURE_WP_ASYNC, UFD_TRACK_SCAN, UFD_TRACK_SCAN,
	  "Linux 6.7" },
	{ "no WP_ASYNC, and wp is wanted", UFFD_FEATURE_WP_ASYNC, UFD_TRACK_WP, UFD_TRACK_WP,
	  NULL },
	{ "no WP_ASYNC and no WP_UNPOPULATED (Linux 6.1)",
	  UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED, UFD_TRACK_WP, UFD_TRACK_WP, NULL },
	{ "no write-protection of shared memory", UFFD_FEATURE_WP_HUGETLBFS_SHMEM, UFD_TRACK_SCAN,
	  UFD_TRACK_SCAN, "shared memory" },
	{ "no write-protection", UFFD_FEATURE_PAGEFAULT_FLAG_WP, UFD_TRACK_WP, UFD_TRACK_WP,
	  "write-protect pages" },
	{ "made for wp, attached with scan", 0, UFD_TRACK_SCAN, UFD_TRACK_WP,
	  "made for the tracker wp" },
	{ "made for scan, attached with wp", 0, UFD_TRACK_WP, UFD_TRACK_SCAN,
	  "made for the tracker scan" },
};

START_TEST(what_a_kernel_cannot_do_is_refused_by_name)
{
	const struct dirty_row row = { kernels[_i].what, CHILD_SHMEM, kernels[_i].track };
	struct dirty_fixture fixture;
	char mask[32];

	snprintf(mask, sizeof(mask), "%llx", (unsigned long long)~kernels[_i].hidden);
	ck_assert_int_eq(setenv("UFD_FEATURES_MASK", mask, 1), 0);
	dirty_prepare_child(&fixture, &row, DIRTY_PAGES, kernels[_i].child == UFD_TRACK_WP);
	ck_assert_int_eq(ufd_pager_guest_start(fixture.guest), 0);
	ck_assert_uint_eq(child_peek(&fixture.child, 1), child_word(1, 0));
	if (kernels[_i].refusal) {
		ck_assert_int_eq(ufd_pager_guest_dirty_start(fixture.guest, "a"), -EOPNOTSUPP);
		ck_assert_msg(strstr(ufd_pager_guest_dirty_refusal(fixture.guest),
				     kernels[_i].refusal) != NULL,
			      "%s: %s", kernels[_i].what,
			      ufd_pager_guest_dirty_refusal(fixture.guest));
	} else {
		dirty_start(&fixture, "a");
		child_poke(&fixture.child, 1, 1);
		ck_assert_uint_eq(child_peek(&fixture.child, 2), child_word(2, 0));
		dirty_expect(&fixture, "a", (uint64_t[]){ 1 }, 1);
	}
	child_poke(&fixture.child, 1, 2);
	dirty_end(&fixture);
}
END_TEST

/* One epoch more: is @page told? */
static bool is_told(struct dirty_fixture *fixture, uint64_t page)
{
	UFD_OPTS(ufd_dirty_epoch, epoch);
	uint64_t word = 0;

	dirty_read(fixture, "a", UFD_DIRTY_LAST, &epoch);
	ck_assert_int_eq(
		ufd_pager_guest_dirty_bitmap(fixture->guest, "a", fixture->memory, 0, &word, 1), 0);
	return word >> page & 1;
}

/*
 * What is read through one mapping, and exists by another, is mapped by CONTINUE, and may be written at
 * once. More may be told than was written.
 */
START_TEST(what_cannot_be_mapped_protected_is_told)
{
	const struct dirty_row row = { "as Linux 6.1", CHILD_SHMEM, UFD_TRACK_WP };
	struct dirty_fixture fixture;
	uint64_t again, n;

	ck_assert_int_eq(setenv("UFD_FEATURES_MASK", "1fff", 1), 0);
	dirty_begin(&fixture, &row);
	again = child_map_again(&fixture.child);
	ck_assert_int_eq(ufd_pager_guest_add_mapping(fixture.guest, fixture.mapper, fixture.memory,
						     again, fixture.child.length, 0, NULL),
			 0);
	n = (again - fixture.child.address) / fixture.child.page_bytes;
	ck_assert_uint_eq(child_peek(&fixture.child, 0), child_word(0, 0));
	dirty_start(&fixture, "a");
	for (uint64_t page = 0; page < 8; page++) {
		ck_assert_uint_eq(child_peek(&fixture.child, page), child_word(page, 0));
		ck_assert_uint_eq(child_peek(&fixture.child, n + page), child_word(page, 0));
		child_poke(&fixture.child, n + page, 1);
		ck_assert(is_told(&fixture, page));
		/* and protected after that */
		child_poke(&fixture.child, n + page, 2);
		ck_assert(is_told(&fixture, page));
		child_poke(&fixture.child, page, 3);
		ck_assert(is_told(&fixture, page));
	}
	dirty_finish(&fixture);
	ck_assert_uint_eq(child_peek(&fixture.child, n + 9), child_word(9, 0));
	child_poke(&fixture.child, n + 9, 1);
	ck_assert(is_told(&fixture, 9));
	dirty_end(&fixture);
}
END_TEST

int main(void)
{
	return unit_run("dirty-kernels",
			(struct unit_test[]){
				UNIT_TABLE(what_a_kernel_cannot_do_is_refused_by_name, kernels),
				UNIT(what_cannot_be_mapped_protected_is_told),
				{},
			});
}
