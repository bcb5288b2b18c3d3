/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* From one form into another. */
#include "image/image-convert.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/units.h"
#include "image/image-chain.h"
#include "image/image-cursor.h"
#include "image/image-diff.h"
#include "image/image-error.h"
#include "kernel/backing.h"

#define PIECE_BLOCKS 64

/* Readable. Where the blocks of one memory go. */
struct copy {
	struct image *image;
	uint32_t memory;
	struct image_cursor *cursor; /* owned */
	struct image_convert *convert;
	uint64_t done_bytes, total_bytes; /* of the memories before, of all */
	struct image_writer *writer;	  /* NULL: @fd */
	uint32_t number;		  /* the writer's */
	int fd;
	unsigned char bytes[PIECE_BLOCKS * IMAGE_BLOCK_BYTES];
};

static void copy_free(struct copy *copy)
{
	if (copy)
		image_cursor_free(copy->cursor);
	free(copy);
}
DEFINE_CLEANUP(struct copy, copy_free)

static int copy_new(struct copy **ret, struct image *image, struct image_convert *convert)
{
	_cleanup_(copy_freep) struct copy *copy = calloc(1, sizeof(*copy));
	int r;

	if (!copy)
		return -ENOMEM;
	copy->image = image;
	copy->convert = convert;
	r = image_cursor_new(&copy->cursor, image);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(copy);
	return 0;
}

static void copy_show(const struct copy *copy, uint64_t block)
{
	if (copy->convert->on_progress)
		copy->convert->on_progress(copy->convert->userdata,
					   copy->done_bytes + block * IMAGE_BLOCK_BYTES,
					   copy->total_bytes);
}

static int put_blocks(struct copy *copy, uint64_t block, uint64_t n_blocks, const void *bytes)
{
	uint64_t n_bytes = n_blocks * IMAGE_BLOCK_BYTES;

	if (copy->writer)
		return image_writer_blocks(copy->writer, copy->number, block, bytes, n_blocks);
	copy->convert->stats.data_bytes += n_bytes;
	copy->convert->stats.stored_bytes += n_bytes;
	return backing_write(copy->fd, block * IMAGE_BLOCK_BYTES, bytes, n_bytes);
}

/* A zero run of a layer that stands alone hides what its parent has. */
static int put_zeros(struct copy *copy, uint64_t block, uint64_t n_blocks)
{
	int r = 0;

	if (copy->writer || !copy->image->is_cut)
		return 0; /* nothing, or a hole: it is so from the beginning */
	memset(copy->bytes, 0, sizeof(copy->bytes));
	for (uint64_t n; r == 0 && n_blocks; block += n, n_blocks -= n) {
		n = min_u64(n_blocks, PIECE_BLOCKS);
		r = put_blocks(copy, block, n, copy->bytes);
	}
	return r;
}

static int copy_memory(struct copy *copy, const char **ret_error)
{
	uint64_t n_blocks = copy->image->memories[copy->memory].length_bytes / IMAGE_BLOCK_BYTES;
	struct image_place place;
	uint64_t n;
	int r = 0;

	for (uint64_t block = 0; r == 0 && block < n_blocks; block += n) {
		image_locate(copy->image, copy->memory, block, n_blocks - block, &place);
		n = place.n_blocks;
		if (place.kind == IMAGE_PLACE_ZERO) {
			r = put_zeros(copy, block, n);
		} else if (place.kind == IMAGE_PLACE_DATA) {
			n = min_u64(n, PIECE_BLOCKS);
			r = image_read_blocks(copy->cursor, copy->memory, block, n, copy->bytes,
					      ret_error);
			if (r < 0)
				return r;
			r = put_blocks(copy, block, n, copy->bytes);
		}
		copy_show(copy, block + n);
	}
	return r < 0 ? image_fail(ret_error, r, "the copy cannot be written: %s", strerror(-r)) : 0;
}

/* ---- only what is different ---- */

static int on_run(void *userdata, uint64_t block, uint64_t n_blocks, const void *data)
{
	struct copy *copy = userdata;
	uint64_t end = copy->image->memories[copy->memory].length_bytes / IMAGE_BLOCK_BYTES;

	if (block >= end)
		return 0; /* the parent's was longer */
	n_blocks = min_u64(n_blocks, end - block);
	copy_show(copy, block);
	return data ? image_writer_blocks(copy->writer, copy->number, block, data, n_blocks)
		    : image_writer_zero_blocks(copy->writer, copy->number, block, n_blocks);
}

