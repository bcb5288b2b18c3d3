/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One file of a chain. */
#include "image/image-layer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/files.h"
#include "base/units.h"
#include "image/image-error.h"
#include "kernel/closing.h"
#include "source/kinds.h"
#include "source/remote.h"

#define MAX_RUN_BLOCKS (UINT32_C(1) << 31)
#define MAX_EXTENTS    (UINT32_C(1) << 24) /* 256 MiB of runs */

struct image_layer *image_layer_free(struct image_layer *layer)
{
	if (!layer)
		return NULL;
	if (layer->fd >= 0)
		closing_close(layer->fd);
	image_index_done(&layer->index);
	free(layer->path);
	free(layer);
	return NULL;
}

/* O_NONBLOCK: a FIFO must not hold us up. */
static int open_path(const char *path, int *ret_fd)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);

	if (fd < 0)
		return -errno;
	*ret_fd = fd;
	return 0;
}

static int layer_new(struct image_layer **ret, const char *path, int fd, const char **ret_error)
{
	_cleanup_(image_layer_freep) struct image_layer *layer = calloc(1, sizeof(*layer));
	int r;

	if (!layer)
		return image_fail(ret_error, -ENOMEM, "no memory for %s", path);
	layer->fd = -EBADF;
	layer->path = strdup(path);
	if (!layer->path)
		return image_fail(ret_error, -ENOMEM, "no memory for %s", path);
	r = fd >= 0 ? fd_duplicate(&layer->fd, fd) : open_path(path, &layer->fd);
	if (r < 0)
		return image_fail(ret_error, r, "%s cannot be opened: %s", path, strerror(-r));
	r = source_identify(layer->fd, &layer->identity);
	if (r == -EINVAL)
		return image_fail(ret_error, -ESPIPE, "%s is no regular file", path);
	if (r == 0)
		r = source_make_blocking(layer->fd);
	if (r == -EBADF)
		return image_fail(ret_error, r, "%s is not open for reading", path);
	if (r < 0)
		return image_fail(ret_error, r, "%s: %s", path, strerror(-r));
	layer->is_remote = remote_is(layer->fd);
	*ret = TAKE_PTR(layer);
	return 0;
}

int image_layer_open(struct image_layer **ret, const char *path, int fd,
		     const struct image_layer_opts *opts, const char **ret_error)
{
	_cleanup_(image_layer_freep) struct image_layer *layer = NULL;
	struct image_end end;
	int r;

	r = layer_new(&layer, path, fd, ret_error);
	if (r == 0 && opts->is_local && layer->is_remote)
		return image_fail(
			ret_error, -EREMOTE,
			"%s is on a file system that somebody else serves, and whoever goes on "
			"with a guest must not wait for him; copy it to a local disk",
			path);
	if (r == 0)
		r = image_end_find(layer->fd, path, opts->digest, &end, ret_error);
	if (r == 0 && end.footer.index_bytes > opts->max_index_bytes)
		return image_fail(ret_error, -EFBIG,
				  "%s has an index of %llu bytes, more than the %llu that are read "
				  "here",
				  path, (unsigned long long)end.footer.index_bytes,
				  (unsigned long long)opts->max_index_bytes);
	if (r == 0)
		r = image_index_load(layer->fd, path, &end, &layer->index, ret_error);
	if (r < 0)
		return r;
	memcpy(layer->digest, end.footer.digest, IMAGE_DIGEST_BYTES);
	layer->generation = end.footer.generation;
	layer->end_bytes = end.end;
	layer->created_s = (int64_t)end.header.created_s;
	*ret = TAKE_PTR(layer);
	return 0;
}

/* ---- other formats ---- */

/* The runs of a flat file, as they are found. */
struct extents {
	struct image_run_entry *runs; /* owned */
	uint64_t n, n_room;
};

