/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Chains of images, files of other formats, and a disk of our own that they are read from as sources. */
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/units.h"
#include "image/image-foreign.h"
#include "image/image-source.h"
#include "image/image-writer.h"
#include "kernel/uring.h"
#include "support/unit.h"

#define PAGE	4096
#define N_PAGES 300
#define BYTES	(N_PAGES * PAGE)

/* ---- a disk of our own ---- */

static struct {
	unsigned int cold_in; /* one read in so many is cold; 0: none */
	unsigned int seed;
	int fd; /* of the read under way */
	void *buffer;
	uint32_t length_bytes;
	uint64_t offset, token;
	unsigned int n_cold, n_warm;
	bool is_full; /* the ring has no room */
} disk;

ssize_t preadv2(int fd, const struct iovec *pieces, int n_pieces, off_t offset, int flags)
{
	if (flags != RWF_NOWAIT || n_pieces != 1)
		ck_abort_msg("not as the demand thread reads");
	if (disk.cold_in && rand_r(&disk.seed) % disk.cold_in == 0) {
		size_t n = (size_t)rand_r(&disk.seed) % pieces->iov_len;

		/* some of it is at hand */
		if (rand_r(&disk.seed) % 2 && n)
			return pread(fd, pieces->iov_base, n, offset);
		errno = EAGAIN;
		return -1;
	}
	disk.n_warm++;
	return pread(fd, pieces->iov_base, pieces->iov_len, offset);
}

bool uring_add_read(struct uring *ring, int fd, void *buffer, uint32_t length_bytes,
		    uint64_t offset, bool may_wait, uint64_t token)
{
	if (disk.is_full)
		return false;
	disk.fd = fd;
	disk.buffer = buffer;
	disk.length_bytes = length_bytes;
	disk.offset = offset;
	disk.token = token;
	disk.n_cold++;
	return true;
}

/* Some of what is under way comes. */
static inline int32_t disk_complete(void)
{
	uint32_t n = 1 + (uint32_t)rand_r(&disk.seed) % disk.length_bytes;
	ssize_t n_read = pread(disk.fd, disk.buffer, rand_r(&disk.seed) % 2 ? n : disk.length_bytes,
			       (off_t)disk.offset);

	return n_read < 0 ? -errno : (int32_t)n_read;
}

static unsigned char request_buffer[BYTES + 64], request_spare[SOURCE_SPARE_BYTES];

/* One read, as the demand thread does it. */
static inline int read_bytes(struct source *source, uint64_t offset, uint64_t length)
{
	struct source_request request = { .offset = offset,
					  .length_bytes = length,
					  .buffer = request_buffer,
					  .spare = request_spare };
	unsigned int n_beyond = 0;
	int r;

	memset(request_buffer, 0xee, length + 64);
	memset(request_spare, 0xdd, sizeof(request_spare));
	r = source_read(source, &request);
	while (r == SOURCE_PENDING) {
		ck_assert(request.is_in_ring && disk.token == (uintptr_t)&request);
		r = source_finish(source, &request, disk_complete());
	}
	/* one assertion for all: each costs a message to the harness */
	for (unsigned int i = 0; i < 64; i++)
		n_beyond += request_buffer[length + i] != 0xee;
	ck_assert_uint_eq(n_beyond, 0);
	return r;
}

/* ---- a chain of images ---- */

static char directory[64];
static unsigned char content[BYTES];

static inline const char *path_of(const char *name)
{
	static char paths[4][128];
	static unsigned int next;
	char *path = paths[next++ % 4];

	snprintf(path, sizeof(paths[0]), "%s/%s", directory, name);
	return path;
}

