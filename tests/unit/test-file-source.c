/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A raw image, with a ring of our own making and a page cache that is cold when we say so.
 *
 * preadv2() and lseek() of this program stand before those of libc.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/units.h"
#include "kernel/uring.h"
#include "source/kinds.h"
#include "support/unit.h"

/* What the next calls do. */
static struct {
	int read_errno;	     /* 0: what the kernel says */
	size_t read_at_most; /* 0: all of it */
	unsigned int n_reads;
	int seek_errno;
	unsigned int n_seeks;
	bool is_ring_full;
	unsigned int n_added;
	void *buffer; /* last added */
	uint32_t length_bytes;
	uint64_t offset, token;
	int fd;
} world;

ssize_t preadv2(int fd, const struct iovec *pieces, int n_pieces, off_t offset, int flags)
{
	struct iovec piece = pieces[0];

	ck_assert_int_eq(n_pieces, 1);
	ck_assert_int_eq(flags, RWF_NOWAIT);
	world.n_reads++;
	if (world.read_errno) {
		errno = world.read_errno;
		return -1;
	}
	if (world.read_at_most)
		piece.iov_len = min_u64(piece.iov_len, world.read_at_most);
	return syscall(SYS_pread64, fd, piece.iov_base, piece.iov_len, offset);
}

off_t lseek(int fd, off_t offset, int whence)
{
	world.n_seeks++;
	if (world.seek_errno) {
		errno = world.seek_errno;
		return -1;
	}
	return syscall(SYS_lseek, fd, offset, whence);
}

bool uring_add_read(struct uring *ring, int fd, void *buffer, uint32_t length_bytes,
		    uint64_t offset, bool may_wait, uint64_t token)
{
	if (world.is_ring_full)
		return false;
	world.n_added++;
	world.fd = fd;
	world.buffer = buffer;
	world.length_bytes = length_bytes;
	world.offset = offset;
	world.token = token;
	return true;
}

/* ---- the image ------------------------------------------------------------------------------- */

#define PAGE	 ((uint64_t)sysconf(_SC_PAGESIZE))
#define N_PAGES	 16
#define FIRST_AT (2 * PAGE) /* the source begins there in the file */

static int image = -EBADF;
static struct source *source;
static unsigned char *buffer;
static struct source_request request;

static unsigned char byte_at(uint64_t offset)
{
	return offset / 512 + offset;
}

static void fill_page(uint64_t page)
{
	static unsigned char bytes[65536];

	for (uint64_t i = 0; i < PAGE; i++)
		bytes[i] = byte_at(page * PAGE + i);
	ck_assert_int_eq(pwrite(image, bytes, PAGE, page * PAGE), PAGE);
}

/* Pages of the file that are data, as a mask; the rest are holes. */
static void set_up(uint32_t data_pages)
{
	image = memfd_create("image", MFD_CLOEXEC);
	ck_assert_int_ge(image, 0);
	ck_assert_int_eq(ftruncate(image, N_PAGES * PAGE), 0);
	for (uint64_t page = 0; page < N_PAGES; page++)
		if (data_pages & 1U << page)
			fill_page(page);
	ck_assert_int_eq(source_new_file(&source, image, FIRST_AT), 0);
	buffer = malloc(4 * PAGE);
	memset(buffer, 0xee, 4 * PAGE);
	request = (struct source_request){ .offset = PAGE,
					   .length_bytes = 4 * PAGE,
					   .buffer = buffer };
}

static void tear_down(void)
{
	source = source_unref(source);
	close(image);
	free(buffer);
}

static void check_buffer(void)
{
	for (uint64_t i = 0; i < request.length_bytes; i++)
		ck_assert_uint_eq(buffer[i], byte_at(FIRST_AT + request.offset + i));
}

/* The ring reads at most @length bytes. */
static int complete(uint64_t length)
{
	ssize_t n = pread(world.fd, world.buffer, min_u64(length, world.length_bytes),
			  world.offset);

	return source_finish(source, &request, n < 0 ? -errno : n);
}

/* Times have the resolution of the kernel's tick: write until a change can be seen. */
static void change(void)
{
	struct stat before, now;

	ck_assert_int_eq(fstat(image, &before), 0);
	do {
		ck_assert_int_eq(pwrite(image, "!", 1, 0), 1);
		ck_assert_int_eq(fstat(image, &now), 0);
	} while (now.st_mtim.tv_sec == before.st_mtim.tv_sec &&
		 now.st_mtim.tv_nsec == before.st_mtim.tv_nsec);
}

static void cut(void)
{
	ck_assert_int_eq(ftruncate(image, FIRST_AT + 2 * PAGE), 0);
}

static void grow(void)
{
	ck_assert_int_eq(ftruncate(image, N_PAGES * PAGE + 1), 0);
}

