/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The index of one layer. */
#include "image/image-index.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/cleanup.h"
#include "base/units.h"
#include "image/image-error.h"

/* @n_bytes that begin at @offset, without the marks among them. Return: 0, -ENODATA, -errno. */
static int read_between_marks(int fd, unsigned char *to, uint64_t n_bytes, uint64_t offset)
{
	while (n_bytes) {
		uint64_t left = IMAGE_STRIDE - (offset & (IMAGE_STRIDE - 1));
		uint64_t n = min_u64(left, n_bytes);
		int r = image_read_at(fd, to, n, offset);

		if (r < 0)
			return r;
		to += n;
		n_bytes -= n;
		offset += n;
		if (is_aligned(offset, IMAGE_STRIDE))
			offset += sizeof(struct image_mark);
	}
	return 0;
}

/* ---- checks: NULL, or what is wrong ---- */

static bool is_name(const char name[IMAGE_NAME_BYTES])
{
	size_t n = strnlen(name, IMAGE_NAME_BYTES);

	for (size_t i = 0; i < n; i++)
		if ((unsigned char)name[i] < ' ' || name[i] == 0x7f)
			return false;
	return n > 0 && n < IMAGE_NAME_BYTES;
}

static const char *check_memory(const struct image_index *index, uint32_t number,
				uint64_t *next_run)
{
	const struct image_memory_entry *memory = &index->memories[number];

	if (!is_name(memory->name))
		return "the name of a memory";
	for (uint32_t i = 0; i < number; i++)
		if (strcmp(index->memories[i].name, memory->name) == 0)
			return "two memories of one name";
	if (memory->page_bytes < IMAGE_BLOCK_BYTES || memory->page_bytes > GIB ||
	    (memory->page_bytes & (memory->page_bytes - 1)) ||
	    !is_aligned(memory->length_bytes, memory->page_bytes) ||
	    memory->length_bytes / IMAGE_BLOCK_BYTES > IMAGE_MAX_BLOCKS ||
	    memory->kind > IMAGE_PRIVATE)
		return "the size of a memory";
	if (memory->first_run != *next_run || memory->n_runs > index->head->n_runs - *next_run)
		return "the runs of a memory";
	*next_run += memory->n_runs;
	return NULL;
}

static const char *check_frame(const struct image_index *index, uint64_t end,
			       const struct image_frame_entry *frame)
{
	uint64_t n_bytes = (uint64_t)frame->n_blocks * IMAGE_BLOCK_BYTES, n_checksums = 1;

	if (frame->codec > IMAGE_ZSTD)
		return "the codec of a frame";
	if (frame->codec == IMAGE_RAW)
		n_checksums = frame->n_blocks;
	if (!frame->n_blocks || frame->n_blocks > IMAGE_FRAME_BLOCKS || !frame->stored_bytes ||
	    frame->stored_bytes > n_bytes ||
	    (frame->codec == IMAGE_RAW && frame->stored_bytes != n_bytes))
		return "the size of a frame";
	if (frame->offset < IMAGE_HEADER_BYTES || frame->offset > end ||
	    frame->stored_bytes > end - frame->offset)
		return "the place of a frame";
	if (frame->first_checksum > index->head->n_checksums ||
	    n_checksums > index->head->n_checksums - frame->first_checksum)
		return "the checksums of a frame";
	if (frame->first_block > IMAGE_MAX_BLOCKS)
		return "the blocks of a frame";
	return NULL;
}

static const char *check_runs(const struct image_index *index,
			      const struct image_memory_entry *memory)
{
	uint64_t next = 0, end = memory->length_bytes / IMAGE_BLOCK_BYTES;

	for (uint64_t i = 0; i < memory->n_runs; i++) {
		const struct image_run_entry *run = &index->runs[memory->first_run + i];
		const struct image_frame_entry *frame;

		if (run->first_block < next || !run->n_blocks || run->first_block >= end ||
		    run->n_blocks > end - run->first_block)
			return "the order of runs";
		next = run->first_block + run->n_blocks;
		if (run->frame == IMAGE_ZERO_FRAME)
			continue;
		if (run->frame >= index->head->n_frames)
			return "the frame of a run";
		frame = &index->frames[run->frame];
		if (run->first_block < frame->first_block ||
		    next > frame->first_block + frame->n_blocks)
			return "the blocks of a run";
	}
	return NULL;
}