static int copy_difference(struct copy *copy, struct image *parent, const char **ret_error)
{
	const char *name = copy->image->memories[copy->memory].name, *why = NULL;
	uint32_t old;
	int r;

	/* what the parent does not have is new, and the writer makes no zeros of it */
	if (!image_find_memory(parent, name, &old))
		return copy_memory(copy, ret_error);
	r = image_diff(parent, old, copy->image, copy->memory, on_run, copy, &why);
	if (r < 0)
		return image_fail(ret_error, r, "%s", why ?: "the difference cannot be written");
	return 0;
}

/* ---- all of it ---- */

/* Its number there, if @old is what is continued. */
static int declare(struct copy *copy, const struct image_memory *info, const struct image *old)
{
	if (old && image_find_memory(old, info->name, &copy->number))
		return image_writer_grow(copy->writer, copy->number, info->length_bytes);
	return image_writer_add_memory(copy->writer, info->name, info->length_bytes,
				       info->page_bytes, info->kind, &copy->number);
}

static bool is_taken(uint32_t wanted, uint32_t memory)
{
	return wanted == IMAGE_ALL_MEMORIES || wanted == memory;
}

/* @old: what is continued, or NULL; @base: what only differences to are written, or NULL. */
static int copy_all(struct copy *copy, uint32_t memory, const struct image *old, struct image *base,
		    const char **ret_error)
{
	int r = 0;

	for (uint32_t i = 0; i < image_n_memories(copy->image); i++)
		if (is_taken(memory, i))
			copy->total_bytes += image_memory(copy->image, i)->length_bytes;
	for (uint32_t i = 0; r == 0 && i < image_n_memories(copy->image); i++) {
		const struct image_memory *info = image_memory(copy->image, i);

		if (!is_taken(memory, i))
			continue;
		copy->memory = i;
		r = declare(copy, info, old);
		if (r < 0)
			return image_fail(ret_error, r, "memory %s: %s", info->name, strerror(-r));
		r = base ? copy_difference(copy, base, ret_error) : copy_memory(copy, ret_error);
		copy->done_bytes += info->length_bytes;
	}
	return r;
}

static int commit(struct copy *copy, const char **ret_error)
{
	int r = image_writer_commit(copy->writer, copy->convert->digest);

	if (r < 0)
		return image_fail(ret_error, r, "the copy cannot be written: %s", strerror(-r));
	image_writer_get_stats(copy->writer, &copy->convert->stats);
	return 0;
}

int image_convert(struct image *image, uint32_t memory, int fd,
		  const struct image_writer_opts *opts, struct image *parent,
		  struct image_convert *convert, const char **ret_error)
{
	_cleanup_(image_writer_freep) struct image_writer *writer = NULL;
	_cleanup_(copy_freep) struct copy *copy = NULL;
	int r;

	r = image_writer_new(&writer, fd, opts);
	if (r == 0)
		r = copy_new(&copy, image, convert);
	if (r < 0)
		return image_fail(ret_error, r, "the copy cannot be begun: %s", strerror(-r));
	copy->writer = writer;
	r = copy_all(copy, memory, NULL, parent, ret_error);
	return r < 0 ? r : commit(copy, ret_error);
}

int image_append(struct image *image, int fd, struct image *old,
		 const struct image_writer_opts *opts, struct image_convert *convert,
		 const char **ret_error)
{
	_cleanup_(image_writer_freep) struct image_writer *writer = NULL;
	_cleanup_(copy_freep) struct copy *copy = NULL;
	int r = copy_new(&copy, image, convert);

	if (r < 0)
		return image_fail(ret_error, r, "the copy cannot be begun: %s", strerror(-r));
	r = image_writer_append(&writer, fd, opts, ret_error);
	if (r < 0)
		return r;
	copy->writer = writer;
	r = copy_all(copy, IMAGE_ALL_MEMORIES, old, old, ret_error);
	return r < 0 ? r : commit(copy, ret_error);
}

int image_convert_raw(struct image *image, uint32_t memory, int fd, struct image_convert *convert,
		      const char **ret_error)
{
	const struct image_memory *info = image_memory(image, memory);
	_cleanup_(copy_freep) struct copy *copy = NULL;
	int r;

	r = copy_new(&copy, image, convert);
	if (r < 0)
		return image_fail(ret_error, r, "the copy cannot be begun: %s", strerror(-r));
	copy->memory = memory;
	copy->fd = fd;
	copy->total_bytes = info->length_bytes;
	r = copy_memory(copy, ret_error);
	if (r < 0)
		return r;
	/* no sooner: what was cut short must not look like all of it */
	if (ftruncate(fd, (off_t)info->length_bytes) < 0 || fsync(fd) < 0)
		return image_fail(ret_error, -errno, "the copy cannot be written: %s",
				  strerror(errno));
	convert->stats.file_bytes = info->length_bytes;
	return 0;
}
