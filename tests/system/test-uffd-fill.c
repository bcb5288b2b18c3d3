/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Every outcome of every fill, in another process's memory of every kind. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/uio.h>

#include "base/clock.h"
#include "kernel/backing.h"
#include "kernel/features.h"
#include "kernel/uapi.h"
#include "kernel/uffd.h"
#include "support/hugepages.h"
#include "support/target.h"
#include "support/unit.h"

enum fill { COPY, ZERO, CONTINUE };

enum { N_PAGES = 6 };

static unsigned char bytes[N_PAGES * HUGE_BYTES]; /* untouched beyond what a test uses */

static const struct {
	const char *what;
	enum target_memory memory;
	enum fill fill;
} fills[] = {
	{ "copy anon", TARGET_ANON, COPY },
	{ "copy shmem", TARGET_SHMEM, COPY },
	{ "copy hugetlb", TARGET_HUGETLB, COPY },
	{ "copy private file", TARGET_PRIVATE, COPY },
	{ "zero anon", TARGET_ANON, ZERO },
	{ "zero shmem", TARGET_SHMEM, ZERO },
	{ "zero private file", TARGET_PRIVATE, ZERO },
	{ "continue shmem", TARGET_SHMEM, CONTINUE },
	{ "continue hugetlb", TARGET_HUGETLB, CONTINUE },
	{ "continue private file", TARGET_PRIVATE, CONTINUE },
};

/* Rows of it: those with a file, those by CONTINUE, those that can protect, one of each memory. */
static const int on_files[] = { 1, 2, 3, 5, 6, 7, 8, 9 };
static const int by_continue[] = { 7, 8, 9 };
static const int protecting[] = { 0, 1, 2, 3, 7, 8, 9 };
static const int by_memory[] = { 0, 1, 2, 3 };

/* The first byte of page @index that a fill of any kind should show. */
static unsigned char expected_byte(enum fill fill, uint64_t index)
{
	return fill == ZERO ? 0 : (unsigned char)(0x41 + index);
}

/* Pages of the file that CONTINUE is to map. */
static void write_pages(const struct target *target, uint64_t first, uint64_t n_pages)
{
	for (uint64_t i = first; i < first + n_pages; i++)
		ck_assert_int_eq(backing_write(target->memfd, i * target->page_bytes,
					       bytes + i * target->page_bytes, target->page_bytes),
				 0);
}

static void start(struct target *target, int row)
{
	target_start(target, fills[row].memory, N_PAGES, 0);
	target_register(target);
	for (uint64_t i = 0; i < N_PAGES; i++)
		bytes[i * target->page_bytes] = expected_byte(COPY, i);
}

static int fill(const struct target *target, enum fill kind, uint64_t first, uint64_t n_pages,
		unsigned int flags, uint64_t *ret_done_pages)
{
	struct hva_range range = target_pages(target, first, n_pages);
	uint64_t done_bytes = UINT64_MAX;
	int r;

	if (kind == COPY)
		r = uffd_copy(target->uffd, range.start, bytes + first * target->page_bytes,
			      range.length_bytes, flags, &done_bytes);
	else if (kind == ZERO)
		r = uffd_zeropage(target->uffd, range, flags, &done_bytes);
	else
		r = uffd_continue(target->uffd, range, flags, &done_bytes);
	*ret_done_pages = done_bytes / target->page_bytes;
	return r;
}

START_TEST(absent_pages_are_filled_and_show_their_bytes)
{
	_cleanup_(target_done) struct target target;
	uint64_t done;

	start(&target, _i);
	if (fills[_i].fill == CONTINUE)
		write_pages(&target, 0, 3);
	ck_assert_int_eq(fill(&target, fills[_i].fill, 0, 3, 0, &done), 0);
	ck_assert_uint_eq(done, 3);
	for (uint64_t i = 0; i < 3; i++)
		ck_assert_uint_eq(target_do(&target, target_load, target_page(&target, i), 0),
				  expected_byte(fills[_i].fill, i));
}
END_TEST