static const char *check(const struct image_index *index, const struct image_end *end)
{
	const struct image_index_head *head = index->head;
	uint64_t next_run = 0;
	const char *wrong = NULL;

	if (memcmp(head->id, end->header.id, sizeof(head->id)) ||
	    head->generation != end->footer.generation)
		return "its head";
	if (memchr(index->hint, '\0', head->hint_bytes))
		return "the hint at its parent";
	for (uint32_t i = 0; !wrong && i < head->n_frames; i++)
		wrong = check_frame(index, end->footer.index_offset, &index->frames[i]);
	for (uint32_t i = 0; !wrong && i < head->n_memories; i++) {
		wrong = check_memory(index, i, &next_run);
		if (!wrong)
			wrong = check_runs(index, &index->memories[i]);
	}
	return wrong || next_run == head->n_runs ? wrong : "the number of runs";
}

/* Sets the pointers. Return: false: the parts are not as long as the whole. */
static bool split(struct image_index *index, uint64_t n_bytes)
{
	const struct image_index_head *head = index->bytes;
	const unsigned char *at = index->bytes;
	uint64_t n_hint = align_up(head->hint_bytes, 8);

	/* no sum below can wrap: each is less than 2^40 */
	if (head->hint_bytes > IMAGE_MAX_HINT || head->n_memories > IMAGE_MAX_MEMORIES ||
	    head->n_checksums > IMAGE_MAX_INDEX || head->n_runs > IMAGE_MAX_INDEX)
		return false;
	if (n_bytes != sizeof(*head) + n_hint +
			       head->n_memories * sizeof(struct image_memory_entry) +
			       head->n_frames * sizeof(struct image_frame_entry) +
			       head->n_checksums * sizeof(uint64_t) +
			       head->n_runs * sizeof(struct image_run_entry))
		return false;
	index->head = head;
	at += sizeof(*head);
	index->hint = (const char *)at;
	at += n_hint;
	index->memories = (const struct image_memory_entry *)at;
	at += head->n_memories * sizeof(struct image_memory_entry);
	index->frames = (const struct image_frame_entry *)at;
	at += head->n_frames * sizeof(struct image_frame_entry);
	index->checksums = (const uint64_t *)at;
	at += head->n_checksums * sizeof(uint64_t);
	index->runs = (const struct image_run_entry *)at;
	return true;
}

int image_index_load(int fd, const char *name, const struct image_end *end, struct image_index *ret,
		     const char **ret_error)
{
	const struct image_footer *footer = &end->footer;
	unsigned long long at = footer->index_offset;
	_cleanup_(image_index_done) struct image_index index = {};
	XXH128_canonical_t digest;
	const char *wrong;
	int r;

	if (footer->index_offset < IMAGE_HEADER_BYTES || footer->index_offset > footer->offset ||
	    footer->index_bytes > footer->offset - footer->index_offset ||
	    footer->index_bytes < sizeof(struct image_index_head))
		return image_fail(ret_error, -EBADMSG, "the index of %s (offset %llu) is damaged",
				  name, at);
	index.bytes = malloc(footer->index_bytes);
	if (!index.bytes)
		return image_fail(ret_error, -ENOMEM, "no memory for the index of %s", name);
	r = read_between_marks(fd, index.bytes, footer->index_bytes, footer->index_offset);
	if (r < 0)
		return image_fail(ret_error, r, "the index of %s (offset %llu) cannot be read: %s",
				  name, at, strerror(-r));
	XXH128_canonicalFromHash(&digest, XXH3_128bits(index.bytes, footer->index_bytes));
	if (memcmp(digest.digest, footer->digest, IMAGE_DIGEST_BYTES))
		return image_fail(
			ret_error, -EBADMSG,
			"the index of %s (offset %llu) is damaged; take another copy of it", name,
			at);
	wrong = split(&index, footer->index_bytes) ? check(&index, end) : "the length of its parts";
	if (wrong)
		return image_fail(ret_error, -EBADMSG,
				  "the index of %s (offset %llu) makes no sense: %s", name, at,
				  wrong);
	index.n_bytes = footer->index_bytes;
	*ret = index;
	index.bytes = NULL;
	return 0;
}

void image_index_done(struct image_index *index)
{
	free(index->bytes);
	index->bytes = NULL;
}

bool image_index_is_layer(const struct image_index *index)
{
	static const uint8_t none[IMAGE_DIGEST_BYTES];

	return memcmp(index->head->parent, none, sizeof(none)) != 0;
}

const struct image_run_entry *image_index_find(const struct image_index *index, uint32_t memory,
					       uint64_t block, bool *ret_is_in)
{
	const struct image_memory_entry *entry = &index->memories[memory];
	const struct image_run_entry *runs = index->runs + entry->first_run;
	uint64_t low = 0, high = entry->n_runs;

	/* the first one that ends behind @block */
	while (low < high) {
		uint64_t middle = low + (high - low) / 2;

		if (runs[middle].first_block + runs[middle].n_blocks > block)
			high = middle;
		else
			low = middle + 1;
	}
	*ret_is_in = low < entry->n_runs && runs[low].first_block <= block;
	return low < entry->n_runs ? &runs[low] : NULL;
}
