/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An image that is open: its memories, and where each block of them lies. With its parents it is a
 * chain; a block is taken from the first layer that has it. Memories of one name belong together;
 * what only a parent has is not there.
 *
 * Files of other formats are images, too (image-foreign.h): the same calls read them.
 *
 * It does not change after it was opened: any number of threads may use it.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "image/format.h"

#define IMAGE_MAX_LAYERS  64
#define IMAGE_DIGEST_TEXT (2 * IMAGE_DIGEST_BYTES + 1)

struct image;
struct image_layer;

struct image_open_opts {
	const uint8_t *
		digest; /* this one, which need not be the last commit of its file; NULL: the last */
	bool without_parents; /* a layer is refused: who gave the file may not name others */
	bool is_source; /* guests live on it: files that somebody else answers for are refused (-EREMOTE) */
	bool without_chain; /* open the layer alone: its parent's blocks are IMAGE_PLACE_ABSENT */
};

/**
 * image_open() - open an image and its parents
 * @path:      of the file, or its name for messages if @fd is given
 * @fd:        borrowed; its open file, or -1: @path is opened
 * @opts:      may be NULL
 * @ret_error: set on failure: a sentence that names the file and what to do, the thread's own, good
 *	       until this thread's next call; may be NULL
 *
 * A parent is searched where the hint of its child says (from the child's folder), then under the
 * same name beside the child; it must have the digest that the child asks for, be it in an older
 * commit.
 * Context: any; blocks, allocates. Return: 0, -EBADMSG (damaged, or no image), -EPROTONOSUPPORT (a
 * newer release is needed), -EFBIG (its index is too large), -ENOENT (a file is missing), -ESTALE
 * (a parent has another digest), -ELOOP (more than 64 layers, or a circle), -EXDEV
 * (@opts->without_parents), -ESPIPE (no regular file), -errno.
 */
int image_open(struct image **ret, const char *path, int fd, const struct image_open_opts *opts,
	       const char **ret_error);
struct image *image_ref(struct image *image);
struct image *image_unref(struct image *image);
DEFINE_CLEANUP(struct image, image_unref)

/* Readable. */
struct image_memory {
	char name[IMAGE_NAME_BYTES];
	uint64_t length_bytes, page_bytes;
	enum image_kind kind;
};

uint32_t image_n_memories(const struct image *image);
const struct image_memory *image_memory(const struct image *image, uint32_t memory);

/* Return: false if it has none of that name. */
bool image_find_memory(const struct image *image, const char *name, uint32_t *ret);

/* All zero for other formats. */
const uint8_t *image_digest(const struct image *image);
void image_digest_text(const uint8_t digest[IMAGE_DIGEST_BYTES], char text[IMAGE_DIGEST_TEXT]);
/* Return: false if @text is none. */
bool image_digest_parse(const char *text, uint8_t ret[IMAGE_DIGEST_BYTES]);

enum image_place_kind {
	IMAGE_PLACE_ZERO,
	IMAGE_PLACE_DATA,
	IMAGE_PLACE_ABSENT, /* only when opened without its chain */
};

/* Where blocks lie. Readable. */
struct image_place {
	enum image_place_kind kind;
	uint64_t n_blocks;		 /* for how many blocks this holds; 1 at least */
	const struct image_layer *layer; /* whose file; for the rest of this struct */
	enum image_codec codec;
	uint64_t offset;       /* raw: of the block; else of the frame */
	uint32_t stored_bytes; /* of the frame; raw: of n_blocks */
	uint32_t frame_blocks; /* what decoding gives; raw: n_blocks */
	uint32_t frame_block;  /* the first wanted one in it; raw: 0 */
	uint32_t frame;	       /* its number in the layer */
	const uint64_t *
		checksums; /* raw: of each block; else of the frame. NULL: other formats have none */
};

/*
 * What lies at @block, which is in the memory, looking no further than @max blocks (1 at least).
 * Reads nothing. Context: any, demand too; does not block.
 */
void image_locate(const struct image *image, uint32_t memory, uint64_t block, uint64_t max,
		  struct image_place *ret);

/* ---- reading with patience: not for the demand thread ---- */

/* One reader's buffers, and the frame it decoded last. */
struct image_cursor;
int image_cursor_new(struct image_cursor **ret, struct image *image);
struct image_cursor *image_cursor_free(struct image_cursor *cursor);
DEFINE_CLEANUP(struct image_cursor, image_cursor_free)

/**
 * image_read_pages() - bytes of @count pages of a memory, through the chain, checked
 *
 * Context: any thread, one at a time per cursor; blocks. Return: 0, -EINVAL (beyond the memory),
 * -EBADMSG (a broken frame), -ENODATA (the file was cut), -errno. @ret_error names file and offset.
 */
int image_read_pages(struct image_cursor *cursor, uint32_t memory, uint64_t first_page,
		     uint64_t count, void *buffer, const char **ret_error);

/*
 * The next run of pages that are all zero (IMAGE_PLACE_ZERO), absent, or neither, from @first_page
 * on; at most @count. Reads nothing. Return: enum image_place_kind.
 */
int image_extent(const struct image *image, uint32_t memory, uint64_t first_page, uint64_t count,
		 uint64_t *ret_count);
