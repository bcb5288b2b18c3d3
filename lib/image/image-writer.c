/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writes images.
 *
 * Blocks of one aligned 64 KiB gather in the one pending frame until a block of another 64 KiB
 * comes: so a frame is as large as the caller's order allows. A compressed frame spans all that is
 * pending, with zeros in its gaps, which no run points to; a raw one has no gaps.
 */
#include "image/image-writer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/units.h"
#include "image/image-codec.h"
#include "image/image-draft.h"
#include "image/image-error.h"
#include "image/image-index.h"

/* Blocks of one memory within one aligned 64 KiB, not written yet. */
struct pending {
	uint32_t memory;
	uint32_t blocks; /* which of them are here, a bit each */
	uint64_t first_block;
	unsigned char data[IMAGE_FRAME_BYTES];
};

struct image_writer {
	struct image_draft draft;
	struct image_encoder *encoder; /* owned; NULL: raw */
	enum image_codec codec;
	struct image_writer_stats stats;
	struct pending pending;
};

struct image_writer *image_writer_free(struct image_writer *writer)
{
	if (!writer)
		return NULL;
	image_draft_done(&writer->draft);
	image_encoder_free(writer->encoder);
	free(writer);
	return NULL;
}

/* ---- its beginning ---- */

static int writer_set_parent(struct image_writer *writer, const struct image_parent *parent)
{
	const char *hint = parent->hint ?: "";

	if (strlen(hint) > IMAGE_MAX_HINT)
		return -EINVAL;
	memcpy(writer->draft.parent, parent->digest, IMAGE_DIGEST_BYTES);
	writer->draft.hint = strdup(hint);
	return writer->draft.hint ? 0 : -ENOMEM;
}

static int writer_make(struct image_writer **ret, const struct image_writer_opts *opts)
{
	_cleanup_(image_writer_freep) struct image_writer *writer = NULL;
	int r = 0;

	if (opts->codec > IMAGE_ZSTD)
		return -EINVAL;
	writer = calloc(1, sizeof(*writer));
	if (!writer)
		return -ENOMEM;
	writer->codec = opts->codec;
	if (opts->codec != IMAGE_RAW)
		r = image_encoder_new(&writer->encoder, opts->codec, opts->level);
	if (r == 0 && opts->parent)
		r = writer_set_parent(writer, opts->parent);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(writer);
	return 0;
}

static int write_header(struct image_stream *stream)
{
	struct image_header header = { .magic = IMAGE_MAGIC,
				       .layout = IMAGE_LAYOUT,
				       .min_reader = IMAGE_LAYOUT,
				       .created_s = (uint64_t)time(NULL) };
	void *room;
	int r;

	if (getrandom(stream->id, sizeof(stream->id), 0) != sizeof(stream->id))
		return -errno;
	memcpy(header.id, stream->id, sizeof(header.id));
	header.checksum = XXH3_64bits(&header, offsetof(struct image_header, checksum));
	r = image_stream_room(stream, IMAGE_HEADER_BYTES, 1, &room);
	if (r < 0)
		return r;
	memset(room, 0, IMAGE_HEADER_BYTES);
	memcpy(room, &header, sizeof(header));
	image_stream_use(stream, IMAGE_HEADER_BYTES);
	return 0;
}

/*
 * Against a second writer, where the file system has locks; it goes with the open file. Return: 0,
 * -EBUSY.
 */
static int lock(int fd)
{
	return flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK ? -EBUSY : 0;
}

int image_writer_new(struct image_writer **ret, int fd, const struct image_writer_opts *opts)
{
	_cleanup_(image_writer_freep) struct image_writer *writer = NULL;
	struct stat info;
	int r = 0;

	if (fstat(fd, &info) < 0)
		return -errno;
	if (S_ISREG(info.st_mode))
		r = info.st_size || lseek(fd, 0, SEEK_CUR) ? -ENOTEMPTY : lock(fd);
	if (r == 0)
		r = writer_make(&writer, opts);
	if (r == 0)
		r = image_stream_init(&writer->draft.stream, fd, 0);
	if (r == 0)
		r = write_header(&writer->draft.stream);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(writer);
	return 0;
}

