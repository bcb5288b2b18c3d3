/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Replies of Prefetch and Restore: how far the bytes are, ten times a second, until all are there.
 */
#pragma once

#include <stdint.h>

#include <jansson.h>

struct call;
struct control;
struct registration;

/* A range of one memory (the engine's numbers), or with @memory UINT32_MAX the whole guest. */
struct progress_range {
	uint32_t memory;
	uint64_t offset_bytes;
	uint64_t length_bytes;
};

/**
 * progress_start() - reply now, and go on if the client asked for more
 * @fixed: consumed; fields that every reply has beside done_bytes, total_bytes and complete
 *
 * Context: loop. Return: 0 or -ENOMEM.
 */
int progress_start(struct control *control, struct call *call, struct registration *registration,
		   struct progress_range range, json_t *fixed);