/* Contents and size stay; a rename over it, which unlinks it, is seen by the same time. */
static void change_mode(void)
{
	struct stat before, now;

	ck_assert_int_eq(fstat(image, &before), 0);
	do {
		ck_assert_int_eq(fchmod(image, 0600), 0);
		ck_assert_int_eq(fstat(image, &now), 0);
	} while (now.st_ctim.tv_sec == before.st_ctim.tv_sec &&
		 now.st_ctim.tv_nsec == before.st_ctim.tv_nsec);
}

static const struct {
	const char *what;
	void (*happens)(void);
} changes[] = {
	{ "written", change },
	{ "cut", cut },
	{ "grown", grow },
	{ "its inode changed", change_mode },
};

/* ---- reads ----------------------------------------------------------------------------------- */

START_TEST(cached_bytes_are_read_at_once)
{
	set_up(0xffff);
	ck_assert_uint_eq(source_length(source), N_PAGES * PAGE - FIRST_AT);
	ck_assert_int_eq(source_read(source, &request), 0);
	check_buffer();
	ck_assert(!request.is_in_ring);
	ck_assert_uint_eq(world.n_added, 0);
	tear_down();
}
END_TEST

static const int cold_errnos[] = { EAGAIN, EOPNOTSUPP, EINTR };

START_TEST(cold_bytes_go_through_the_ring)
{
	set_up(0xffff);
	world.read_errno = cold_errnos[_i];
	ck_assert_int_eq(source_read(source, &request), SOURCE_PENDING);
	ck_assert(request.is_in_ring);
	ck_assert_uint_eq(world.token, (uintptr_t)&request);
	ck_assert_uint_eq(world.offset, FIRST_AT + PAGE);
	ck_assert_uint_eq(world.length_bytes, 4 * PAGE);
	ck_assert_ptr_eq(world.buffer, buffer);
	ck_assert_int_eq(complete(UINT64_MAX), 0);
	check_buffer();
	ck_assert(!request.is_in_ring);
	tear_down();
}
END_TEST

START_TEST(what_was_not_cached_of_a_read_goes_through_the_ring_in_as_many_steps_as_it_takes)
{
	set_up(0xffff);
	world.read_at_most = PAGE + 100;
	ck_assert_int_eq(source_read(source, &request), SOURCE_PENDING);
	ck_assert_uint_eq(world.offset, FIRST_AT + 2 * PAGE + 100);
	ck_assert_uint_eq(world.length_bytes, 3 * PAGE - 100);
	for (unsigned int i = 0; i < 2; i++) {
		ck_assert_int_eq(complete(PAGE), SOURCE_PENDING);
		ck_assert(request.is_in_ring);
	}
	ck_assert_int_eq(complete(PAGE), 0);
	check_buffer();
	ck_assert_uint_eq(world.n_added, 3);
	tear_down();
}
END_TEST

START_TEST(a_full_ring_is_said_and_asked_again)
{
	set_up(0xffff);
	world.read_errno = EAGAIN;
	world.is_ring_full = true;
	ck_assert_int_eq(source_read(source, &request), SOURCE_FULL);
	ck_assert(!request.is_in_ring);
	world.is_ring_full = false;
	ck_assert_int_eq(source_read(source, &request), SOURCE_PENDING);

	world.is_ring_full = true; /* when half of it was read */
	ck_assert_int_eq(complete(2 * PAGE), SOURCE_FULL);
	ck_assert(!request.is_in_ring);
	world.is_ring_full = false;
	ck_assert_int_eq(source_read(source, &request), SOURCE_PENDING);
	ck_assert_uint_eq(world.length_bytes, 4 * PAGE);
	ck_assert_int_eq(complete(UINT64_MAX), 0);
	check_buffer();
	tear_down();
}
END_TEST

static const struct {
	int result, answer;
} failures[] = {
	{ -EIO, -EIO },
	{ -EAGAIN, -EAGAIN },
	{ -ENXIO, SOURCE_SHORT },
	{ 0, SOURCE_SHORT },
};

START_TEST(failed_reads_are_told)
{
	set_up(0xffff);
	world.read_errno = EAGAIN;
	ck_assert_int_eq(source_read(source, &request), SOURCE_PENDING);
	ck_assert_int_eq(source_finish(source, &request, failures[_i].result), failures[_i].answer);
	ck_assert(!request.is_in_ring);
	tear_down();
}
END_TEST

START_TEST(an_error_of_the_cached_read_is_told)
{
	set_up(0xffff);
	world.read_errno = EIO;
	ck_assert_int_eq(source_read(source, &request), -EIO);
	ck_assert_uint_eq(world.n_added, 0);
	tear_down();
}
END_TEST

