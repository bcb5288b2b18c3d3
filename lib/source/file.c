/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A raw image in a file.
 *
 * Pages that the host has cached are copied at once; the rest goes through the demand thread's
 * io_uring, since a read that waits for a disk would stop every fault of the guest. The file is
 * never mapped: whoever cuts it would kill us by SIGBUS.
 *
 * The image must not change under a guest: bytes from before and after would mix. A change is
 * noticed on reads that go to the disk, before and after, by what stat says; from then on nothing
 * is read any more. (Of a remote file it says what was last heard.)
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/files.h"
#include "base/units.h"
#include "kernel/closing.h"
#include "kernel/uring.h"
#include "source/kinds.h"
#include "source/remote.h"

struct extent {
	uint64_t start, end; /* in the file; empty if nothing is known */
	bool is_data;
};

struct file_source {
	struct source source;
	int fd;	    /* owned */
	char *path; /* owned: as the kernel called it at open; NULL: it has none */
	uint64_t offset;
	struct source_identity identity;
	bool is_remote;		     /* never asked for its holes */
	_Atomic bool is_changed;     /* for ever */
	_Atomic bool is_extent_busy; /* another demand thread is at @extent: do without */
	struct extent extent;	     /* the one last asked for */
};

static struct file_source *file_of(struct source *source)
{
	return (struct file_source *)source;
}

int source_identify(int fd, struct source_identity *ret)
{
	struct statx info;
	uint64_t length;
	int r = remote_stat(fd, &info);

	if (r < 0)
		return r;
	if (S_ISREG(info.stx_mode)) {
		*ret = (struct source_identity){
			.device = makedev(info.stx_dev_major, info.stx_dev_minor),
			.inode = info.stx_ino,
			.length_bytes = info.stx_size,
			.modified_s = info.stx_mtime.tv_sec,
			.modified_ns = info.stx_mtime.tv_nsec,
			.changed_s = info.stx_ctime.tv_sec,
			.changed_ns = info.stx_ctime.tv_nsec,
		};
		return 0;
	}
	if (!S_ISBLK(info.stx_mode))
		return -EINVAL;
	if (ioctl(fd, BLKGETSIZE64, &length) < 0)
		return -errno;
	*ret = (struct source_identity){ .device = makedev(info.stx_rdev_major,
							   info.stx_rdev_minor),
					 .inode = info.stx_ino,
					 .length_bytes = length };
	return 0;
}

/* Costs a system call, so only reads that wait for a disk anyway ask. */
static bool file_has_changed(struct file_source *file)
{
	struct source_identity now = {};

	if (source_identify(file->fd, &now) || !source_is_same_file(&now, &file->identity))
		atomic_store_explicit(&file->is_changed, true, memory_order_relaxed);
	return atomic_load_explicit(&file->is_changed, memory_order_relaxed);
}

static uint64_t file_length(struct source *source)
{
	return file_of(source)->identity.length_bytes - file_of(source)->offset;
}

/* The rest of a request goes to the disk. */
static int file_read_cold(struct file_source *file, struct source_request *request)
{
	unsigned char *buffer = request->buffer;
	uint64_t done = request->n_done_bytes;

	if (file_has_changed(file))
		return SOURCE_CHANGED;
	request->is_in_ring = uring_add_read(
		request->ring, file->fd, buffer + done, request->length_bytes - done,
		file->offset + request->offset + done, file->is_remote, (uintptr_t)request);
	return request->is_in_ring ? SOURCE_PENDING : SOURCE_FULL;
}

/* The file ended before the length it had at open. */
static int file_end(struct file_source *file)
{
	return file_has_changed(file) ? SOURCE_CHANGED : SOURCE_SHORT;
}

static int file_read(struct source *source, struct source_request *request)
{
	struct file_source *file = file_of(source);
	struct iovec piece = { request->buffer, request->length_bytes };
	ssize_t n;

	if (atomic_load_explicit(&file->is_changed, memory_order_relaxed))
		return SOURCE_CHANGED;

	n = preadv2(file->fd, &piece, 1, file->offset + request->offset, RWF_NOWAIT);
	if (n == (ssize_t)request->length_bytes)
		return _SOURCE_DATA;
	if (n == 0)
		return file_end(file);
	/* EOPNOTSUPP: this file system cannot say what it has cached */
	if (n < 0 && errno != EAGAIN && errno != EOPNOTSUPP && errno != EINTR)
		return -errno;

	request->n_done_bytes = n < 0 ? 0 : n;
	return file_read_cold(file, request);
}

