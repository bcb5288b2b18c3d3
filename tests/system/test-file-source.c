/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A raw image on a real disk, read cold by a real ring; cut, replaced and broken under its reader.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/units.h"
#include "kernel/uring.h"
#include "source/kinds.h"
#include "source/spec.h"
#include "support/unit.h"

#define IMAGE_BYTES (8 * MIB)
#define PIECE	    (64 * KIB)
#define N_SLOTS	    8

/* Directories where a file may lie on a disk. */
static const char *const places[] = { "/var/tmp", ".", "/tmp" };

static char directory[64], image_path[128], other_path[128];

static void make_directory(void)
{
	struct statfs fs;

	for (int i = 0; i < N_ROWS(places); i++) {
		if (statfs(places[i], &fs) || fs.f_type == TMPFS_MAGIC)
			continue;
		snprintf(directory, sizeof(directory), "%s/test-file-source-XXXXXX", places[i]);
		if (!mkdtemp(directory))
			continue;
		snprintf(image_path, sizeof(image_path), "%s/image", directory);
		snprintf(other_path, sizeof(other_path), "%s/other", directory);
		return;
	}
	unit_skip("no directory on a disk that we may write to");
}

static void remove_directory(void)
{
	unlink(image_path);
	unlink(other_path);
	rmdir(directory);
}

static unsigned char byte_at(uint64_t offset)
{
	return offset * 31 + offset / 4096 * 7;
}

/* One assertion for all of them: each costs a message to the harness. */
static void check_bytes(const unsigned char *bytes, uint64_t offset)
{
	uint64_t n_wrong = 0;

	for (uint64_t i = 0; i < PIECE; i++)
		n_wrong += bytes[i] != byte_at(offset + i);
	ck_assert_uint_eq(n_wrong, 0);
}

static int make_image(const char *path)
{
	static unsigned char bytes[PIECE];
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	ck_assert_int_ge(fd, 0);
	for (uint64_t at = 0; at < IMAGE_BYTES; at += PIECE) {
		for (uint64_t i = 0; i < PIECE; i++)
			bytes[i] = byte_at(at + i);
		ck_assert_int_eq(pwrite(fd, bytes, PIECE, at), PIECE);
	}
	return fd;
}

/*
 * Nothing of it is cached afterwards; skips the test where that cannot be had. The kernel keeps
 * pages that another CPU has just added, so it is asked until it is true.
 */