START_TEST(a_present_page_stops_a_fill_after_those_before_it)
{
	_cleanup_(target_done) struct target target;
	enum fill kind = fills[_i].fill;
	uint64_t done;

	start(&target, _i);
	if (kind == CONTINUE)
		write_pages(&target, 0, 4);
	ck_assert_int_eq(fill(&target, kind, 2, 1, 0, &done), 0);
	ck_assert_int_eq(fill(&target, kind, 2, 1, 0, &done), UFFD_PRESENT);
	ck_assert_uint_eq(done, 0);

	ck_assert_int_eq(fill(&target, kind, 0, 4, 0, &done), UFFD_PRESENT);
	ck_assert_uint_eq(done, 2);
	ck_assert_int_eq(fill(&target, kind, 3, 1, 0, &done), 0);
}
END_TEST

START_TEST(a_present_page_keeps_its_bytes)
{
	_cleanup_(target_done) struct target target;
	uint64_t done;

	start(&target, _i);
	if (fills[_i].fill == CONTINUE)
		write_pages(&target, 1, 1);
	ck_assert_int_eq(fill(&target, fills[_i].fill, 1, 1, 0, &done), 0);
	target_do(&target, target_store, target_page(&target, 1), 0x99);
	bytes[target.page_bytes] = 0x11;
	ck_assert_int_eq(fill(&target, COPY, 1, 1, 0, &done), UFFD_PRESENT);
	ck_assert_uint_eq(target_do(&target, target_load, target_page(&target, 1), 0), 0x99);
}
END_TEST

START_TEST(what_is_unmapped_or_in_two_mappings_is_left_alone)
{
	_cleanup_(target_done) struct target target;
	enum fill kind = fills[_i].fill;
	uint64_t done;

	start(&target, _i);
	if (kind == CONTINUE)
		write_pages(&target, 0, 6);
	ck_assert_uint_eq(
		target_do(&target, target_unmap, target_page(&target, 2), target.page_bytes), 0);
	ck_assert_int_eq(fill(&target, kind, 2, 1, 0, &done), UFFD_UNMAPPED);
	ck_assert_int_eq(fill(&target, kind, 1, 2, 0, &done), UFFD_UNMAPPED);
	ck_assert_uint_eq(done, 0);
	ck_assert_int_eq(fill(&target, kind, 1, 1, 0, &done), 0);

	ck_assert_int_eq(uffd_unregister(target.uffd, target_pages(&target, 4, 2)), 0);
	ck_assert_int_eq(fill(&target, kind, 4, 1, 0, &done), UFFD_UNMAPPED);
}
END_TEST

START_TEST(the_end_of_the_file_stops_a_fill)
{
	int row = on_files[_i];
	_cleanup_(target_done) struct target target;
	enum fill kind = fills[row].fill;
	uint64_t done;
	int r;

	start(&target, row);
	ck_assert_int_eq(ftruncate(target.memfd, (off_t)(2 * target.page_bytes)), 0);
	if (kind == CONTINUE)
		write_pages(&target, 0, 2);
	r = fill(&target, kind, 0, 4, 0, &done);
	/* CONTINUE tells the end from a hole on shmem of newer kernels only. */
	ck_assert(r == UFFD_PAST_END || (kind == CONTINUE && r == UFFD_NO_PAGE));
	ck_assert_uint_eq(done, 2);
	ck_assert_int_eq(fill(&target, kind, 3, 1, 0, &done), r);
	ck_assert_uint_eq(done, 0);
}
END_TEST

START_TEST(continue_stops_at_a_hole_after_the_pages_before_it)
{
	int row = by_continue[_i];
	_cleanup_(target_done) struct target target;
	bool has_page = true;
	uint64_t done;

	start(&target, row);
	ck_assert_int_eq(fill(&target, CONTINUE, 0, 1, 0, &done), UFFD_NO_PAGE);
	write_pages(&target, 0, 2);
	ck_assert_int_eq(fill(&target, CONTINUE, 0, 4, 0, &done), UFFD_NO_PAGE);
	ck_assert_uint_eq(done, 2);
	ck_assert_int_eq(backing_has_page(target.memfd, 2 * target.page_bytes, &has_page), 0);
	ck_assert(!has_page);
}
END_TEST

