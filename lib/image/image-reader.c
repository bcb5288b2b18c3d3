/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Chains: opened, and asked where a block lies. */
#include "image/image-reader.h"

#include <errno.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/units.h"
#include "image/image-chain.h"
#include "image/image-error.h"

/*
 * Of an image that a stranger passed: he may cost us no more memory than this, some 20 GiB of a raw
 * guest.
 */
#define STRANGERS_INDEX (64 * MIB)

struct image *image_ref(struct image *image)
{
	atomic_fetch_add_explicit(&image->n_refs, 1, memory_order_relaxed);
	return image;
}

struct image *image_unref(struct image *image)
{
	/* acq_rel: whoever frees sees what every other holder did before it let go */
	if (!image || atomic_fetch_sub_explicit(&image->n_refs, 1, memory_order_acq_rel) != 1)
		return NULL;
	for (uint32_t i = 0; i < image->n_layers; i++)
		image_layer_free(image->layers[i]);
	free(image);
	return NULL;
}

/* ---- the chain ---- */

static int8_t find_number(const struct image_index *index, const char *name)
{
	for (uint32_t i = 0; i < index->head->n_memories; i++)
		if (strcmp(index->memories[i].name, name) == 0)
			return (int8_t)i;
	return -1;
}

void image_opening_done(struct image_opening *opening)
{
	for (uint32_t i = 0; i < opening->n; i++)
		image_layer_free(opening->layers[i]);
}

int image_opening_finish(struct image_opening *opening, struct image **ret)
{
	struct image *image = calloc(1, sizeof(*image));
	const struct image_index *top = &opening->layers[0]->index;

	if (!image)
		return -ENOMEM;
	image->n_refs = 1;
	image->n_layers = opening->n;
	memcpy(image->layers, opening->layers, opening->n * sizeof(opening->layers[0]));
	opening->n = 0;
	image->n_memories = top->head->n_memories;
	for (uint32_t i = 0; i < image->n_memories; i++) {
		const struct image_memory_entry *entry = &top->memories[i];

		image->memories[i] = (struct image_memory){ .length_bytes = entry->length_bytes,
							    .page_bytes = entry->page_bytes,
							    .kind = entry->kind };
		memcpy(image->memories[i].name, entry->name, IMAGE_NAME_BYTES);
		for (uint32_t j = 0; j < image->n_layers; j++)
			image->numbers[j][i] = find_number(&image->layers[j]->index, entry->name);
	}
	*ret = image;
	return 0;
}

/* Where the child's file is: its folder, with a final slash. A file without a name is nowhere. */
static void folder_of(const struct image_layer *child, char folder[PATH_MAX])
{
	char link[32];
	const char *slash;
	ssize_t n;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", child->fd);
	n = readlink(link, folder, PATH_MAX - 1);
	folder[n > 0 ? n : 0] = '\0';
	slash = strrchr(folder, '/');
	folder[slash && folder[0] == '/' ? slash - folder + 1 : 0] = '\0';
}

/* The @number-th place to look for the parent. Return: false: there is no such place. */
static bool candidate(const struct image_layer *child, unsigned int number, char path[PATH_MAX])
{
	const char *hint = child->index.hint, *slash;
	int n_hint = (int)child->index.head->hint_bytes, n = -1;
	char folder[PATH_MAX];

	folder_of(child, folder);
	if (number > 1 || !n_hint)
		return false;
	slash = memrchr(hint, '/', (size_t)n_hint);
	if (number == 0 && hint[0] == '/')
		n = snprintf(path, PATH_MAX, "%.*s", n_hint, hint);
	else if (number == 0)
		n = snprintf(path, PATH_MAX, "%s%.*s", folder, n_hint, hint);
	else if (slash)
		n = snprintf(path, PATH_MAX, "%s%.*s", folder, (int)(hint + n_hint - slash - 1),
			     slash + 1);
	return n > 0 && n < PATH_MAX && (folder[0] || hint[0] == '/');
}

/* Beside it, under its own name, a layer finds itself. */
static bool is_itself(const struct image_layer *child, const char *path)
{
	struct stat info;

	return stat(path, &info) == 0 && info.st_dev == child->identity.device &&
	       info.st_ino == child->identity.inode;
}