START_TEST(nothing_is_read_behind_the_end)
{
	set_up(0xffff);
	request.offset = (N_PAGES - 2) * PAGE - 3 * PAGE;
	ck_assert_int_eq(source_read(source, &request), SOURCE_SHORT);
	ck_assert_uint_eq(world.n_reads, 0);
	tear_down();
}
END_TEST

/* ---- changes under us ------------------------------------------------------------------------ */

START_TEST(a_change_before_a_cold_read_is_noticed)
{
	set_up(0xffff);
	world.read_errno = EAGAIN;
	changes[_i].happens();
	ck_assert_msg(source_read(source, &request) == SOURCE_CHANGED, "%s", changes[_i].what);
	ck_assert(!request.is_in_ring);
	ck_assert_uint_eq(world.n_added, 0);
	tear_down();
}
END_TEST

START_TEST(a_change_during_a_cold_read_is_noticed)
{
	set_up(0xffff);
	world.read_errno = EAGAIN;
	ck_assert_int_eq(source_read(source, &request), SOURCE_PENDING);
	changes[_i].happens();
	ck_assert_msg(complete(UINT64_MAX) == SOURCE_CHANGED, "%s", changes[_i].what);
	ck_assert(!request.is_in_ring);
	tear_down();
}
END_TEST

START_TEST(a_changed_file_is_never_read_again)
{
	set_up(0xffff);
	world.read_errno = EAGAIN;
	changes[_i].happens();
	ck_assert_int_eq(source_read(source, &request), SOURCE_CHANGED);
	world.read_errno = 0;
	world.n_reads = 0;
	request.length_bytes = 512;
	request.offset = 0;
	ck_assert_int_eq(source_read(source, &request), SOURCE_CHANGED);
	ck_assert_uint_eq(world.n_reads, 0);
	tear_down();
}
END_TEST

START_TEST(cached_bytes_that_were_cut_off_are_no_data)
{
	set_up(0xffff);
	cut();
	request.offset = 3 * PAGE;
	ck_assert_int_eq(source_read(source, &request), SOURCE_CHANGED);
	tear_down();
}
END_TEST

START_TEST(an_error_of_a_changed_file_is_its_change)
{
	set_up(0xffff);
	world.read_errno = EAGAIN;
	ck_assert_int_eq(source_read(source, &request), SOURCE_PENDING);
	cut();
	ck_assert_int_eq(source_finish(source, &request, -EIO), SOURCE_CHANGED);
	tear_down();
}
END_TEST

/* ---- holes ----------------------------------------------------------------------------------- */

enum { HOLEY = 0xc73c }; /* from page 2 on: data 2-5, hole 6-7, data 8-10, hole 11-13, data 14-15 */

static const struct {
	uint64_t at, most; /* pages of the source, which begins at page 2 of the file */
	int answer;
	uint64_t n_pages;
} extents[] = {
	{ 0, 14, 0, 4 },	   { 3, 14, 0, 1 }, { 4, 10, SOURCE_ZERO, 2 },
	{ 5, 1, SOURCE_ZERO, 1 },  { 6, 2, 0, 2 },  { 9, 5, SOURCE_ZERO, 3 },
	{ 10, 1, SOURCE_ZERO, 1 }, { 12, 2, 0, 2 }, { 13, 1000, 0, 1 },
};

START_TEST(holes_are_zero_and_the_rest_is_data)
{
	uint64_t length = 0;

	set_up(HOLEY);
	ck_assert_int_eq(
		source_extent(source, extents[_i].at * PAGE, extents[_i].most * PAGE, &length),
		extents[_i].answer);
	ck_assert_uint_eq(length, extents[_i].n_pages * PAGE);
	tear_down();
}
END_TEST

START_TEST(a_hole_at_the_end_is_zero_to_the_end)
{
	uint64_t length = 0;

	set_up(0x000f);
	ck_assert_int_eq(source_extent(source, 2 * PAGE, 100 * PAGE, &length), SOURCE_ZERO);
	ck_assert_uint_eq(length, (N_PAGES - 4) * PAGE);
	tear_down();
}
END_TEST

START_TEST(a_scan_in_order_asks_once_for_each_extent)
{
	uint64_t length;

	set_up(HOLEY);
	world.n_seeks = 0;
	for (uint64_t page = 0; page < N_PAGES - 2; page++)
		source_extent(source, page * PAGE, PAGE, &length);
	ck_assert_uint_ge(world.n_seeks, 5);
	ck_assert_uint_le(world.n_seeks, 3 * 2 + 2); /* SEEK_DATA for each, SEEK_HOLE for data */
	tear_down();
}
END_TEST

