/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writes images: pages in any order, each as often as its content changes. The last one counts.
 *
 * Everything goes to the end of the file, so a pipe will do; nothing is read back. The writer keeps
 * 1 MiB a GiB of guest memory for the map, and for each 64 KiB written 40 bytes (raw: 160). It
 * compresses in the calling thread.
 *
 * Context of all: bulk, one thread at a time; blocks on the file, allocates. After an error other
 * than -EINVAL only image_writer_free() is allowed: the file then ends in something that is no
 * footer, and readers find the last commit before.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "image/format.h"

struct image_writer;

struct image_parent {
	uint8_t digest[IMAGE_DIGEST_BYTES];
	const char *
		hint; /* path of the parent's file as seen from the child's folder; searched beside the child, too */
};

struct image_writer_opts {
	enum image_codec codec; /* frames that do not shrink are raw all the same */
	int level;		/* of zstd; 0 is its default */
	const struct image_parent
		*parent; /* makes a layer: what is not written is the parent's. May be NULL */
};

/* "none", "lz4", "zstd", "zstd:N". Return: 0, -EINVAL. */
int image_codec_parse(const char *text, enum image_codec *ret_codec, int *ret_level);
const char *image_codec_name(enum image_codec codec);

/**
 * image_writer_new() - begin an image
 * @fd: borrowed; an empty file at its beginning, or a pipe or socket (blocking)
 *
 * Return: 0, -ENOTEMPTY, -EINVAL (options), -ENOMEM, -errno of the file.
 */
int image_writer_new(struct image_writer **ret, int fd, const struct image_writer_opts *opts);

/**
 * image_writer_append() - go on with an image
 * @fd: borrowed; readable and writable, a regular file. What lies behind its last footer is cut off
 *
 * Its memories keep their numbers. @opts->parent must be NULL: it stays. Return: as
 * image_writer_new(), and -EBADMSG (no sound image), -EPROTONOSUPPORT (a newer release wrote it),
 * -EBUSY (somebody else writes to it).
 */
int image_writer_append(struct image_writer **ret, int fd, const struct image_writer_opts *opts,
			const char **ret_error);
struct image_writer *image_writer_free(struct image_writer *writer);
DEFINE_CLEANUP(struct image_writer, image_writer_free)

/**
 * image_writer_add_memory() - declare a memory
 * @name:  1 to 63 bytes, unique
 * @kind:  enum image_kind
 * @ret:   its number, from 0
 *
 * Return: 0, -EINVAL, -EEXIST, -ENOSPC (64), -ENOMEM.
 */
int image_writer_add_memory(struct image_writer *writer, const char *name, uint64_t length_bytes,
			    uint64_t page_bytes, enum image_kind kind, uint32_t *ret);

/*
 * A memory that grew. Return: 0, -EINVAL (it would shrink, or is no multiple of its pages),
 * -ENOMEM.
 */
int image_writer_grow(struct image_writer *writer, uint32_t memory, uint64_t length_bytes);

/**
 * image_writer_pages() - what @count pages from @first_page on hold now
 * @data: borrowed; zeros in it are found and cost nothing
 *
 * In pages of the memory. Neighbours that come one after the other share a frame. Return: 0,
 * -EINVAL (beyond the memory), -errno.
 */
int image_writer_pages(struct image_writer *writer, uint32_t memory, uint64_t first_page,
		       const void *data, uint64_t count);

/* They are zero, or were discarded; in a layer: whatever the parent has. Return: as above. */
int image_writer_zero(struct image_writer *writer, uint32_t memory, uint64_t first_page,
		      uint64_t count);

/* The same in blocks of 4 KiB, whatever the pages are. */
int image_writer_blocks(struct image_writer *writer, uint32_t memory, uint64_t block,
			const void *data, uint64_t n_blocks);
int image_writer_zero_blocks(struct image_writer *writer, uint32_t memory, uint64_t block,
			     uint64_t n_blocks);

/**
 * image_writer_commit() - make what was written until now the image, and put it on the disk
 * @ret_digest: the image's, for children; may be NULL
 *
 * Until it returns a reader finds the commit before, if any. More may be written afterwards, and
 * committed again. Return: 0, -errno.
 */
int image_writer_commit(struct image_writer *writer, uint8_t ret_digest[IMAGE_DIGEST_BYTES]);

/* Readable. */
struct image_writer_stats {
	uint64_t data_bytes;   /* given to image_writer_pages(), but zeros */
	uint64_t zero_bytes;   /* zeros in them */
	uint64_t stored_bytes; /* of frames */
	uint64_t file_bytes;
};
void image_writer_get_stats(const struct image_writer *writer, struct image_writer_stats *ret);
