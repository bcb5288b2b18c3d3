/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Tracking of a memory whose bytes are in its own file: pages that nobody has touched yet have content, too. */
#include "system/test-dirty.h"

#include <sys/mman.h>

#define FIRST  2
#define HOLE   5
#define TARGET 7

/* All pages but one are in the file, and nobody has touched any. */
static void begin_own(struct dirty_fixture *fixture, const struct dirty_row *row)
{
	struct ufd_source *source;
	char *bytes;

	dirty_prepare(fixture, row, DIRTY_PAGES);
	bytes = mmap(NULL, fixture->child.length, PROT_READ | PROT_WRITE, MAP_SHARED,
		     fixture->child.memfd, 0);
	ck_assert_ptr_ne(bytes, MAP_FAILED);
	for (uint64_t page = 0; page < DIRTY_PAGES; page++)
		if (page != HOLE)
			bytes[page * fixture->child.page_bytes] = 'o';
	munmap(bytes, fixture->child.length);
	ck_assert_int_eq(ufd_pager_guest_remove_mapping(fixture->guest, fixture->mapper,
							fixture->child.address,
							fixture->child.length),
			 0);
	ck_assert_int_eq(ufd_source_open(&source, "backing", -1, NULL), 0);
	ufd_source_unref(fixture->source);
	fixture->source = source;
	fixture->memory = dirty_add(fixture, "own", 0, DIRTY_PAGES);
	ck_assert_int_eq(ufd_pager_guest_start(fixture->guest), 0);
	child_poke(&fixture->child, FIRST, 1);
	dirty_start(fixture, "a");
}

static bool has_own_file(const struct dirty_row *row)
{
	return row->kind == CHILD_SHMEM || row->kind == CHILD_HUGETLB;
}

static void punch(const struct dirty_fixture *fixture, uint64_t page)
{
	ck_assert_int_eq(fallocate(fixture->child.memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				   (off_t)(page * fixture->child.page_bytes),
				   (off_t)fixture->child.page_bytes),
			 0);
}

START_TEST(a_hole_that_is_punched_into_an_untouched_page_is_told)
{
	struct dirty_fixture fixture;

	if (!has_own_file(&dirty_rows[_i]))
		return;
	begin_own(&fixture, &dirty_rows[_i]);
	dirty_expect(&fixture, "a", (uint64_t[]){}, 0);
	punch(&fixture, TARGET);
	dirty_expect(&fixture, "a", (uint64_t[]){ TARGET }, 1);
	dirty_expect(&fixture, "a", (uint64_t[]){}, 0);
	ck_assert_uint_eq(child_peek(&fixture.child, TARGET), 0);
	dirty_end(&fixture);
}
END_TEST

START_TEST(untouched_pages_are_told_if_the_file_is_written)
{
	struct dirty_fixture fixture;

	if (dirty_rows[_i].kind != CHILD_SHMEM)
		return;
	begin_own(&fixture, &dirty_rows[_i]);
	dirty_expect(&fixture, "a", (uint64_t[]){}, 0);
	ck_assert_int_eq(pwrite(fixture.child.memfd, "text", 4, TARGET * 4096), 4);
	dirty_expect_sum(&fixture, "a", DIRTY_PAGES);
	dirty_expect(&fixture, "a", (uint64_t[]){}, 0);
	dirty_end(&fixture);
}
END_TEST

int main(void)
{
	hugepages_reserve(2 * DIRTY_PAGES);
	return unit_run(
		"dirty-backing",
		(struct unit_test[]){
			UNIT_TABLE(a_hole_that_is_punched_into_an_untouched_page_is_told,
				   dirty_rows),
			UNIT_TABLE(untouched_pages_are_told_if_the_file_is_written, dirty_rows),
			{},
		});
}