/* Return: 0, or the -errno of the place that came nearest, with its sentence. */
static int open_parent(const struct image_layer *child, bool is_local, struct image_layer **ret,
		       const char **ret_error)
{
	const struct image_layer_opts opts = { .digest = child->index.head->parent,
					       .max_index_bytes = IMAGE_MAX_INDEX,
					       .is_local = is_local };
	char path[PATH_MAX], wrong[PATH_MAX] = "", text[IMAGE_DIGEST_TEXT];
	const char *why = NULL;
	int r = -ENOENT;

	for (unsigned int i = 0; candidate(child, i, path); i++) {
		int found = -ENOENT;

		if (!is_itself(child, path))
			found = image_layer_open(ret, path, -1, &opts, &why);
		if (found == 0)
			return 0;
		if (found == -ENOENT || r != -ENOENT)
			continue;
		/* a sentence of its own; another image may still be followed by the right one */
		r = found;
		snprintf(wrong, sizeof(wrong), "%s", found == -ESTALE ? path : why);
	}
	image_digest_text(child->index.head->parent, text);
	if (r == -ENOENT)
		return image_fail(ret_error, r,
				  "the parent of %s is missing: image %s, once %.*s; put it beside "
				  "%s under its name",
				  child->path, text, (int)child->index.head->hint_bytes,
				  child->index.hint, child->path);
	if (r == -ESTALE)
		return image_fail(ret_error, r,
				  "%s is not the parent that %s was made from, which is image %s",
				  wrong, child->path, text);
	return image_fail(ret_error, r, "the parent of %s: %s", child->path, wrong);
}

/* The parents of the one layer that is open. */
static int open_parents(struct image_opening *opening, bool is_local, const char **ret_error)
{
	struct image_layer *child = opening->layers[0];
	int r;

	while (image_index_is_layer(&child->index)) {
		for (uint32_t i = 0; i < opening->n; i++)
			if (!memcmp(opening->layers[i]->digest, child->index.head->parent,
				    IMAGE_DIGEST_BYTES))
				return image_fail(ret_error, -ELOOP,
						  "%s has %s for a parent, which comes before it",
						  child->path, opening->layers[i]->path);
		if (opening->n == IMAGE_MAX_LAYERS)
			return image_fail(
				ret_error, -ELOOP,
				"%s has more than %d layers; flatten it where its parents "
				"are",
				opening->layers[0]->path, IMAGE_MAX_LAYERS);
		r = open_parent(child, is_local, &opening->layers[opening->n], ret_error);
		if (r < 0)
			return r;
		child = opening->layers[opening->n++];
	}
	return 0;
}

int image_open(struct image **ret, const char *path, int fd, const struct image_open_opts *opts,
	       const char **ret_error)
{
	static const struct image_open_opts none;
	_cleanup_(image_opening_done) struct image_opening opening = {};
	struct image_layer_opts layer_opts;
	bool is_layer;
	int r;

	opts = opts ?: &none;
	layer_opts = (struct image_layer_opts){
		.digest = opts->digest,
		.max_index_bytes = opts->without_parents ? STRANGERS_INDEX : IMAGE_MAX_INDEX,
		.is_local = opts->is_source,
	};
	r = image_layer_open(&opening.layers[0], path, fd, &layer_opts, ret_error);
	if (r < 0)
		return r;
	opening.n = 1;
	is_layer = image_index_is_layer(&opening.layers[0]->index);
	if (is_layer && opts->without_parents)
		return image_fail(ret_error, -EXDEV,
				  "%s is a layer, and its parents are found by its path only: name "
				  "it by path, or flatten it",
				  path);
	if (!opts->without_chain) {
		r = open_parents(&opening, opts->is_source, ret_error);
		if (r < 0)
			return r;
	}
	r = image_opening_finish(&opening, ret);
	if (r < 0)
		return image_fail(ret_error, r, "no memory for %s", path);
	(*ret)->is_cut = is_layer && opts->without_chain;
	return 0;
}

/* ---- what it is ---- */

uint32_t image_n_memories(const struct image *image)
{
	return image->n_memories;
}

const struct image_memory *image_memory(const struct image *image, uint32_t memory)
{
	return &image->memories[memory];
}

bool image_find_memory(const struct image *image, const char *name, uint32_t *ret)
{
	for (uint32_t i = 0; i < image->n_memories; i++)
		if (strcmp(image->memories[i].name, name) == 0) {
			*ret = i;
			return true;
		}
	return false;
}

const uint8_t *image_digest(const struct image *image)
{
	return image->layers[0]->digest;
}

void image_digest_text(const uint8_t digest[IMAGE_DIGEST_BYTES], char text[IMAGE_DIGEST_TEXT])
{
	for (unsigned int i = 0; i < IMAGE_DIGEST_BYTES; i++)
		snprintf(text + 2 * i, 3, "%02x", digest[i]);
}

