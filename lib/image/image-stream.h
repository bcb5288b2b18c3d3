/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The bytes of an image on their way to its file, in order: buffered, aligned, with a mark at every
 * stride. Context of all: bulk; blocks on the file.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "image/format.h"

#define IMAGE_STREAM_BYTES (256 * 1024)

/* Embedded in the writer; offset is readable. */
struct image_stream {
	int fd;		 /* borrowed */
	uint64_t offset; /* of the next byte */
	uint64_t footer; /* the last one written, for marks; 0: none */
	uint8_t id[16];
	unsigned char *buffer; /* owned */
	size_t n_buffer;
};

/* @offset: of the file's next byte, where @fd stands. Return: 0, -ENOMEM. */
int image_stream_init(struct image_stream *stream, int fd, uint64_t offset);
void image_stream_done(struct image_stream *stream);

/**
 * image_stream_room() - room for @n_bytes (64 KiB at most) in one piece
 * @align: of their offset, a power of two
 *
 * Afterwards @stream->offset is where they will be. Return: 0, -errno.
 */
int image_stream_room(struct image_stream *stream, size_t n_bytes, uint64_t align, void **ret);
/* The first @n_bytes of the room are used. */
void image_stream_use(struct image_stream *stream, size_t n_bytes);

/* Bytes of any number, with marks within. Return: 0, -errno. */
int image_stream_put(struct image_stream *stream, const void *bytes, size_t n_bytes);

/* All of it into the file, and the file onto its disk, if it has one. Return: 0, -errno. */
int image_stream_sync(struct image_stream *stream);
