/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Moments at which a read and the engine's own thread meet, each brought about: functions are wrapped by the linker to
 * hold the one until the other has gone by.
 */
#include "system/test-dirty.h"

#include <semaphore.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <time.h>

#include "base/clock.h"
#include "guest/dirty-map.h"
#include "kernel/pagemap.h"
#include "kernel/uffd.h"

#define LAST   (DIRTY_PAGES - 1)
#define TARGET 3

static sem_t held, go;
static _Atomic bool must_hold_copy, must_hold_mark, lets_go_when_taken, lets_go_when_scanned;
/* what happens when the next scan is about to begin */
static void (*_Atomic before_scan)(void);
static struct dirty_fixture *scene;

static void wait_for(sem_t *semaphore)
{
	while (sem_wait(semaphore))
		;
}

int __real_uffd_copy(int fd, struct hva to, const void *from, uint64_t length, unsigned int flags,
		     uint64_t *done);
int __wrap_uffd_copy(int fd, struct hva to, const void *from, uint64_t length, unsigned int flags,
		     uint64_t *done);
int __wrap_uffd_copy(int fd, struct hva to, const void *from, uint64_t length, unsigned int flags,
		     uint64_t *done)
{
	int r = __real_uffd_copy(fd, to, from, length, flags, done);

	/* the guest goes on, and nobody has said yet that its page is there */
	if (atomic_exchange(&must_hold_copy, false))
		wait_for(&go);
	return r;
}

int __real_pagemap_scan(int fd, struct hva_range range, uint64_t categories, uint64_t flags,
			struct page_region *vector, uint64_t n_vector, uint64_t *ret_n,
			struct hva *ret_walk_end);
int __wrap_pagemap_scan(int fd, struct hva_range range, uint64_t categories, uint64_t flags,
			struct page_region *vector, uint64_t n_vector, uint64_t *ret_n,
			struct hva *ret_walk_end);
int __wrap_pagemap_scan(int fd, struct hva_range range, uint64_t categories, uint64_t flags,
			struct page_region *vector, uint64_t n_vector, uint64_t *ret_n,
			struct hva *ret_walk_end)
{
	void (*before)(void) = NULL;

	if (flags & PM_SCAN_WP_MATCHING)
		before = atomic_exchange(&before_scan, NULL);
	if (before)
		before();
	return __real_pagemap_scan(fd, range, categories, flags, vector, n_vector, ret_n,
				   ret_walk_end);
}

/* Page tables cannot be had at the end of a walk: what it met before is protected again, and told. */
static _Atomic bool must_fail_scan;

int __real_ioctl(int fd, unsigned long request, void *argument);
int __wrap_ioctl(int fd, unsigned long request, void *argument);
int __wrap_ioctl(int fd, unsigned long request, void *argument)
{
	int r = __real_ioctl(fd, request, argument);

	if (request != PAGEMAP_SCAN || r < 0 ||
	    !(((struct pm_scan_arg *)argument)->flags & PM_SCAN_WP_MATCHING) ||
	    !atomic_exchange(&must_fail_scan, false))
		return r;
	errno = ENOMEM;
	return -1;
}

/* The last step of a mapping's scan. */
int __real_uffd_is_gone(int fd, struct hva address, bool *ret_is_gone);
int __wrap_uffd_is_gone(int fd, struct hva address, bool *ret_is_gone);
int __wrap_uffd_is_gone(int fd, struct hva address, bool *ret_is_gone)
{
	if (atomic_exchange(&lets_go_when_scanned, false))
		sem_post(&go);
	return __real_uffd_is_gone(fd, address, ret_is_gone);
}

void __real_dirty_maps_mark(struct dirty_maps *maps, struct page_range pages);
void __wrap_dirty_maps_mark(struct dirty_maps *maps, struct page_range pages);
void __wrap_dirty_maps_mark(struct dirty_maps *maps, struct page_range pages)
{
	__real_dirty_maps_mark(maps, pages);
	if (atomic_exchange(&must_hold_mark, false)) {
		sem_post(&held);
		wait_for(&go);
	}
}

uint64_t __real_dirty_map_take(_Atomic uint64_t *from, _Atomic uint64_t *to, uint64_t n_pages,
			       bool is_replacing);
uint64_t __wrap_dirty_map_take(_Atomic uint64_t *from, _Atomic uint64_t *to, uint64_t n_pages,
			       bool is_replacing);
uint64_t __wrap_dirty_map_take(_Atomic uint64_t *from, _Atomic uint64_t *to, uint64_t n_pages,
			       bool is_replacing)
{
	uint64_t n = __real_dirty_map_take(from, to, n_pages, is_replacing);

	if (atomic_exchange(&lets_go_when_taken, false))
		sem_post(&go);
	return n;
}

static void set_scene(struct dirty_fixture *fixture)
{
	sem_init(&held, 0, 0);
	sem_init(&go, 0, 0);
	scene = fixture;
}

/* ---- a hole of a memory whose bytes are in its own file ---- */