START_TEST(a_page_filled_protected_tells_its_first_store)
{
	int row = protecting[_i];
	_cleanup_(target_done) struct target target;
	struct uffd_msg message;
	unsigned int n = 0;
	uint64_t done;

	if (fills[row].fill == CONTINUE && !features_get()->has_continue_wp)
		unit_skip("needs a CONTINUE that protects (Linux 6.4)");
	start(&target, row);
	if (fills[row].fill == CONTINUE)
		write_pages(&target, 0, 1);
	ck_assert_int_eq(fill(&target, fills[row].fill, 0, 1, UFFD_FILL_WP, &done), 0);
	ck_assert_uint_eq(target_do(&target, target_load, target_page(&target, 0), 0), 0x41);

	target_ask(&target, target_store, target_page(&target, 0), 0x55);
	target_await_faults(&target, 1);
	ck_assert_int_eq(uffd_read(target.uffd, &message, 1, &n), 0);
	ck_assert_uint_eq(n, 1);
	ck_assert(message.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP);
	ck_assert_int_eq(uffd_write_protect(target.uffd, target_pages(&target, 0, 1), false), 0);
	target_answer(&target);
	ck_assert_uint_eq(target_do(&target, target_load, target_page(&target, 0), 0), 0x55);
}
END_TEST

START_TEST(wrong_arguments_are_errors_and_no_outcomes)
{
	int row = by_memory[_i];
	_cleanup_(target_done) struct target target;
	struct hva_range odd;
	uint64_t done = 5;

	start(&target, row);
	odd = (struct hva_range){ { target.memory.start.v + 1 }, target.page_bytes };
	ck_assert_int_eq(uffd_copy(target.uffd, odd.start, bytes, odd.length_bytes, 0, &done),
			 -EINVAL);
	ck_assert_uint_eq(done, 0);
	ck_assert_int_eq(uffd_zeropage(target.uffd, odd, 0, &done), -EINVAL);
	ck_assert_int_eq(uffd_continue(target.uffd, odd, 0, &done), -EINVAL);
	if (target.kind == TARGET_HUGETLB)
		ck_assert_int_eq(uffd_zeropage(target.uffd, target_pages(&target, 0, 1), 0, &done),
				 -EINVAL);
	ck_assert_int_eq(uffd_copy(99, target.memory.start, bytes, 4096, 0, &done), -EBADF);
}
END_TEST

/* Read one byte of the target from outside: what a kernel access finds. */
static int peek(const struct target *target, uint64_t index)
{
	unsigned char byte;
	struct iovec to = { &byte, 1 };
	struct iovec from = { (void *)target_page(target, index).v, 1 };

	return process_vm_readv(target->pid, &to, 1, &from, 1, 0) < 0 ? -errno : byte;
}

START_TEST(a_poisoned_page_fails_every_access_until_it_is_copied)
{
	int row = by_memory[_i];
	_cleanup_(target_done) struct target target;
	uint64_t done;

	if (!(features_get()->uffd & UFFD_FEATURE_POISON))
		unit_skip("needs Linux 6.6");
	start(&target, row);
	ck_assert_int_eq(fill(&target, COPY, 2, 1, 0, &done), 0);
	ck_assert_int_eq(uffd_poison(target.uffd, target_pages(&target, 0, 4), &done),
			 UFFD_PRESENT);
	ck_assert_uint_eq(done, 2 * target.page_bytes);
	ck_assert_int_eq(peek(&target, 0), -EFAULT);
	ck_assert_int_eq(fill(&target, COPY, 0, 1, 0, &done), 0);
	ck_assert_int_eq(peek(&target, 0), 0x41);

	if (target.memfd >= 0 && target.kind != TARGET_HUGETLB) { /* which lets it pass */
		ck_assert_int_eq(ftruncate(target.memfd, (off_t)(4 * target.page_bytes)), 0);
		ck_assert_int_eq(uffd_poison(target.uffd, target_pages(&target, 4, 1), &done),
				 UFFD_PAST_END);
	}
}
END_TEST

/* A file system of our own with room for @room_bytes; a file of twice that, mapped and registered.
 */
