/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Tracking on the real kernel: every backing, both trackers, every moment at which it may begin. */
#include "system/test-dirty.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/units.h"
#include "support/hugepages.h"
#include "support/unit.h"

/* ---- what is written is reported, once ---- */

START_TEST(what_was_written_since_the_epoch_before_is_reported)
{
	struct dirty_fixture fixture;

	dirty_begin(&fixture, &dirty_rows[_i]);
	dirty_finish(&fixture);
	dirty_start(&fixture, "a");
	dirty_expect(&fixture, "a", (uint64_t[]){}, 0);
	child_poke(&fixture.child, 0, 1);
	child_poke(&fixture.child, 5, 1);
	child_poke(&fixture.child, 5, 2);
	child_poke(&fixture.child, DIRTY_PAGES - 1, 1);
	ck_assert_uint_eq(child_peek(&fixture.child, 3), child_word(3, 0));
	dirty_expect(&fixture, "a", (uint64_t[]){ 0, 5, DIRTY_PAGES - 1 }, 3);
	dirty_expect(&fixture, "a", (uint64_t[]){}, 0);
	child_poke(&fixture.child, 5, 3); /* written again: reported again */
	dirty_expect(&fixture, "a", (uint64_t[]){ 5 }, 1);
	dirty_stop(&fixture, "a");
	ck_assert_int_eq(ufd_pager_guest_dirty_stop(fixture.guest, "a"), -ENOENT);
	child_poke(&fixture.child, 6, 3); /* and nobody waits for anything */
	dirty_end(&fixture);
}
END_TEST

int main(void)
{
	hugepages_reserve(2 * DIRTY_PAGES);
	return unit_run(
		"dirty",
		(struct unit_test[]){
			UNIT_TABLE(what_was_written_since_the_epoch_before_is_reported, dirty_rows),
			{},
		});
}
