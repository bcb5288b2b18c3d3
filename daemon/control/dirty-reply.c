/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Dirty pages on the wire. */
#include "control/dirty-reply.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/clock.h"
#include "base/files.h"
#include "dirty/tracking.h"
#include "refusal.h"

int dirty_format_parse(const char *word, enum dirty_format *ret)
{
	if (!word || strcmp(word, "ranges") == 0)
		*ret = DIRTY_RANGES;
	else if (strcmp(word, "bitmap") == 0)
		*ret = DIRTY_BITMAP;
	else
		return -EINVAL;
	return 0;
}

size_t dirty_next_run(const uint64_t *words, size_t n_bits, size_t *at, size_t *ret_first)
{
	*ret_first = bits_find(words, n_bits, *at, true);
	*at = bits_find(words, n_bits, *ret_first, false);
	return *at - *ret_first;
}

/* ---- the file ---- */

/* Bytes that grow, for a file. */
struct content {
	char *bytes; /* owned */
	size_t n, n_room;
};

static void content_done(struct content *content)
{
	free(content->bytes);
}

static int content_add(struct content *content, const void *bytes, size_t n)
{
	if (content->n_room - content->n < n) {
		size_t n_room = 2 * content->n_room + n;
		char *grown = realloc(content->bytes, n_room);

		if (!grown)
			return -ENOMEM;
		content->bytes = grown;
		content->n_room = n_room;
	}
	memcpy(content->bytes + content->n, bytes, n);
	content->n += n;
	return 0;
}

/* Nobody can change it or cut it under whoever reads it. */
static int content_seal(const struct content *content, int *ret_fd)
{
	_cleanup_(closep) int fd = memfd_create("ufd-dirty", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	int r = fd < 0 ? -errno : fd_write_all(fd, content->bytes, content->n);

	if (r < 0)
		return r;
	if (lseek(fd, 0, SEEK_SET) < 0 ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		return -errno;
	*ret_fd = TAKE_FD(fd);
	return 0;
}

/* ---- one memory ---- */

static size_t n_pages_of(const struct tracking_memory *memory)
{
	return memory->length_bytes / memory->page_bytes;
}

static uint64_t count_pages(const struct tracking_memory *memory, uint64_t *ret_n_ranges)
{
	size_t at = 0, first, n;
	uint64_t n_pages = 0, n_ranges = 0;

	while ((n = dirty_next_run(memory->words, n_pages_of(memory), &at, &first))) {
		n_pages += n;
		n_ranges++;
	}
	*ret_n_ranges = n_ranges;
	return n_pages;
}

static json_t *memory_json(const struct tracking_memory *memory, uint64_t n_pages)
{
	return json_pack("{s:s, s:I, s:I, s:I, s:I}", "name", memory->name, "page_bytes",
			 (json_int_t)memory->page_bytes, "base_bytes",
			 (json_int_t)memory->base_bytes, "length_bytes",
			 (json_int_t)memory->length_bytes, "dirty_bytes",
			 (json_int_t)(n_pages * memory->page_bytes));
}

static json_t *ranges_json(const struct tracking_memory *memory)
{
	size_t at = 0, first, n;
	json_t *ranges = json_array();

	while ((n = dirty_next_run(memory->words, n_pages_of(memory), &at, &first)))
		json_array_append_new(
			ranges,
			json_pack("{s:I, s:I}", "offset_bytes",
				  (json_int_t)(memory->base_bytes + first * memory->page_bytes),
				  "length_bytes", (json_int_t)(n * memory->page_bytes)));
	return ranges;
}

static int add_ranges(const struct tracking_memory *memory, struct content *content)
{
	size_t at = 0, first, n;
	int r = 0;

	while (r == 0 && (n = dirty_next_run(memory->words, n_pages_of(memory), &at, &first))) {
		uint64_t pair[2] = { htole64(memory->base_bytes + first * memory->page_bytes),
				     htole64(n * memory->page_bytes) };

		r = content_add(content, pair, sizeof(pair));
	}
	return r;
}

static int add_bitmap(const struct tracking_memory *memory, struct content *content)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < memory->n_words; i++) {
		uint64_t word = htole64(memory->words[i]);

		r = content_add(content, &word, sizeof(word));
	}
	return r;
}

/* @n_ranges: of this memory. @is_small: all of them fit the reply. */
static int add_memory(const struct tracking_memory *memory, enum dirty_format format, bool is_small,
		      struct content *content, json_t *memories)
{
	uint64_t n_ranges;
	json_t *json = memory_json(memory, count_pages(memory, &n_ranges));
	size_t before = content->n;
	int r = 0;

	if (is_small)
		json_object_set_new(json, "ranges", ranges_json(memory));
	else
		r = format == DIRTY_BITMAP ? add_bitmap(memory, content)
					   : add_ranges(memory, content);
	if (!is_small)
		json_object_set_new(json, "fd_offset_bytes", json_integer((json_int_t)before));
	if (format == DIRTY_RANGES)
		json_object_set_new(json, "n_ranges", json_integer((json_int_t)n_ranges));
	json_array_append_new(memories, json);
	return r;
}

int dirty_reply_new(const struct tracking_epoch *epoch, enum dirty_format format, json_t **ret,
		    int *ret_fd, struct refusal *refusal)
{
	_cleanup_(content_done) struct content content = {};
	_cleanup_(closep) int fd = -EBADF;
	json_t *memories = json_array(), *reply;
	uint64_t n_ranges = 0, n;
	bool is_small;
	int r = 0;

	for (size_t i = 0; i < epoch->n_memories; i++) {
		count_pages(&epoch->memories[i], &n);
		n_ranges += n;
	}
	is_small = format == DIRTY_RANGES && n_ranges <= DIRTY_INLINE_RANGES;
	for (size_t i = 0; r == 0 && i < epoch->n_memories; i++)
		r = add_memory(&epoch->memories[i], format, is_small, &content, memories);
	if (r == 0 && !is_small)
		r = content_seal(&content, &fd);
	if (r < 0) {
		json_decref(memories);
		return refusal_set_errno(refusal, r, "the pages cannot be listed: %s",
					 strerror(-r));
	}
	reply = json_pack(
		"{s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:O}", "epoch", (json_int_t)epoch->epoch.epoch,
		"dirty_bytes", (json_int_t)epoch->epoch.dirty_bytes, "uncertain_bytes",
		(json_int_t)epoch->epoch.uncertain_bytes, "begun_ns",
		(json_int_t)clock_wall_ns(epoch->epoch.begun_ns), "taken_ns",
		(json_int_t)clock_wall_ns(epoch->epoch.taken_ns), "paused_ns",
		(json_int_t)epoch->paused_ns, "memories", memories, "warnings", epoch->warnings);
	if (reply && fd >= 0)
		json_object_set_new(reply, "fd", json_integer(0));
	if (!reply)
		return refusal_set_errno(refusal, -ENOMEM, "no memory");
	*ret = reply;
	*ret_fd = TAKE_FD(fd);
	return 0;
}
