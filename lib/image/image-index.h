/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The index of one layer in memory, checked: whoever uses it need not look for nonsense any more.
 * It does not change.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "image/format.h"
#include "image/image-end.h"

/* Embedded; readable. */
struct image_index {
	void *bytes; /* owned; what the pointers below point into */
	uint64_t n_bytes;
	const struct image_index_head *head;
	const char *hint; /* head->hint_bytes of it */
	const struct image_memory_entry *memories;
	const struct image_frame_entry *frames;
	const uint64_t *checksums;
	const struct image_run_entry *runs;
};

/**
 * image_index_load() - read it and check it
 *
 * Context: any; blocks, allocates as much as the index has. Return: 0, -EBADMSG, -ENOMEM, -errno.
 * On failure @ret is untouched.
 */
int image_index_load(int fd, const char *name, const struct image_end *end, struct image_index *ret,
		     const char **ret_error);
void image_index_done(struct image_index *index);

/* Has it a parent? */
bool image_index_is_layer(const struct image_index *index);

/*
 * The run of @memory that holds @block, or the first one behind it; NULL: there is none.
 * @ret_is_in: it holds it.
 * Context: any; does not block.
 */
const struct image_run_entry *image_index_find(const struct image_index *index, uint32_t memory,
					       uint64_t block, bool *ret_is_in);
