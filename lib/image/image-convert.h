/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* From one form into another. */
#pragma once

#include <stdint.h>

#include "image/image-reader.h"
#include "image/image-writer.h"

/* Readable. */
struct image_convert {
	void (*on_progress)(void *userdata, uint64_t done_bytes,
			    uint64_t total_bytes); /* may be NULL */
	void *userdata;
	struct image_writer_stats stats;    /* set */
	uint8_t digest[IMAGE_DIGEST_BYTES]; /* set; of other formats zero */
};

#define IMAGE_ALL_MEMORIES UINT32_MAX

/**
 * image_convert() - write an image anew, with its chain or as a layer
 * @memory: the only one that is taken, or IMAGE_ALL_MEMORIES
 * @fd:     as image_writer_new(); committed
 * @opts:   how; with @opts->parent only what is different in @parent is written
 * @parent: the parent opened; NULL without one
 *
 * Context: any; blocks. Return: 0, -errno with a sentence.
 */
int image_convert(struct image *image, uint32_t memory, int fd,
		  const struct image_writer_opts *opts, struct image *parent,
		  struct image_convert *convert, const char **ret_error);

/**
 * image_append() - continue an image by what another one holds
 * @fd:   of the image that is continued, as image_writer_append(); committed
 * @old:  the same, opened
 * @opts: how; without a parent
 *
 * A memory of the same name has the same content afterwards, and may have grown; others stay. Until
 * it returns, and if it fails, readers find what was there before. Return: as above; -EINVAL if a
 * memory would shrink.
 */
int image_append(struct image *image, int fd, struct image *old,
		 const struct image_writer_opts *opts, struct image_convert *convert,
		 const char **ret_error);

/**
 * image_convert_raw() - write a memory as it is, with holes where it is zero
 * @fd: borrowed; an empty regular file
 *
 * That is what Firecracker and Cloud Hypervisor read as well. @image opened without its chain gives
 * the holes of a difference: then what is zero is written. Return: as above.
 */
int image_convert_raw(struct image *image, uint32_t memory, int fd, struct image_convert *convert,
		      const char **ret_error);