static void touch_the_hole(void)
{
	atomic_store(&must_hold_copy, true);
	atomic_store(&lets_go_when_scanned, true);
	child_poke(&scene->child, TARGET, 1);
}

static bool is_told(struct dirty_fixture *fixture, uint64_t page)
{
	UFD_OPTS(ufd_dirty_epoch, epoch);
	uint64_t word = 0;

	dirty_read(fixture, "a", UFD_DIRTY_LAST, &epoch);
	ck_assert_int_eq(
		ufd_pager_guest_dirty_bitmap(fixture->guest, "a", fixture->memory, 0, &word, 1), 0);
	return word >> page & 1;
}

START_TEST(what_is_written_before_its_hole_is_known_to_be_filled_is_told)
{
	struct dirty_fixture fixture;
	struct ufd_source *source;

	if (dirty_rows[_i].track != UFD_TRACK_SCAN ||
	    (dirty_rows[_i].kind != CHILD_SHMEM && dirty_rows[_i].kind != CHILD_HUGETLB))
		return;
	dirty_prepare(&fixture, &dirty_rows[_i], DIRTY_PAGES);
	set_scene(&fixture);
	ck_assert_int_eq(ufd_pager_guest_remove_mapping(fixture.guest, fixture.mapper,
							fixture.child.address,
							fixture.child.length),
			 0);
	ck_assert_int_eq(ufd_source_open(&source, "backing", -1, NULL), 0);
	ufd_source_unref(fixture.source);
	fixture.source = source;
	fixture.memory = dirty_add(&fixture, "own", 0, DIRTY_PAGES);
	ck_assert_int_eq(ufd_pager_guest_start(fixture.guest), 0);
	child_poke(&fixture.child, 0, 1);
	child_poke(&fixture.child, LAST, 1); /* what lies between is looked at */
	dirty_start(&fixture, "a");
	child_poke(&fixture.child, 0, 2);
	atomic_store(&before_scan, touch_the_hole);
	ck_assert(is_told(&fixture, TARGET) || is_told(&fixture, TARGET));
	dirty_end(&fixture);
}
END_TEST

/* ---- a scan that fails ---- */

START_TEST(what_a_scan_met_before_it_failed_is_told)
{
	UFD_OPTS(ufd_dirty_epoch, epoch);
	struct dirty_fixture fixture;

	if (dirty_rows[_i].track != UFD_TRACK_SCAN)
		return;
	dirty_begin(&fixture, &dirty_rows[_i]);
	dirty_finish(&fixture);
	dirty_start(&fixture, "a");
	child_poke(&fixture.child, TARGET, 1);
	atomic_store(&must_fail_scan, true);
	ck_assert_int_eq(ufd_pager_guest_dirty_read(fixture.guest, "a", 0, &epoch), -ENOMEM);
	child_poke(&fixture.child, TARGET + 1, 1);
	dirty_expect(&fixture, "a", (uint64_t[]){ TARGET, TARGET + 1 }, 2);
	dirty_end(&fixture);
}
END_TEST

/* ---- discards of which the page is there still, as with MADV_DONTNEED of a shared mapping ---- */

static void discard_unmarked(void)
{
	atomic_store(&must_hold_mark, true);
	atomic_store(&lets_go_when_taken, true);
	child_begin_advise(&scene->child, TARGET, 1, MADV_DONTNEED);
	wait_for(&held);
}

START_TEST(a_discard_that_is_marked_while_the_maps_are_taken_is_told_again)
{
	struct dirty_fixture fixture;

	if (dirty_rows[_i].track != UFD_TRACK_SCAN || dirty_rows[_i].kind != CHILD_SHMEM)
		return;
	dirty_begin(&fixture, &dirty_rows[_i]);
	set_scene(&fixture);
	ck_assert_uint_eq(child_peek(&fixture.child, TARGET), child_word(TARGET, 0));
	dirty_start(&fixture, "a");
	atomic_store(&before_scan, discard_unmarked);
	ck_assert(is_told(&fixture, TARGET));
	ck_assert_uint_eq(child_result(&fixture.child), 0);
	ck_assert(is_told(&fixture, TARGET));
	dirty_end(&fixture);
}
END_TEST