static int file_finish(struct source *source, struct source_request *request, int32_t result)
{
	struct file_source *file = file_of(source);

	request->is_in_ring = false;
	if (result == 0 || result == -ENXIO)
		return file_end(file);
	if (result < 0)
		return file_has_changed(file) ? SOURCE_CHANGED : result;

	request->n_done_bytes += result;
	if (request->n_done_bytes < request->length_bytes)
		return file_read_cold(file, request);
	return file_has_changed(file) ? SOURCE_CHANGED : _SOURCE_DATA;
}

/* Asks the file system; where it cannot tell, all is data. */
static struct extent file_find_extent(struct file_source *file, uint64_t at)
{
	struct extent all = { at, file->identity.length_bytes, true };
	off_t data, hole;

	if (file->is_remote)
		return all;
	data = lseek(file->fd, at, SEEK_DATA);
	if (data < 0 && errno != ENXIO)
		return all;
	/* a hole that was filled since we opened it, or a file that was cut, is no zero */
	if (file_has_changed(file))
		return all;
	if (data < 0)
		return (struct extent){ at, file->identity.length_bytes, false };
	if ((uint64_t)data > at)
		return (struct extent){ at, data, false };

	hole = lseek(file->fd, at, SEEK_HOLE);
	return hole > data ? (struct extent){ at, hole, true } : all;
}

static int file_extent(struct source *source, uint64_t offset, uint64_t length,
		       uint64_t *ret_length)
{
	struct file_source *file = file_of(source);
	uint64_t at = file->offset + offset;
	struct extent extent = {};
	bool is_mine;

	/* pairs with the release below */
	is_mine = !atomic_exchange_explicit(&file->is_extent_busy, true, memory_order_acquire);
	if (is_mine)
		extent = file->extent;
	if (at < extent.start || at >= extent.end) {
		extent = file_find_extent(file, at);
		if (is_mine)
			file->extent = extent;
	}
	if (is_mine)
		atomic_store_explicit(&file->is_extent_busy, false, memory_order_release);

	*ret_length = extent.end - at;
	return extent.is_data || atomic_load_explicit(&file->is_changed, memory_order_relaxed)
		       ? _SOURCE_DATA
		       : SOURCE_ZERO;
}

static void file_free(struct source *source)
{
	closing_close(file_of(source)->fd);
	free(file_of(source)->path);
	free(source);
}

/* Which one it was at open, whatever has become of it. */
static int file_file(struct source *source, struct source_identity *ret)
{
	if (ret)
		*ret = file_of(source)->identity;
	return file_of(source)->fd;
}

static bool file_where(struct source *source, uint64_t offset, struct source_where *ret)
{
	const struct file_source *file = file_of(source);

	ret->path = file->path;
	ret->offset = file->offset + offset;
	return file->path != NULL;
}

static const struct source_ops file_ops = {
	.kind = "file",
	.length = file_length,
	.read = file_read,
	.finish = file_finish,
	.extent = file_extent,
	.free = file_free,
	.file = file_file,
	.where = file_where,
};

/* Reads must wait for the disk in the ring's worker, not fail there. */
int source_make_blocking(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0)
		return -errno;
	if ((flags & O_ACCMODE) == O_WRONLY || flags & O_PATH)
		return -EBADF;
	if (flags & O_NONBLOCK && fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) < 0)
		return -errno;
	return 0;
}

/* For people: what cannot be named is not. Asks nobody. */
static char *name_file(int fd)
{
	char link[32], path[PATH_MAX];
	ssize_t n;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, path, sizeof(path));
	return n > 0 && n < (ssize_t)sizeof(path) ? strndup(path, (size_t)n) : NULL;
}

int source_new_file(struct source **ret, int fd, uint64_t offset)
{
	_cleanup_(freep) struct file_source *file = NULL;
	int r;

	file = calloc(1, sizeof(*file));
	if (!file)
		return -ENOMEM;
	r = source_identify(fd, &file->identity);
	if (r)
		return r;
	if (offset >= file->identity.length_bytes)
		return -EINVAL;
	r = source_make_blocking(fd);
	if (r)
		return r;

	r = fd_duplicate(&file->fd, fd);
	if (r)
		return r;
	file->source.ops = &file_ops;
	file->source.n_refs = 1;
	file->offset = offset;
	file->path = name_file(fd);
	file->is_remote = remote_is(fd);
	*ret = &TAKE_PTR(file)->source;
	return 0;
}