/* What the last commit says becomes what the next one begins with. Return: 0, -ENOMEM. */
static int writer_take(struct image_writer *writer, const struct image_index *index)
{
	struct image_frames *frames = &writer->draft.frames;
	uint32_t n_frames = index->head->n_frames;
	uint64_t n_checksums = index->head->n_checksums;
	int r;

	frames->frames = malloc(max_u64(n_frames, 1) * sizeof(*frames->frames));
	frames->checksums = malloc(max_u64(n_checksums, 1) * sizeof(*frames->checksums));
	if (!frames->frames || !frames->checksums)
		return -ENOMEM;
	memcpy(frames->frames, index->frames, n_frames * sizeof(*frames->frames));
	memcpy(frames->checksums, index->checksums, n_checksums * sizeof(*frames->checksums));
	frames->n_frames = frames->room_frames = n_frames;
	frames->n_checksums = frames->room_checksums = n_checksums;
	for (uint32_t i = 0; i < index->head->n_memories; i++) {
		const struct image_memory_entry *entry = &index->memories[i];
		struct image_map *map = &writer->draft.maps[i];

		r = image_map_init(map, entry->name, entry->length_bytes, entry->page_bytes,
				   entry->kind);
		if (r < 0)
			return r;
		writer->draft.n_maps++;
		for (uint64_t j = 0; j < entry->n_runs; j++) {
			const struct image_run_entry *run = &index->runs[entry->first_run + j];

			image_map_set(map, run->first_block, run->n_blocks,
				      run->frame == IMAGE_ZERO_FRAME ? IMAGE_MAP_ZERO
								     : IMAGE_MAP_FRAME(run->frame));
		}
	}
	return 0;
}

/* Behind the last footer. Return: 0, -errno. */
static int writer_go_to_end(struct image_writer *writer, int fd, const struct image_end *end)
{
	int r;

	if (ftruncate(fd, (off_t)end->end) < 0 || lseek(fd, (off_t)end->end, SEEK_SET) < 0)
		return -errno;
	r = image_stream_init(&writer->draft.stream, fd, end->end);
	if (r < 0)
		return r;
	memcpy(writer->draft.stream.id, end->header.id, sizeof(writer->draft.stream.id));
	writer->draft.stream.footer = end->footer.offset;
	writer->draft.generation = end->footer.generation;
	return 0;
}

int image_writer_append(struct image_writer **ret, int fd, const struct image_writer_opts *opts,
			const char **ret_error)
{
	_cleanup_(image_writer_freep) struct image_writer *writer = NULL;
	_cleanup_(image_index_done) struct image_index index = {};
	struct image_parent parent;
	struct image_end end;
	char hint[IMAGE_MAX_HINT + 1];
	int r;

	if (opts->parent)
		return image_fail(ret_error, -EINVAL, "the parent of an image stays what it is");
	if (lock(fd) < 0)
		return image_fail(ret_error, -EBUSY, "somebody else writes to the image");
	r = image_end_find(fd, "the image", NULL, &end, ret_error);
	if (r == 0)
		r = image_index_load(fd, "the image", &end, &index, ret_error);
	if (r < 0)
		return r;
	r = writer_make(&writer, opts);
	if (r == 0 && image_index_is_layer(&index)) {
		memcpy(hint, index.hint, index.head->hint_bytes);
		hint[index.head->hint_bytes] = '\0';
		parent.hint = hint;
		memcpy(parent.digest, index.head->parent, IMAGE_DIGEST_BYTES);
		r = writer_set_parent(writer, &parent);
	}
	if (r == 0)
		r = writer_take(writer, &index);
	if (r == 0)
		r = writer_go_to_end(writer, fd, &end);
	if (r < 0)
		return image_fail(ret_error, r, "the image cannot be continued: %s", strerror(-r));
	*ret = TAKE_PTR(writer);
	return 0;
}

int image_writer_add_memory(struct image_writer *writer, const char *name, uint64_t length_bytes,
			    uint64_t page_bytes, enum image_kind kind, uint32_t *ret)
{
	int r;

	for (uint32_t i = 0; i < writer->draft.n_maps; i++)
		if (strncmp(writer->draft.maps[i].entry.name, name, IMAGE_NAME_BYTES) == 0)
			return -EEXIST;
	if (writer->draft.n_maps == IMAGE_MAX_MEMORIES)
		return -ENOSPC;
	r = image_map_init(&writer->draft.maps[writer->draft.n_maps], name, length_bytes,
			   page_bytes, kind);
	if (r < 0)
		return r;
	*ret = writer->draft.n_maps++;
	return 0;
}

int image_writer_grow(struct image_writer *writer, uint32_t memory, uint64_t length_bytes)
{
	if (memory >= writer->draft.n_maps)
		return -EINVAL;
	return image_map_grow(&writer->draft.maps[memory], length_bytes);
}

/* ---- frames ---- */

/* Blocks @first to @end of the pending, which are all there, or may be told to be in its gaps. */
static uint32_t blocks_between(unsigned int first, unsigned int end)
{
	return ((UINT32_C(1) << end) - 1) & ~((UINT32_C(1) << first) - 1);
}