static void *map_scarce_memory(const char *type, uint64_t room_bytes, int *ret_file, int *ret_uffd)
{
	char options[64];
	struct hva_range range = { .length_bytes = 2 * room_bytes };
	void *memory;

	if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		unit_skip("no mount namespace: %s", strerror(errno));
	snprintf(options, sizeof(options), "size=%llu", (unsigned long long)room_bytes);
	if (mount("scarce", "/mnt", type, 0, options) < 0)
		unit_skip("mount %s: %s", type, strerror(errno));
	*ret_file = open("/mnt/file", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	ck_assert_int_ge(*ret_file, 0);
	ck_assert_int_eq(ftruncate(*ret_file, (off_t)(2 * room_bytes)), 0);
	memory = mmap(NULL, 2 * room_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
		      *ret_file, 0);
	ck_assert_ptr_ne(memory, MAP_FAILED);
	range.start.v = (uintptr_t)memory;
	ck_assert_int_eq(uffd_open(ret_uffd, UFFD_WAY_USER_MODE, 0), 0);
	ck_assert_int_eq(uffd_register(*ret_uffd, range, UFFD_MODE_MISSING, NULL), 0);
	return memory;
}

START_TEST(a_full_tmpfs_is_no_memory)
{
	_cleanup_(closep) int file = -EBADF, uffd = -EBADF;
	uint64_t page_bytes = (uint64_t)sysconf(_SC_PAGESIZE), done;
	void *memory = map_scarce_memory("tmpfs", 2 * page_bytes, &file, &uffd);
	struct hva start = { (uintptr_t)memory };

	ck_assert_int_eq(uffd_copy(uffd, start, bytes, 4 * page_bytes, 0, &done), UFFD_NO_MEMORY);
	ck_assert_uint_eq(done, 2 * page_bytes);
	ck_assert_int_eq(
		uffd_copy(uffd, hva_add(start, 2 * page_bytes), bytes, page_bytes, 0, &done),
		UFFD_NO_MEMORY);
	ck_assert_int_eq(backing_write(file, 3 * page_bytes, bytes, page_bytes), -ENOSPC);
}
END_TEST

/* Newer kernels say EEXIST here, so that a caller must prove what UFFD_PRESENT claims. */
START_TEST(an_empty_hugetlb_pool_never_passes_for_done)
{
	_cleanup_(closep) int file = -EBADF, uffd = -EBADF;
	struct hva start;
	bool has_page = true;
	uint64_t done;
	int r;

	if (!hugepages_are_reserved())
		unit_skip("the host gives no 2 MiB pages");
	start.v = (uintptr_t)map_scarce_memory("hugetlbfs", HUGE_BYTES, &file, &uffd);
	r = uffd_copy(uffd, start, bytes, 2 * HUGE_BYTES, 0, &done);
	ck_assert(r == UFFD_PRESENT || r == UFFD_NO_MEMORY);
	ck_assert_uint_eq(done, HUGE_BYTES);
	ck_assert_int_eq(backing_has_page(file, HUGE_BYTES, &has_page), 0);
	ck_assert(!has_page);
	ck_assert_int_eq(backing_write(file, HUGE_BYTES, bytes, HUGE_BYTES), -ENOSPC);
}
END_TEST

int main(void)
{
	hugepages_reserve(N_PAGES + 1);
	return unit_run(
		"uffd-fill",
		(struct unit_test[]){
			UNIT_TABLE(absent_pages_are_filled_and_show_their_bytes, fills),
			UNIT_TABLE(a_present_page_stops_a_fill_after_those_before_it, fills),
			UNIT_TABLE(a_present_page_keeps_its_bytes, fills),
			UNIT_TABLE(what_is_unmapped_or_in_two_mappings_is_left_alone, fills),
			UNIT_TABLE(the_end_of_the_file_stops_a_fill, on_files),
			UNIT_TABLE(continue_stops_at_a_hole_after_the_pages_before_it, by_continue),
			UNIT_TABLE(a_page_filled_protected_tells_its_first_store, protecting),
			UNIT_TABLE(wrong_arguments_are_errors_and_no_outcomes, by_memory),
			UNIT_TABLE(a_poisoned_page_fails_every_access_until_it_is_copied,
				   by_memory),
			UNIT(a_full_tmpfs_is_no_memory),
			UNIT(an_empty_hugetlb_pool_never_passes_for_done),
			{},
		});
}
