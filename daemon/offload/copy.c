/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The bytes of a paused machine's memory, into a file with holes for its zeros. */
#include "offload/copy.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/units.h"

#define PIECE_BYTES MIB
#define GRAIN_BYTES (4 * KIB) /* of the holes */

static bool is_zero(const char *bytes, size_t n_bytes)
{
	return n_bytes == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, n_bytes - 1) == 0);
}

static int write_at(int fd, uint64_t offset, const char *bytes, size_t n_bytes)
{
	while (n_bytes > 0) {
		ssize_t n = pwrite(fd, bytes, n_bytes, (off_t)offset);

		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0) {
			bytes += n;
			offset += (uint64_t)n;
			n_bytes -= (size_t)n;
		}
	}
	return 0;
}

/* Zeros are left out: there is a hole. */
static int put_data(int to, uint64_t offset, const void *bytes, uint64_t n_bytes,
		    uint64_t *ret_bytes)
{
	const char *from = bytes;
	uint64_t at = 0;

	while (at < n_bytes) {
		uint64_t end = at;
		int r;

		/* a run of what is no zeros, to its end, in one call */
		while (end < n_bytes && !is_zero(from + end, min_u64(GRAIN_BYTES, n_bytes - end)))
			end = min_u64(end + GRAIN_BYTES, n_bytes);
		r = write_at(to, offset + at, from + at, end - at);
		if (r < 0)
			return r;
		*ret_bytes += end - at;
		at = end + GRAIN_BYTES;
	}
	return 0;
}

int copy_put(int to, uint64_t offset, const void *bytes, uint64_t n_bytes, uint64_t *ret_bytes)
{
	if (fallocate(to, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
		      (off_t)n_bytes) == 0)
		return put_data(to, offset, bytes, n_bytes, ret_bytes);
	*ret_bytes += n_bytes;
	return write_at(to, offset, bytes, n_bytes);
}

static int read_at(int fd, uint64_t offset, char *bytes, size_t n_bytes)
{
	while (n_bytes > 0) {
		ssize_t n = pread(fd, bytes, n_bytes, (off_t)offset);

		if (n < 0 && errno != EINTR)
			return -errno;
		if (n == 0)
			return -ENODATA;
		if (n > 0) {
			bytes += n;
			offset += (uint64_t)n;
			n_bytes -= (size_t)n;
		}
	}
	return 0;
}

/* Where data begins at or after @at, and where it ends; not every file system knows its holes. */
static void find_data(const struct copy *copy, uint64_t at, uint64_t *ret_start, uint64_t *ret_end)
{
	uint64_t end = copy->from_offset + copy->length_bytes;
	off_t start = lseek(copy->from, (off_t)(copy->from_offset + at), SEEK_DATA);
	off_t hole;

	*ret_start = at;
	*ret_end = copy->length_bytes;
	if (start < 0) {
		if (errno == ENXIO)
			*ret_start = copy->length_bytes;
		return;
	}
	*ret_start = min_u64((uint64_t)start, end) - copy->from_offset;
	hole = lseek(copy->from, start, SEEK_HOLE);
	if (hole > start)
		*ret_end = min_u64((uint64_t)hole, end) - copy->from_offset;
}

static int copy_data(const struct copy *copy, char *buffer, uint64_t start, uint64_t end,
		     uint64_t *ret_bytes)
{
	while (start < end) {
		uint64_t n = min_u64(end - start, PIECE_BYTES);
		int r = read_at(copy->from, copy->from_offset + start, buffer, n);

		if (r == 0)
			r = put_data(copy->to, start, buffer, n, ret_bytes);
		if (r < 0)
			return r;
		if (copy->is_cancelled && copy->is_cancelled(copy->userdata))
			return -ECANCELED;
		start += n;
	}
	return 0;
}

int copy_run(const struct copy *copy, uint64_t *ret_bytes)
{
	_cleanup_(freep) char *buffer = malloc(PIECE_BYTES);
	uint64_t at = 0, n_bytes = 0;
	struct stat info;

	if (!buffer)
		return -ENOMEM;
	/* past its end a file would look like a hole */
	if (fstat(copy->from, &info) < 0)
		return -errno;
	if ((uint64_t)info.st_size < copy->from_offset + copy->length_bytes)
		return -ENODATA;
	while (at < copy->length_bytes) {
		uint64_t start, end;
		int r;

		find_data(copy, at, &start, &end);
		r = copy_data(copy, buffer, start, end, &n_bytes);
		if (r < 0)
			return r;
		at = end;
	}
	*ret_bytes = n_bytes;
	return 0;
}