/* @frame is in the room. */
static void writer_add_frame(struct image_writer *writer, struct image_frame_entry *frame,
			     const void *room)
{
	struct pending *pending = &writer->pending;
	uint32_t number;

	frame->offset = writer->draft.stream.offset;
	number = image_frames_add(&writer->draft.frames, frame, room);
	image_stream_use(&writer->draft.stream, frame->stored_bytes);
	writer->stats.stored_bytes += frame->stored_bytes;
	for (unsigned int i = 0; i < frame->n_blocks; i++) {
		uint64_t block = frame->first_block + i;

		if (pending->blocks & UINT32_C(1) << (block - pending->first_block))
			image_map_set(&writer->draft.maps[pending->memory], block, 1,
				      IMAGE_MAP_FRAME(number));
	}
	pending->blocks &= ~blocks_between(
		(unsigned int)(frame->first_block - pending->first_block),
		(unsigned int)(frame->first_block - pending->first_block + frame->n_blocks));
}

/* Return: 0, -errno; what did not shrink is still pending. */
static int writer_compress(struct image_writer *writer, unsigned int first, unsigned int end)
{
	struct pending *pending = &writer->pending;
	unsigned char *bytes = pending->data + (size_t)first * IMAGE_BLOCK_BYTES;
	size_t n_bytes = (size_t)(end - first) * IMAGE_BLOCK_BYTES, n;
	struct image_frame_entry frame = { .first_block = pending->first_block + first,
					   .n_blocks = (uint16_t)(end - first),
					   .codec = (uint16_t)writer->codec };
	void *room;
	int r;

	for (unsigned int i = first; i < end; i++)
		if (!(pending->blocks & UINT32_C(1) << i))
			memset(pending->data + (size_t)i * IMAGE_BLOCK_BYTES, 0, IMAGE_BLOCK_BYTES);
	r = image_stream_room(&writer->draft.stream, n_bytes, 1, &room);
	if (r < 0)
		return r;
	/* what saves less is not worth the time of its readers */
	n = image_encode(writer->encoder, bytes, n_bytes, room, n_bytes - n_bytes / 16);
	if (n) {
		frame.stored_bytes = (uint32_t)n;
		writer_add_frame(writer, &frame, room);
	}
	return 0;
}

static int writer_store(struct image_writer *writer, unsigned int first, unsigned int end)
{
	struct pending *pending = &writer->pending;
	struct image_frame_entry frame = {
		.first_block = pending->first_block + first,
		.n_blocks = (uint16_t)(end - first),
		.codec = IMAGE_RAW,
		.stored_bytes = (end - first) * IMAGE_BLOCK_BYTES,
	};
	void *room;
	int r;

	r = image_stream_room(&writer->draft.stream, frame.stored_bytes, IMAGE_BLOCK_BYTES, &room);
	if (r == 0)
		r = image_frames_reserve(&writer->draft.frames);
	if (r < 0)
		return r;
	memcpy(room, pending->data + (size_t)first * IMAGE_BLOCK_BYTES, frame.stored_bytes);
	writer_add_frame(writer, &frame, room);
	return 0;
}

static int writer_flush(struct image_writer *writer)
{
	struct pending *pending = &writer->pending;
	unsigned int first, end;
	int r = 0;

	if (!pending->blocks)
		return 0;
	r = image_frames_reserve(&writer->draft.frames);
	if (r == 0 && writer->encoder) {
		first = (unsigned int)__builtin_ctz(pending->blocks);
		end = 32 - (unsigned int)__builtin_clz(pending->blocks);
		r = writer_compress(writer, first, end);
	}
	while (r == 0 && pending->blocks) {
		first = (unsigned int)__builtin_ctz(pending->blocks);
		end = first + (unsigned int)__builtin_ctz(~(pending->blocks >> first));
		r = writer_store(writer, first, end);
	}
	return r;
}

/* ---- pages ---- */

static bool is_zero(const unsigned char *bytes)
{
	return bytes[0] == 0 && memcmp(bytes, bytes + 1, IMAGE_BLOCK_BYTES - 1) == 0;
}

/* In blocks of the memory. Return: false: it has not that many. */
static bool to_blocks(const struct image_writer *writer, uint32_t memory, uint64_t first_page,
		      uint64_t count, uint64_t *ret_first, uint64_t *ret_count)
{
	const struct image_memory_entry *entry;
	uint64_t n_pages;

	if (memory >= writer->draft.n_maps)
		return false;
	entry = &writer->draft.maps[memory].entry;
	n_pages = entry->length_bytes / entry->page_bytes;
	if (first_page > n_pages || count > n_pages - first_page)
		return false;
	*ret_first = first_page * (entry->page_bytes / IMAGE_BLOCK_BYTES);
	*ret_count = count * (entry->page_bytes / IMAGE_BLOCK_BYTES);
	return true;
}