static inline void make_directory(void)
{
	/* on a disk: where /tmp is in memory, its files can be sealed, and are nobody else's */
	strcpy(directory, "/var/tmp/test-image-source-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(directory));
	memset(content, 0, sizeof(content));
}

static inline void remove_directory(void)
{
	char command[128];

	snprintf(command, sizeof(command), "rm -r %s", directory);
	ck_assert_int_eq(system(command), 0);
}

static inline void change_content(struct image_writer *writer, uint32_t memory, unsigned int seed)
{
	for (uint64_t i = 0; i < N_PAGES; i++) {
		unsigned char *page = content + i * PAGE;
		int kind = rand_r(&seed) % 5;

		if (kind == 0)
			memset(page, 0, PAGE);
		else if (kind == 1)
			memset(page, rand_r(&seed), PAGE);
		else if (kind == 2)
			for (unsigned int j = 0; j < PAGE; j++)
				page[j] = (unsigned char)rand_r(&seed);
		if (kind < 3)
			ck_assert_int_eq(image_writer_pages(writer, memory, i, page, 1), 0);
	}
}

static const char *const layers[] = { "base", "child,1", "child2" };

/* Three layers, each of another codec if @codec is -1. */
static inline void make_chain(int codec)
{
	struct image_parent parent = {};

	for (unsigned int i = 0; i < 3; i++) {
		struct image_writer_opts opts = { .codec = codec < 0 ? i : (unsigned int)codec,
						  .parent = i ? &parent : NULL };
		int fd = open(path_of(layers[i]), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		struct image_writer *writer = NULL;
		uint32_t memory;

		ck_assert_int_eq(image_writer_new(&writer, fd, &opts), 0);
		ck_assert_int_eq(
			image_writer_add_memory(writer, "ram", BYTES, PAGE, IMAGE_SHMEM, &memory),
			0);
		change_content(writer, memory, i + 1);
		ck_assert_int_eq(image_writer_commit(writer, parent.digest), 0);
		image_writer_free(writer);
		close(fd);
		parent.hint = layers[i];
	}
}

static inline struct source *open_spec(const char *format, ...)
{
	struct source *source = NULL;
	const char *error = "";
	char spec[512];
	va_list args;

	va_start(args, format);
	vsnprintf(spec, sizeof(spec), format, args);
	va_end(args);
	ck_assert_msg(image_source_open(&source, spec, -1, &error) == 0, "%s: %s", spec, error);
	ck_assert_uint_eq(source_length(source), BYTES);
	return source;
}

static inline void check_read(struct source *source, uint64_t first, uint64_t n)
{
	static const unsigned char zeros[BYTES];
	int r = read_bytes(source, first * PAGE, n * PAGE);
	const unsigned char *bytes = r == SOURCE_ZERO ? zeros : request_buffer;

	ck_assert(r == 0 || r == SOURCE_ZERO);
	ck_assert_msg(!memcmp(bytes, content + first * PAGE, n * PAGE), "%zu pages from %zu on",
		      (size_t)n, (size_t)first);
}

static inline void check_source(struct source *source, unsigned int n_reads)
{
	uint64_t length = 0, n_wrong = 0;

	for (unsigned int i = 0; i < n_reads; i++) {
		uint64_t first = (uint64_t)rand_r(&disk.seed) % N_PAGES;

		check_read(source, first,
			   1 + (uint64_t)rand_r(&disk.seed) % min_u64(N_PAGES - first, 64));
	}
	check_read(source, 0, N_PAGES);
	for (uint64_t at = 0; at < BYTES; at += length) {
		int kind = source_extent(source, at, BYTES - at, &length);

		n_wrong += !is_aligned(length, PAGE) || length == 0;
		for (uint64_t i = at; kind == SOURCE_ZERO && i < at + length; i++)
			n_wrong += content[i] != 0;
	}
	ck_assert_uint_eq(n_wrong, 0);
}

static inline void write_diff(const char *name, bool is_base, unsigned int seed)
{
	int fd = open(path_of(name), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	ck_assert_int_eq(ftruncate(fd, BYTES), 0);
	for (uint64_t i = 0; i < N_PAGES; i++) {
		if (rand_r(&seed) % 3 == 0)
			continue;
		if (!is_base && rand_r(&seed) % 4)
			continue;
		memset(content + i * PAGE, rand_r(&seed) % 3 ? rand_r(&seed) : 0, PAGE);
		ck_assert_int_eq(pwrite(fd, content + i * PAGE, PAGE, (off_t)(i * PAGE)), PAGE);
	}
	close(fd);
}
