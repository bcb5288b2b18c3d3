/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* memfds of small and huge pages. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/units.h"
#include "kernel/backing.h"
#include "support/hugepages.h"
#include "support/unit.h"

enum { N_PAGES = 6 };

static unsigned char bytes[N_PAGES * HUGE_BYTES];

static const uint64_t page_sizes[] = { 0, HUGE_BYTES };

/* Return: the page size; skips where there is none so big. */
static uint64_t create(int *ret_fd, uint64_t page_bytes)
{
	uint64_t unit = page_bytes ? page_bytes : (uint64_t)sysconf(_SC_PAGESIZE);

	if (page_bytes && !hugepages_are_reserved())
		unit_skip("the host gives no 2 MiB pages");
	ck_assert_int_eq(backing_create(ret_fd, "memory", N_PAGES * unit, page_bytes), 0);
	memset(bytes, 0x5a, N_PAGES * unit);
	return unit;
}

START_TEST(a_new_memory_is_what_was_asked_for)
{
	_cleanup_(closep) int fd = -EBADF;
	struct backing_info info;
	uint64_t unit = create(&fd, page_sizes[_i]);
	struct stat file;

	ck_assert_int_eq(fstat(fd, &file), 0);
	ck_assert_int_eq(backing_inspect(fd, &info), 0);
	ck_assert_int_eq(info.kind, page_sizes[_i] ? BACKING_HUGETLB : BACKING_SHMEM);
	ck_assert_uint_eq(info.page_bytes, unit);
	ck_assert_uint_eq(info.length_bytes, N_PAGES * unit);
	ck_assert_uint_eq(info.allocated_bytes, 0);
	ck_assert_uint_eq(info.inode, file.st_ino);
	ck_assert_uint_eq(info.device, file.st_dev);
	ck_assert(info.is_writable);
	ck_assert(fcntl(fd, F_GETFD) & FD_CLOEXEC);
}
END_TEST

START_TEST(read_only_and_sealed_files_are_not_writable)
{
	_cleanup_(closep) int fd = -EBADF, again = -EBADF;
	struct backing_info info;
	char path[64];

	create(&fd, page_sizes[_i]);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	again = open(path, O_RDONLY | O_CLOEXEC);
	ck_assert_int_eq(backing_inspect(again, &info), 0);
	ck_assert(!info.is_writable);

	ck_assert_int_eq(fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE), 0);
	ck_assert_int_eq(backing_inspect(fd, &info), 0);
	ck_assert(!info.is_writable);
}
END_TEST

static const struct {
	const char *path;
	int flags;
	int result;
} strangers[] = {
	{ "/proc/self/exe", O_RDONLY, -ENOTSUP },
	{ "/dev/null", O_RDWR, -ENOTSUP },
	{ "/proc/self/maps", O_RDONLY, -ENOTSUP },
	{ "/dev/shm", O_RDONLY | O_DIRECTORY, -ENOTSUP },
	{ "/dev/shm", O_PATH, -EBADF },
};

START_TEST(other_files_are_refused_and_ret_is_left_alone)
{
	_cleanup_(closep) int fd = open(strangers[_i].path, strangers[_i].flags | O_CLOEXEC);
	struct backing_info info = { .inode = 42 };

	ck_assert_int_eq(backing_inspect(fd, &info), strangers[_i].result);
	ck_assert_uint_eq(info.inode, 42);
	ck_assert_int_eq(backing_inspect(1000, &info), -EBADF);
}
END_TEST

static void check_run(int fd, uint64_t from, uint64_t to, uint64_t offset, uint64_t length_bytes)
{
	uint64_t found = 12345, length = 12345;

	ck_assert_int_eq(backing_find_data(fd, from, to, &found, &length), 0);
	ck_assert_uint_eq(length, length_bytes);
	ck_assert_uint_eq(found, length_bytes ? offset : 12345);
}

START_TEST(runs_of_data_are_found_between_holes)
{
	_cleanup_(closep) int fd = -EBADF;
	uint64_t unit = create(&fd, page_sizes[_i]), end = N_PAGES * unit;
	bool has = false;

	check_run(fd, 0, end, 0, 0);
	ck_assert_int_eq(backing_write(fd, 1 * unit, bytes, 2 * unit), 0);
	ck_assert_int_eq(backing_write(fd, 4 * unit + 3, bytes, 5), 0);

	check_run(fd, 0, end, unit, 2 * unit);
	check_run(fd, unit, end, unit, 2 * unit);
	check_run(fd, unit + 7, end, unit + 7, 2 * unit - 7);
	check_run(fd, 2 * unit, end, 2 * unit, unit);
	check_run(fd, 0, 2 * unit, unit, unit);
	check_run(fd, 0, unit, 0, 0);
	check_run(fd, 3 * unit, end, 4 * unit, unit);
	check_run(fd, 5 * unit, end, 0, 0);
	check_run(fd, 0, 100 * end, unit, 2 * unit);
	check_run(fd, end, 2 * end, 0, 0);

	for (uint64_t i = 0; i < N_PAGES; i++) {
		ck_assert_int_eq(backing_has_page(fd, i * unit, &has), 0);
		ck_assert_int_eq(has, i == 1 || i == 2 || i == 4);
	}
}
END_TEST