static void writer_set_zero(struct image_writer *writer, uint32_t memory, uint64_t block,
			    uint64_t n_blocks)
{
	struct pending *pending = &writer->pending;

	image_map_set(&writer->draft.maps[memory], block, n_blocks,
		      writer->draft.hint ? IMAGE_MAP_ZERO : IMAGE_MAP_NONE);
	if (pending->memory != memory)
		return;
	for (unsigned int i = 0; i < IMAGE_FRAME_BLOCKS; i++)
		if (pending->first_block + i >= block &&
		    pending->first_block + i < block + n_blocks)
			pending->blocks &= ~(UINT32_C(1) << i);
}

/* Blocks of one aligned 64 KiB. */
static int writer_take_blocks(struct image_writer *writer, uint32_t memory, uint64_t block,
			      unsigned int n_blocks, const unsigned char *data)
{
	struct pending *pending = &writer->pending;
	uint64_t first = align_down(block, IMAGE_FRAME_BLOCKS);
	int r = 0;

	if (pending->memory != memory || pending->first_block != first)
		r = writer_flush(writer);
	if (r < 0)
		return r;
	pending->memory = memory;
	pending->first_block = first;
	for (unsigned int i = 0; i < n_blocks; i++, block++, data += IMAGE_BLOCK_BYTES) {
		if (is_zero(data)) {
			writer_set_zero(writer, memory, block, 1);
			writer->stats.zero_bytes += IMAGE_BLOCK_BYTES;
			continue;
		}
		memcpy(pending->data + (block - first) * IMAGE_BLOCK_BYTES, data,
		       IMAGE_BLOCK_BYTES);
		pending->blocks |= UINT32_C(1) << (block - first);
		writer->stats.data_bytes += IMAGE_BLOCK_BYTES;
	}
	return 0;
}

static bool has_blocks(const struct image_writer *writer, uint32_t memory, uint64_t block,
		       uint64_t n_blocks)
{
	uint64_t n;

	if (memory >= writer->draft.n_maps)
		return false;
	n = writer->draft.maps[memory].entry.length_bytes / IMAGE_BLOCK_BYTES;
	return block <= n && n_blocks <= n - block;
}

int image_writer_blocks(struct image_writer *writer, uint32_t memory, uint64_t block,
			const void *data, uint64_t n_blocks)
{
	const unsigned char *from = data;
	int r = 0;

	if (!has_blocks(writer, memory, block, n_blocks))
		return -EINVAL;
	while (r == 0 && n_blocks) {
		uint64_t n = min_u64(n_blocks, IMAGE_FRAME_BLOCKS - block % IMAGE_FRAME_BLOCKS);

		r = writer_take_blocks(writer, memory, block, (unsigned int)n, from);
		block += n;
		n_blocks -= n;
		from += n * IMAGE_BLOCK_BYTES;
	}
	return r;
}

int image_writer_zero_blocks(struct image_writer *writer, uint32_t memory, uint64_t block,
			     uint64_t n_blocks)
{
	if (!has_blocks(writer, memory, block, n_blocks))
		return -EINVAL;
	writer_set_zero(writer, memory, block, n_blocks);
	return 0;
}

int image_writer_pages(struct image_writer *writer, uint32_t memory, uint64_t first_page,
		       const void *data, uint64_t count)
{
	uint64_t block, n_blocks;

	if (!to_blocks(writer, memory, first_page, count, &block, &n_blocks))
		return -EINVAL;
	return image_writer_blocks(writer, memory, block, data, n_blocks);
}

int image_writer_zero(struct image_writer *writer, uint32_t memory, uint64_t first_page,
		      uint64_t count)
{
	uint64_t block, n_blocks;

	if (!to_blocks(writer, memory, first_page, count, &block, &n_blocks))
		return -EINVAL;
	return image_writer_zero_blocks(writer, memory, block, n_blocks);
}

void image_writer_get_stats(const struct image_writer *writer, struct image_writer_stats *ret)
{
	*ret = writer->stats;
	ret->file_bytes = writer->draft.stream.offset;
}

int image_writer_commit(struct image_writer *writer, uint8_t ret_digest[IMAGE_DIGEST_BYTES])
{
	int r = writer_flush(writer);

	return r < 0 ? r : image_draft_commit(&writer->draft, ret_digest);
}
