/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Bytes on their way into an image. */
#include "image/image-stream.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/files.h"
#include "base/units.h"

int image_stream_init(struct image_stream *stream, int fd, uint64_t offset)
{
	stream->fd = fd;
	stream->offset = offset;
	stream->n_buffer = 0;
	stream->buffer = malloc(IMAGE_STREAM_BYTES);
	return stream->buffer ? 0 : -ENOMEM;
}

void image_stream_done(struct image_stream *stream)
{
	free(stream->buffer);
	stream->buffer = NULL;
}

static int stream_flush(struct image_stream *stream)
{
	int r = fd_write_all(stream->fd, stream->buffer, stream->n_buffer);

	if (r < 0)
		return r;
	stream->n_buffer = 0;
	return 0;
}

/* @n_bytes in the buffer, at most all of it. Return: 0, -errno. */
static int stream_reserve(struct image_stream *stream, size_t n_bytes)
{
	return stream->n_buffer + n_bytes > IMAGE_STREAM_BYTES ? stream_flush(stream) : 0;
}

static int stream_pad(struct image_stream *stream, uint64_t n_bytes)
{
	int r = stream_reserve(stream, n_bytes);

	if (r < 0)
		return r;
	memset(stream->buffer + stream->n_buffer, 0, n_bytes);
	image_stream_use(stream, n_bytes);
	return 0;
}

/* We are at a multiple of the stride. */
static int stream_mark(struct image_stream *stream)
{
	struct image_mark mark = { .magic = IMAGE_MARK_MAGIC,
				   .offset = stream->offset,
				   .footer = stream->footer };
	int r;

	r = stream_reserve(stream, sizeof(mark));
	if (r < 0)
		return r;
	memcpy(mark.id, stream->id, sizeof(mark.id));
	mark.checksum = XXH3_64bits(&mark, offsetof(struct image_mark, checksum));
	memcpy(stream->buffer + stream->n_buffer, &mark, sizeof(mark));
	image_stream_use(stream, sizeof(mark));
	return 0;
}

static bool is_at_mark(const struct image_stream *stream)
{
	return stream->offset && is_aligned(stream->offset, IMAGE_STRIDE);
}

int image_stream_room(struct image_stream *stream, size_t n_bytes, uint64_t align, void **ret)
{
	uint64_t start, stride;
	int r = 0;

	assert(n_bytes <= IMAGE_FRAME_BYTES && align <= IMAGE_BLOCK_BYTES);

	if (is_at_mark(stream))
		r = stream_mark(stream);
	start = align_up(stream->offset, align);
	stride = align_down(stream->offset, IMAGE_STRIDE) + IMAGE_STRIDE;
	if (r == 0 && start + n_bytes > stride) {
		r = stream_pad(stream, stride - stream->offset);
		if (r == 0)
			r = stream_mark(stream);
		start = align_up(stream->offset, align);
	}
	if (r == 0)
		r = stream_pad(stream, start - stream->offset);
	if (r == 0)
		r = stream_reserve(stream, n_bytes);
	if (r < 0)
		return r;
	*ret = stream->buffer + stream->n_buffer;
	return 0;
}

void image_stream_use(struct image_stream *stream, size_t n_bytes)
{
	stream->n_buffer += n_bytes;
	stream->offset += n_bytes;
}

int image_stream_put(struct image_stream *stream, const void *bytes, size_t n_bytes)
{
	const unsigned char *from = bytes;

	while (n_bytes) {
		uint64_t left = IMAGE_STRIDE - (stream->offset & (IMAGE_STRIDE - 1));
		size_t n;
		int r;

		r = is_at_mark(stream) ? stream_mark(stream) : 0;
		if (r == 0 && stream->n_buffer == IMAGE_STREAM_BYTES)
			r = stream_flush(stream);
		if (r < 0)
			return r;
		left = IMAGE_STRIDE - (stream->offset & (IMAGE_STRIDE - 1));
		n = min_u64(min_u64(n_bytes, left), IMAGE_STREAM_BYTES - stream->n_buffer);
		memcpy(stream->buffer + stream->n_buffer, from, n);
		image_stream_use(stream, n);
		from += n;
		n_bytes -= n;
	}
	return 0;
}

int image_stream_sync(struct image_stream *stream)
{
	int r = stream_flush(stream);

	if (r < 0)
		return r;
	/* a pipe has nothing to sync, and says so */
	return fdatasync(stream->fd) < 0 && errno != EINVAL && errno != EROFS ? -errno : 0;
}