START_TEST(what_was_known_of_discards_is_not_said_of_another_memory)
{
	struct dirty_fixture fixture;
	uint64_t half = DIRTY_PAGES / 2;
	uint32_t first, second;

	if (dirty_rows[_i].kind != CHILD_SHMEM && dirty_rows[_i].kind != CHILD_HUGETLB)
		return;
	dirty_prepare(&fixture, &dirty_rows[_i], DIRTY_PAGES);
	ck_assert_int_eq(ufd_pager_guest_remove_mapping(fixture.guest, fixture.mapper,
							fixture.child.address,
							fixture.child.length),
			 0);
	fixture.memory = dirty_add(&fixture, "low", 0, half);
	ck_assert_int_eq(ufd_pager_guest_start(fixture.guest), 0);
	first = dirty_add(&fixture, "high", half, half);
	dirty_start(&fixture, "a");
	ck_assert_uint_eq(child_peek(&fixture.child, half), child_word(half, 0));
	child_advise(&fixture.child, half, 1, MADV_REMOVE);
	dirty_expect_sum(&fixture, "a", 1);
	dirty_expect_sum(&fixture, "a", 0); /* it is gone: nothing is left to be seen */
	ck_assert_int_eq(ufd_pager_guest_remove_mapping(fixture.guest, fixture.mapper,
							fixture.child.address +
								half * fixture.child.page_bytes,
							half * fixture.child.page_bytes),
			 0);
	second = dirty_add(&fixture, "higher", half, half);
	ck_assert_uint_eq(second, first);
	ck_assert_uint_eq(child_peek(&fixture.child, half), child_word(half, 0));
	child_advise(&fixture.child, half, 1, MADV_DONTNEED);
	dirty_expect_sum(&fixture, "a", 1);
	dirty_expect_sum(&fixture, "a", 1); /* it is there still */
	dirty_end(&fixture);
}
END_TEST

/* ---- one guest's read, another one's faults ---- */

static struct paged_child other;

/* Somebody writes into its file before we do, and the engine's bulk thread is asked who. */
static void fault_of_another(void)
{
	const uint64_t until_ns = clock_now_ns() +
				  2500 * NSEC_PER_MSEC; /* it looks around each second */
	const struct timespec between = { .tv_nsec = 20 * NSEC_PER_MSEC };
	const char byte = 1;

	/* one of its own guest, too, which has to wait */
	ck_assert_int_eq(pwrite(scene->child.memfd, &byte, 1, TARGET * 4096), 1);
	child_begin_poke(&scene->child, TARGET, 7);
	for (uint64_t page = 0; clock_now_ns() < until_ns; page++) {
		ck_assert_uint_lt(page, other.length / 4096);
		ck_assert_int_eq(pwrite(other.memfd, &byte, 1, (off_t)page * 4096), 1);
		child_begin_poke(&other, page, 7);
		ck_assert_msg(child_has_result(&other, 10000),
			      "a fault waits for the read of another guest");
		(void)child_result(&other);
		nanosleep(&between, NULL);
	}
}

START_TEST(a_fault_does_not_wait_for_the_read_of_another_guest)
{
	UFD_OPTS(ufd_pager_guest_opts, opts, .no_background = 1, .window_bytes = UFD_NO_WINDOW);
	UFD_OPTS(ufd_pager_memory_opts, memory, .name = "ram", .kind = UFD_MEMORY_SHMEM,
		 .length = MIB);
	UFD_OPTS(ufd_dirty_epoch, epoch);
	struct ufd_pager_guest *guest;
	struct dirty_fixture fixture;
	struct ufd_source *zero;
	uint32_t mapper;

	dirty_begin(&fixture, &dirty_rows[0]);
	ck_assert_int_eq(child_start(&other, CHILD_SHMEM, memory.length), 0);
	ck_assert_int_eq(ufd_source_open(&zero, "zero", -1, NULL), 0);
	memory.source = zero;
	memory.backing = other.memfd;
	ck_assert_int_eq(ufd_pager_guest_new(fixture.pager, &guest, "other", &opts), 0);
	ck_assert_int_eq(ufd_pager_guest_add_mapper(guest, other.uffd, other.pidfd, -1, &mapper),
			 0);
	ck_assert_int_eq(ufd_pager_guest_add_memory(guest, &memory, &fixture.memory), 0);
	ck_assert_int_eq(ufd_pager_guest_add_mapping(guest, mapper, fixture.memory, other.address,
						     other.length, 0, NULL),
			 0);
	ck_assert_int_eq(ufd_pager_guest_start(guest), 0);

	set_scene(&fixture);
	child_poke(&fixture.child, 1, 1); /* or nothing is scanned */
	dirty_start(&fixture, "a");
	atomic_store(&before_scan, fault_of_another);
	dirty_read(&fixture, "a", 0, &epoch);
	ck_assert_ptr_null(atomic_load(&before_scan));
	ck_assert(child_has_result(&fixture.child, 10000));
	(void)child_result(&fixture.child);
	ck_assert_uint_eq(child_peek(&fixture.child, TARGET), 7);
	dirty_end(&fixture);
	ufd_source_unref(zero);
	child_stop(&other);
}
END_TEST

int main(void)
{
	hugepages_reserve(2 * DIRTY_PAGES);
	return unit_run(
		"dirty-races",
		(struct unit_test[]){
			UNIT_TABLE(what_is_written_before_its_hole_is_known_to_be_filled_is_told,
				   dirty_rows),
			UNIT_TABLE(what_a_scan_met_before_it_failed_is_told, dirty_rows),
			UNIT_TABLE(a_discard_that_is_marked_while_the_maps_are_taken_is_told_again,
				   dirty_rows),
			UNIT_TABLE(what_was_known_of_discards_is_not_said_of_another_memory,
				   dirty_rows),
			UNIT(a_fault_does_not_wait_for_the_read_of_another_guest),
			{},
		});
}