START_TEST(without_seek_data_all_is_data)
{
	uint64_t length = 0;

	set_up(0);
	world.seek_errno = EINVAL;
	ck_assert_int_eq(source_extent(source, 0, 100 * PAGE, &length), 0);
	ck_assert_uint_eq(length, (N_PAGES - 2) * PAGE);
	tear_down();
}
END_TEST

START_TEST(a_hole_of_a_changed_file_is_no_zero)
{
	uint64_t length = 0;

	set_up(HOLEY);
	changes[_i].happens();
	ck_assert_int_eq(source_extent(source, 4 * PAGE, PAGE, &length), 0);
	ck_assert_uint_eq(length, PAGE);
	request.offset = 4 * PAGE;
	request.length_bytes = PAGE;
	ck_assert_int_eq(source_read(source, &request), SOURCE_CHANGED);
	tear_down();
}
END_TEST

START_TEST(a_hole_known_before_the_change_is_no_zero_once_it_was_noticed)
{
	uint64_t length = 0;

	set_up(HOLEY);
	ck_assert_int_eq(source_extent(source, 4 * PAGE, PAGE, &length), SOURCE_ZERO);
	change();
	world.read_errno = EAGAIN;
	ck_assert_int_eq(source_read(source, &request), SOURCE_CHANGED);
	ck_assert_int_eq(source_extent(source, 4 * PAGE, PAGE, &length), 0);
	tear_down();
}
END_TEST

/* ---- opening --------------------------------------------------------------------------------- */

START_TEST(what_is_no_image_is_refused)
{
	struct source *none = NULL;
	int pipes[2], directory = open("/", O_RDONLY | O_CLOEXEC);
	int writer = open("/tmp", O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);
	int path = open("/proc/self/exe", O_PATH | O_CLOEXEC);

	set_up(1);
	ck_assert_int_ge(writer, 0);
	ck_assert_int_eq(pwrite(writer, "x", 1, 0), 1);
	ck_assert_int_eq(pipe2(pipes, O_CLOEXEC), 0);
	ck_assert_int_eq(source_new_file(&none, pipes[0], 0), -EINVAL);
	ck_assert_int_eq(source_new_file(&none, directory, 0), -EINVAL);
	ck_assert_int_eq(source_new_file(&none, writer, 0), -EBADF);
	ck_assert_int_eq(source_new_file(&none, path, 0), -EBADF);
	ck_assert_int_eq(source_new_file(&none, -EBADF, 0), -EBADF);
	ck_assert_int_eq(source_new_file(&none, image, N_PAGES * PAGE), -EINVAL);
	ck_assert_int_eq(source_new_file(&none, image, UINT64_MAX), -EINVAL);
	ck_assert_ptr_null(none);
	close(pipes[0]);
	close(pipes[1]);
	close(directory);
	close(writer);
	close(path);
	tear_down();
}
END_TEST

START_TEST(a_nonblocking_file_is_made_to_wait)
{
	struct source *other = NULL;

	set_up(1);
	ck_assert_int_eq(fcntl(image, F_SETFL, O_NONBLOCK), 0);
	ck_assert_int_eq(source_new_file(&other, image, 0), 0);
	ck_assert_int_eq(fcntl(image, F_GETFL) & O_NONBLOCK, 0);
	source_unref(other);
	tear_down();
}
END_TEST

int main(void)
{
	return unit_run(
		"file-source",
		(struct unit_test[]){
			UNIT(cached_bytes_are_read_at_once),
			UNIT_TABLE(cold_bytes_go_through_the_ring, cold_errnos),
			UNIT(what_was_not_cached_of_a_read_goes_through_the_ring_in_as_many_steps_as_it_takes),
			UNIT(a_full_ring_is_said_and_asked_again),
			UNIT_TABLE(failed_reads_are_told, failures),
			UNIT(an_error_of_the_cached_read_is_told),
			UNIT(nothing_is_read_behind_the_end),
			UNIT_TABLE(a_change_before_a_cold_read_is_noticed, changes),
			UNIT_TABLE(a_change_during_a_cold_read_is_noticed, changes),
			UNIT_TABLE(a_changed_file_is_never_read_again, changes),
			UNIT(cached_bytes_that_were_cut_off_are_no_data),
			UNIT(an_error_of_a_changed_file_is_its_change),
			UNIT_TABLE(holes_are_zero_and_the_rest_is_data, extents),
			UNIT(a_hole_at_the_end_is_zero_to_the_end),
			UNIT(a_scan_in_order_asks_once_for_each_extent),
			UNIT(without_seek_data_all_is_data),
			UNIT_TABLE(a_hole_of_a_changed_file_is_no_zero, changes),
			UNIT(a_hole_known_before_the_change_is_no_zero_once_it_was_noticed),
			UNIT(what_is_no_image_is_refused),
			UNIT(a_nonblocking_file_is_made_to_wait),
			{},
		});
}
