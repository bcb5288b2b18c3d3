/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What one read found, on the wire: few ranges in the reply, many in a file beside it. */
#pragma once

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

struct refusal;
struct tracking_epoch;

#define DIRTY_INLINE_RANGES 1000 /* of all memories; a reply of them has less than 64 KiB */

enum dirty_format { DIRTY_RANGES, DIRTY_BITMAP };

/* Return: 0, -EINVAL. NULL is ranges. Context: any. */
int dirty_format_parse(const char *word, enum dirty_format *ret);

/**
 * dirty_reply_new() - reply of Read
 * @ret:    owned; index 0 of `fd` is @ret_fd
 * @ret_fd: owned; a sealed memfd, or -EBADF if everything fits the reply
 *
 * Context: job; allocates. Return: 0 or -ECANCELED.
 */
int dirty_reply_new(const struct tracking_epoch *epoch, enum dirty_format format, json_t **ret,
		    int *ret_fd, struct refusal *refusal);

/*
 * The first run of set bits from *@at on, in pages; *@at is behind it then. Return: its length, 0
 * at the end.
 */
size_t dirty_next_run(const uint64_t *words, size_t n_bits, size_t *at, size_t *ret_first);