static int add_extent(struct extents *extents, uint64_t start, uint64_t end)
{
	uint64_t block = start / IMAGE_BLOCK_BYTES;
	uint64_t n_left = align_up(end, IMAGE_BLOCK_BYTES) / IMAGE_BLOCK_BYTES - block;

	/* file systems with smaller blocks may end one extent where the next begins */
	if (extents->n) {
		struct image_run_entry *last = &extents->runs[extents->n - 1];
		uint64_t known = last->first_block + last->n_blocks;

		if (known > block) {
			n_left -= min_u64(known - block, n_left);
			block = known;
		}
	}
	while (n_left) {
		uint32_t n = (uint32_t)min_u64(n_left, MAX_RUN_BLOCKS);

		if (extents->n == extents->n_room) {
			uint64_t n_room = max_u64(extents->n_room * 2, 64);
			void *grown = reallocarray(extents->runs, n_room, sizeof(*extents->runs));

			if (!grown)
				return -ENOMEM;
			extents->runs = grown;
			extents->n_room = n_room;
		}
		if (extents->n == MAX_EXTENTS)
			return -EFBIG;
		extents->runs[extents->n++] = (struct image_run_entry){ block, n, 0 };
		block += n;
		n_left -= n;
	}
	return 0;
}

/*
 * Where the file has data; all of it where that cannot be told, unless it is a difference. Return:
 * 0, -EINVAL, -EFBIG, -ENOMEM.
 */
static int find_extents(const struct image_layer *layer, bool is_diff, struct extents *extents)
{
	uint64_t end = layer->identity.length_bytes, at = 0;
	int r = 0;

	if (layer->is_remote)
		return is_diff ? -EINVAL : add_extent(extents, 0, end);
	while (r == 0 && at < end) {
		off_t data = lseek(layer->fd, (off_t)at, SEEK_DATA), hole;

		if (data < 0 && errno == ENXIO)
			return 0;
		hole = data < 0 ? -1 : lseek(layer->fd, data, SEEK_HOLE);
		if (hole <= data)
			return is_diff ? -EINVAL : add_extent(extents, at, end);
		r = add_extent(extents, (uint64_t)data, min_u64((uint64_t)hole, end));
		at = (uint64_t)hole;
	}
	return r;
}

/* An index as if it had been read: one memory, its runs, no frames. */
static int make_index(struct image_index *index, uint64_t length_bytes,
		      const struct extents *extents)
{
	struct flat {
		struct image_index_head head;
		struct image_memory_entry memory;
		struct image_run_entry runs[];
	} * flat;
	size_t n_runs_bytes = extents->n * sizeof(*extents->runs);

	flat = calloc(1, sizeof(*flat) + n_runs_bytes);
	if (!flat)
		return -ENOMEM;
	flat->head.n_memories = 1;
	flat->head.n_runs = extents->n;
	flat->memory = (struct image_memory_entry){ .name = "memory",
						    .length_bytes = length_bytes,
						    .page_bytes = IMAGE_BLOCK_BYTES,
						    .n_runs = extents->n };
	if (n_runs_bytes)
		memcpy(flat->runs, extents->runs, n_runs_bytes);
	*index = (struct image_index){ .bytes = flat,
				       .n_bytes = sizeof(*flat) + n_runs_bytes,
				       .head = &flat->head,
				       .hint = "",
				       .memories = &flat->memory,
				       .runs = flat->runs };
	return 0;
}

int image_layer_open_flat(struct image_layer **ret, const char *path, int fd, bool is_diff,
			  const char **ret_error)
{
	_cleanup_(image_layer_freep) struct image_layer *layer = NULL;
	struct extents extents = {};
	uint64_t length;
	int r;

	r = layer_new(&layer, path, fd, ret_error);
	if (r < 0)
		return r;
	length = layer->identity.length_bytes;
	if (!length || !is_aligned(length, IMAGE_BLOCK_BYTES) ||
	    length / IMAGE_BLOCK_BYTES > IMAGE_MAX_BLOCKS)
		return image_fail(ret_error, -EINVAL,
				  "%s has %llu bytes, which is no multiple of a page: no memory "
				  "file",
				  path, (unsigned long long)length);
	layer->is_flat = true;
	r = find_extents(layer, is_diff, &extents);
	if (r == 0)
		r = make_index(&layer->index, length, &extents);
	free(extents.runs);
	if (r == -EINVAL)
		return image_fail(
			ret_error, r,
			"%s is on a file system or device that does not tell holes, and so cannot be "
			"a difference",
			path);
	if (r < 0)
		return image_fail(ret_error, r, "%s: %s", path,
				  r == -EFBIG ? "too many extents" : strerror(-r));
	if (image_layer_has_changed(layer))
		return image_fail(ret_error, -ESTALE, "%s was changed while it was opened", path);
	*ret = TAKE_PTR(layer);
	return 0;
}

bool image_layer_has_changed(const struct image_layer *layer)
{
	struct source_identity now;

	return source_identify(layer->fd, &now) || !source_is_same_file(&now, &layer->identity);
}