bool image_digest_parse(const char *text, uint8_t ret[IMAGE_DIGEST_BYTES])
{
	uint8_t digest[IMAGE_DIGEST_BYTES];

	if (strlen(text) != IMAGE_DIGEST_TEXT - 1 ||
	    strspn(text, "0123456789abcdef") != IMAGE_DIGEST_TEXT - 1)
		return false;
	for (unsigned int i = 0; i < IMAGE_DIGEST_BYTES; i++)
		if (sscanf(text + 2 * i, "%2hhx", &digest[i]) != 1)
			return false;
	memcpy(ret, digest, IMAGE_DIGEST_BYTES);
	return true;
}

/* ---- where a block lies ---- */

/* @run holds @block. */
static void locate_run(const struct image_layer *layer, const struct image_run_entry *run,
		       uint64_t block, struct image_place *place)
{
	const struct image_frame_entry *frame;
	uint32_t skipped;

	place->layer = layer;
	place->n_blocks = min_u64(place->n_blocks, run->first_block + run->n_blocks - block);
	if (!layer->is_flat && run->frame == IMAGE_ZERO_FRAME) {
		place->kind = IMAGE_PLACE_ZERO;
		return;
	}
	place->kind = IMAGE_PLACE_DATA;
	if (layer->is_flat) {
		place->n_blocks = min_u64(place->n_blocks, IMAGE_STRIDE / IMAGE_BLOCK_BYTES);
		place->codec = IMAGE_RAW;
		place->offset = block * IMAGE_BLOCK_BYTES;
		place->checksums = NULL;
	} else {
		frame = &layer->index.frames[run->frame];
		skipped = (uint32_t)(block - frame->first_block);
		place->codec = frame->codec;
		place->frame = run->frame;
		place->offset = frame->offset;
		place->checksums = layer->index.checksums + frame->first_checksum;
		if (frame->codec != IMAGE_RAW) {
			place->stored_bytes = frame->stored_bytes;
			place->frame_blocks = frame->n_blocks;
			place->frame_block = skipped;
			return;
		}
		place->offset += (uint64_t)skipped * IMAGE_BLOCK_BYTES;
		place->checksums += skipped;
	}
	place->frame_blocks = (uint32_t)place->n_blocks;
	place->stored_bytes = place->frame_blocks * IMAGE_BLOCK_BYTES;
	place->frame_block = 0;
}

void image_locate(const struct image *image, uint32_t memory, uint64_t block, uint64_t max,
		  struct image_place *ret)
{
	*ret = (struct image_place){ .n_blocks = max };
	for (uint32_t i = 0; i < image->n_layers; i++) {
		const struct image_layer *layer = image->layers[i];
		int8_t number = image->numbers[i][memory];
		const struct image_run_entry *run;
		uint64_t end;
		bool is_in;

		/* what this parent does not have is not there, whatever its own parents had */
		if (number < 0)
			break;
		end = layer->index.memories[number].length_bytes / IMAGE_BLOCK_BYTES;
		if (block >= end)
			break;
		ret->n_blocks = min_u64(ret->n_blocks, end - block);
		run = image_index_find(&layer->index, (uint32_t)number, block, &is_in);
		if (is_in) {
			locate_run(layer, run, block, ret);
			return;
		}
		if (run)
			ret->n_blocks = min_u64(ret->n_blocks, run->first_block - block);
	}
	ret->layer = image->layers[0];
	ret->kind = image->is_cut ? IMAGE_PLACE_ABSENT : IMAGE_PLACE_ZERO;
}

bool image_place_is_sound(const struct image_place *place, const void *bytes, uint64_t *ret_wrong)
{
	uint64_t n_piece = place->codec == IMAGE_RAW ? IMAGE_BLOCK_BYTES : place->stored_bytes;
	const unsigned char *at = bytes;

	for (uint64_t i = 0; place->checksums && i * n_piece < place->stored_bytes; i++)
		if (XXH3_64bits(at + i * n_piece, n_piece) != place->checksums[i]) {
			*ret_wrong = i * n_piece;
			return false;
		}
	return true;
}

int image_extent(const struct image *image, uint32_t memory, uint64_t first_page, uint64_t count,
		 uint64_t *ret_count)
{
	uint64_t page_blocks = image->memories[memory].page_bytes / IMAGE_BLOCK_BYTES;
	uint64_t block = first_page * page_blocks, n_left = count * page_blocks, n = 0;
	enum image_place_kind kind = IMAGE_PLACE_ZERO;
	struct image_place place;

	for (; n_left; n += place.n_blocks, block += place.n_blocks, n_left -= place.n_blocks) {
		image_locate(image, memory, block, n_left, &place);
		if (n == 0)
			kind = place.kind;
		else if (place.kind != kind)
			break;
	}
	*ret_count = max_u64(n / page_blocks, 1);
	/* a page of several blocks that is mixed is data */
	return n < page_blocks ? IMAGE_PLACE_DATA : kind;
}