START_TEST(looking_for_data_allocates_nothing)
{
	_cleanup_(closep) int fd = -EBADF;
	uint64_t unit = create(&fd, page_sizes[_i]);
	struct backing_info info;

	ck_assert_int_eq(backing_write(fd, 2 * unit, bytes, 1), 0);
	check_run(fd, 0, N_PAGES * unit, 2 * unit, unit);
	ck_assert_int_eq(backing_inspect(fd, &info), 0);
	ck_assert_uint_eq(info.allocated_bytes, unit);
}
END_TEST

START_TEST(a_read_only_fd_shows_its_data)
{
	_cleanup_(closep) int fd = -EBADF, again = -EBADF;
	uint64_t unit = create(&fd, page_sizes[_i]);
	char path[64];

	ck_assert_int_eq(backing_write(fd, 2 * unit, bytes, unit), 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	again = open(path, O_RDONLY | O_CLOEXEC);
	check_run(again, 0, N_PAGES * unit, 2 * unit, unit);
}
END_TEST

START_TEST(allocated_but_never_written_pages_of_shmem_show_only_in_the_count)
{
	_cleanup_(closep) int fd = -EBADF;
	uint64_t unit = create(&fd, 0);
	struct backing_info info;

	ck_assert_int_eq(fallocate(fd, 0, 0, (off_t)(2 * unit)), 0);
	check_run(fd, 0, N_PAGES * unit, 0, 0);
	ck_assert_int_eq(backing_inspect(fd, &info), 0);
	ck_assert_uint_eq(info.allocated_bytes, 2 * unit);
}
END_TEST

START_TEST(written_bytes_read_back_and_punched_ones_are_zero)
{
	_cleanup_(closep) int fd = -EBADF;
	uint64_t unit = create(&fd, page_sizes[_i]);
	unsigned char read_back[64], expected[64] = {};
	bool has = true;

	for (unsigned int i = 0; i < sizeof(expected); i++)
		bytes[i] = (unsigned char)(i + 1);
	ck_assert_int_eq(backing_write(fd, 3 * unit - 32, bytes, 64), 0);
	ck_assert_int_eq(pread(fd, read_back, 64, (off_t)(3 * unit - 32)), 64);
	ck_assert_mem_eq(read_back, bytes, 64);

	ck_assert_int_eq(backing_punch(fd, 2 * unit, unit), 0);
	ck_assert_int_eq(backing_has_page(fd, 2 * unit, &has), 0);
	ck_assert(!has);
	ck_assert_int_eq(pread(fd, read_back, 64, (off_t)(3 * unit - 32)), 64);
	memcpy(expected + 32, bytes + 32, 32);
	ck_assert_mem_eq(read_back, expected, 64);
}
END_TEST

START_TEST(a_write_past_the_end_of_huge_pages_is_refused)
{
	_cleanup_(closep) int fd = -EBADF;
	uint64_t unit = create(&fd, HUGE_BYTES);

	ck_assert_int_eq(backing_write(fd, (N_PAGES - 1) * unit, bytes, unit + 1), -EINVAL);
	ck_assert_int_eq(backing_write(fd, N_PAGES * unit, bytes, 1), -EINVAL);
}
END_TEST

int main(void)
{
	hugepages_reserve(N_PAGES + 1);
	return unit_run(
		"backing",
		(struct unit_test[]){
			UNIT_TABLE(a_new_memory_is_what_was_asked_for, page_sizes),
			UNIT_TABLE(read_only_and_sealed_files_are_not_writable, page_sizes),
			UNIT_TABLE(other_files_are_refused_and_ret_is_left_alone, strangers),
			UNIT_TABLE(runs_of_data_are_found_between_holes, page_sizes),
			UNIT_TABLE(looking_for_data_allocates_nothing, page_sizes),
			UNIT_TABLE(a_read_only_fd_shows_its_data, page_sizes),
			UNIT(allocated_but_never_written_pages_of_shmem_show_only_in_the_count),
			UNIT_TABLE(written_bytes_read_back_and_punched_ones_are_zero, page_sizes),
			UNIT(a_write_past_the_end_of_huge_pages_is_refused),
			{},
		});
}