static void make_cold(int fd)
{
	static unsigned char byte;
	struct iovec piece = { &byte, 1 };
	uint64_t deadline_ns = clock_now_ns() + 10 * NSEC_PER_SEC;

	do {
		ck_assert_int_eq(fsync(fd), 0);
		ck_assert_int_eq(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
		if (preadv2(fd, &piece, 1, IMAGE_BYTES / 2, RWF_NOWAIT) == -1 && errno == EAGAIN)
			return;
	} while (clock_now_ns() < deadline_ns);
	remove_directory();
	unit_skip("the file system of %s cannot drop what it has cached", directory);
}

static struct uring *new_ring(void)
{
	struct uring *ring = NULL;
	int r = uring_new(&ring, N_SLOTS);

	if (r) {
		remove_directory();
		unit_skip("no io_uring here: %s", strerror(-r));
	}
	return ring;
}

/* The next completion of the ring. Return: what source_finish() makes of it. */
static int finish_one(struct source *source, struct uring *ring, struct source_request **ret)
{
	struct uring_completion completion;
	unsigned int n = 0;

	for (int i = 0; i < 100 && n == 0; i++)
		ck_assert_int_eq(uring_wait(ring, NSEC_PER_SEC / 10, &completion, 1, &n), 0);
	ck_assert_uint_eq(n, 1);
	*ret = (struct source_request *)(uintptr_t)completion.token;
	return source_finish(source, *ret, completion.result);
}

/* One read, however long it takes. Return: its answer. */
static int read_one(struct source *source, struct source_request *request, bool *ret_is_cold)
{
	struct source_request *finished;
	int r = source_read(source, request);

	*ret_is_cold = r == SOURCE_PENDING;
	while (r == SOURCE_PENDING)
		r = finish_one(source, request->ring, &finished);
	return r;
}

struct slot {
	struct source_request request;
	unsigned char buffer[PIECE];
	bool is_busy;
};

static void slot_check(struct slot *slot)
{
	check_bytes(slot->buffer, slot->request.offset);
	slot->is_busy = false;
}

START_TEST(every_byte_of_a_cold_file_arrives_with_8_reads_under_way)
{
	static struct slot slots[N_SLOTS];
	unsigned int n_cold = 0, n_busy = 0, seed = 1, n_pieces = IMAGE_BYTES / PIECE, next = 0;
	struct source_request *finished;
	struct source *source = NULL;
	struct uring *ring;
	int fd;

	make_directory();
	fd = make_image(image_path);
	make_cold(fd);
	ring = new_ring();
	ck_assert_int_eq(source_new_file(&source, fd, 0), 0);
	while (next < n_pieces || n_busy) {
		struct slot *slot = &slots[rand_r(&seed) % N_SLOTS];
		int r;

		if (slot->is_busy || next == n_pieces) {
			ck_assert_uint_gt(n_busy, 0);
			r = finish_one(source, ring, &finished);
			if (r == SOURCE_PENDING)
				continue;
			ck_assert_int_eq(r, 0);
			slot_check((struct slot *)finished);
			n_busy--;
			continue;
		}
		/* 53 is prime to the number of pieces: each comes once, far from the one before */
		slot->request = (struct source_request){
			.offset = next++ * 53 % n_pieces * PIECE,
			.length_bytes = PIECE,
			.buffer = memset(slot->buffer, 0xee, PIECE),
			.ring = ring,
		};
		r = source_read(source, &slot->request);
		ck_assert(r == 0 || r == SOURCE_PENDING);
		slot->is_busy = r == SOURCE_PENDING;
		n_busy += slot->is_busy;
		n_cold += slot->is_busy;
		if (r == 0)
			slot_check(slot);
	}
	ck_assert_uint_gt(n_cold, 0);
	source_unref(source);
	uring_free(ring);
	close(fd);
	remove_directory();
}
END_TEST

static void cut(int fd)
{
	ck_assert_int_eq(ftruncate(fd, IMAGE_BYTES / 4), 0);
}

static void replace(int fd)
{
	close(make_image(other_path));
	ck_assert_int_eq(rename(other_path, image_path), 0);
}

static void overwrite(int fd)
{
	ck_assert_int_eq(pwrite(fd, "!", 1, 0), 1);
}

static void remove_image(int fd)
{
	ck_assert_int_eq(unlink(image_path), 0);
}

static const struct {
	const char *what;
	void (*happens)(int fd);
} changes[] = {
	{ "cut", cut },
	{ "replaced", replace },
	{ "overwritten", overwrite },
	{ "removed", remove_image },
};

/* Until the file's time can tell the change that follows from all before it. */
static void wait_for_tick(int fd)
{
	struct stat before, now;

	ck_assert_int_eq(fstat(fd, &before), 0);
	do {
		_cleanup_(closep) int probe = open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

		ck_assert_int_ge(probe, 0);
		ck_assert_int_eq(fstat(probe, &now), 0);
	} while (now.st_ctim.tv_sec == before.st_ctim.tv_sec &&
		 now.st_ctim.tv_nsec == before.st_ctim.tv_nsec);
}

START_TEST(a_file_changed_under_its_reader_is_told_and_gives_no_byte)
{
	static unsigned char buffer[PIECE];
	struct source_request request = { .offset = IMAGE_BYTES / 2,
					  .length_bytes = PIECE,
					  .buffer = buffer };
	struct source *source = NULL;
	const char *error = "";
	char spec[160];
	bool is_cold;
	int fd;

	make_directory();
	fd = make_image(image_path);
	make_cold(fd);
	request.ring = new_ring();
	snprintf(spec, sizeof(spec), "file:%s", image_path);
	ck_assert_msg(source_open(&source, spec, -1, &error) == 0, "%s", error);
	wait_for_tick(fd);
	changes[_i].happens(fd);
	ck_assert_msg(read_one(source, &request, &is_cold) == SOURCE_CHANGED, "%s",
		      changes[_i].what);
	source_unref(source);
	uring_free(request.ring);
	close(fd);
	remove_directory();
}
END_TEST

/* Data begins and ends within blocks; an extent that says zero may not hide a byte. */
START_TEST(what_is_said_to_be_zero_is_zero)
{
	static unsigned char bytes[IMAGE_BYTES];
	uint64_t length = 0, n_zero = 0, n_wrong = 0;
	struct source *source = NULL;
	unsigned int seed = 1;
	int fd;

	make_directory();
	fd = open(image_path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(ftruncate(fd, IMAGE_BYTES), 0);
	for (unsigned int i = 0; i < 100; i++)
		ck_assert_int_eq(pwrite(fd, "some bytes", 10, rand_r(&seed) % IMAGE_BYTES), 10);
	ck_assert_int_eq(ftruncate(fd, IMAGE_BYTES), 0);
	ck_assert_int_eq(source_new_file(&source, fd, 512), 0);
	ck_assert_int_eq(pread(fd, bytes, IMAGE_BYTES - 512, 512), IMAGE_BYTES - 512);
	for (uint64_t at = 0; at < IMAGE_BYTES - 512; at += length) {
		if (source_extent(source, at, IMAGE_BYTES, &length) != SOURCE_ZERO)
			continue;
		n_zero += length;
		for (uint64_t i = 0; i < length; i++)
			n_wrong += bytes[at + i] != 0;
	}
	source_unref(source);
	close(fd);
	remove_directory();
	ck_assert_uint_eq(n_wrong, 0);
	if (n_zero == 0)
		unit_skip("the file system of %s has no holes", directory);
	ck_assert_uint_ge(n_zero, IMAGE_BYTES / 2);
}
END_TEST

/* A loop device of an image; it goes with its last fd. Return: an fd, or -1 with errno. */
static int open_loop(int fd)
{
	struct loop_config config = {
		.fd = fd, .info = { .lo_flags = LO_FLAGS_AUTOCLEAR | LO_FLAGS_READ_ONLY }
	};
	_cleanup_(closep) int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	char path[32];
	int number, loop;

	if (control < 0)
		return -1;
	/* somebody else may take the free one first */
	for (int i = 0; i < 10; i++) {
		number = ioctl(control, LOOP_CTL_GET_FREE);
		if (number < 0)
			return -1;
		snprintf(path, sizeof(path), "/dev/loop%d", number);
		loop = open(path, O_RDONLY | O_CLOEXEC);
		if (loop < 0)
			return -1;
		if (ioctl(loop, LOOP_CONFIGURE, &config) == 0)
			return loop;
		closep(&loop);
		if (errno != EBUSY)
			return -1;
	}
	return -1;
}

START_TEST(a_broken_device_is_told_and_the_rest_of_it_read)
{
	static unsigned char buffer[PIECE];
	struct source_request request = { .length_bytes = PIECE, .buffer = buffer };
	struct source *source = NULL;
	uint64_t length = 0;
	bool is_cold;
	int fd, loop;

	make_directory();
	fd = make_image(image_path);
	request.ring = new_ring();
	loop = open_loop(fd);
	if (loop < 0) {
		remove_directory();
		unit_skip("no loop device: %m");
	}
	ck_assert_int_eq(source_new_file(&source, loop, 0), 0);
	ck_assert_uint_eq(source_length(source), IMAGE_BYTES);
	ck_assert_int_eq(source_extent(source, 0, UINT64_MAX, &length), 0);
	ck_assert_uint_eq(length, IMAGE_BYTES);

	/* what lies behind the end of a loop device's file cannot be read from it */
	cut(fd);
	request.offset = IMAGE_BYTES / 2;
	ck_assert_int_eq(read_one(source, &request, &is_cold), -EIO);
	ck_assert(is_cold);
	request.offset = 0;
	ck_assert_int_eq(read_one(source, &request, &is_cold), 0);
	check_bytes(buffer, 0);
	source_unref(source);
	uring_free(request.ring);
	close(loop);
	close(fd);
	remove_directory();
}
END_TEST

int main(void)
{
	return unit_run(
		"file-source",
		(struct unit_test[]){
			UNIT(every_byte_of_a_cold_file_arrives_with_8_reads_under_way),
			UNIT_TABLE(a_file_changed_under_its_reader_is_told_and_gives_no_byte,
				   changes),
			UNIT(what_is_said_to_be_zero_is_zero),
			UNIT(a_broken_device_is_told_and_the_rest_of_it_read),
			{},
		});
}
