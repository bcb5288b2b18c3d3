/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which pages a guest wrote, as the daemon told it. */
#pragma once

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "session.h"

/* Readable. */
struct dirty_memory {
	const char *name; /* borrowed from the reply */
	uint64_t base_bytes, page_bytes, length_bytes, n_pages;
	uint64_t dirty_bytes;
	uint64_t *words; /* owned; one bit a page */
	size_t n_words;
};

/* Readable. Zero is empty. */
struct dirty_epoch {
	json_t *reply;		       /* owned; as it came, less what lies in its file */
	struct dirty_memory *memories; /* owned */
	size_t n_memories;
};

/**
 * dirty_epoch_read() - one Read, as bitmaps
 * @parameters: consumed; `format` is set here
 *
 * On failure the error was printed. Return: an exit status.
 */
int dirty_epoch_read(struct session *session, json_t *parameters, struct dirty_epoch *ret);
void dirty_epoch_done(struct dirty_epoch *epoch);

/* Called for each run of dirty pages, in bytes. Offsets count from the memory's base. */
typedef void (*dirty_range_fn)(void *userdata, const struct dirty_memory *memory,
			       uint64_t offset_bytes, uint64_t length_bytes);
void dirty_epoch_ranges(const struct dirty_epoch *epoch, dirty_range_fn on_range, void *userdata);

/**
 * dirty_epoch_parse() - a reply of Read and its file
 * @bytes: the file's
 *
 * Return: 0, -EBADMSG if they do not fit each other, -ENOMEM. @reply is borrowed and referenced.
 */
int dirty_epoch_parse(json_t *reply, const void *bytes, size_t n_bytes, struct dirty_epoch *ret);
