/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One file of a chain. Either an image, with its index; or a file of another format, whose blocks
 * lie in it in order: then its runs are its extents of data, and nothing is checked on use but that
 * the file is as it was when it was opened.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "image/image-index.h"
#include "source/source.h"

/* Readable. */
struct image_layer {
	int fd;	    /* owned */
	char *path; /* owned; for messages, and to find its parent from */
	uint8_t digest[IMAGE_DIGEST_BYTES];
	uint64_t generation;
	uint64_t end_bytes; /* of its last footer */
	int64_t created_s;
	bool is_flat;			 /* of another format */
	bool is_remote;			 /* somebody else answers for it */
	struct source_identity identity; /* as it was opened */
	struct image_index index;
};

struct image_layer_opts {
	const uint8_t *digest;	  /* of the commit wanted; NULL: the last */
	uint64_t max_index_bytes; /* more is refused */
	bool is_local; /* files that somebody else answers for are refused, before they are read */
};

/*
 * @path: for messages, if @fd (borrowed) is given; else it is opened.
 * Context: any; blocks. Return: as image_open().
 */
int image_layer_open(struct image_layer **ret, const char *path, int fd,
		     const struct image_layer_opts *opts, const char **ret_error);

/*
 * A file of another format. @is_diff: holes are not there, else they are zero. Its one memory is
 * called `memory`. Return: 0, -EINVAL (not a multiple of 4 KiB long, or empty), -EFBIG, -errno.
 */
int image_layer_open_flat(struct image_layer **ret, const char *path, int fd, bool is_diff,
			  const char **ret_error);
struct image_layer *image_layer_free(struct image_layer *layer);
DEFINE_CLEANUP(struct image_layer, image_layer_free)

/* A flat one only: is it another file by now? Context: any; does not block. */
bool image_layer_has_changed(const struct image_layer *layer);
