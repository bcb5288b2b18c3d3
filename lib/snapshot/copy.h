/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Pages of a guest's memory into an image. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/units.h"

struct copy;
struct image_writer;
struct memory_view;

/*
 * Settings of copy_new(). Zero is every field's default.
 *
 * @claim is asked for each page after it was read, @is_zero if it held nothing else: does this copy
 * count? (See fault/before-write.h.) @between is called between any two pieces of at most 1 MiB, or one page if
 * that is larger. Both may be NULL.
 */
struct copy_opts {
	struct image_writer *writer;  /* borrowed */
	_Atomic uint64_t *done_bytes; /* added to, for others to look at; may be NULL */
	bool (*claim)(void *userdata, uint32_t number, uint64_t page, bool is_zero);
	int (*between)(void *userdata); /* 0, or an errno that ends the copy */
	void *userdata;
};

/* Return: 0 or -errno. */
int copy_new(struct copy **ret, const struct copy_opts *opts);
struct copy *copy_free(struct copy *copy);
DEFINE_CLEANUP(struct copy, copy_free)

/* A memory, and its number in the image. Readable. */
struct copy_target {
	const struct memory_view *view;
	uint32_t image_memory;
	bool is_new; /* nothing is in the image yet, nor in a parent: zeros are there already */
};

/**
 * copy_pages() - a range of pages
 *
 * Context: bulk, job; blocks on source and image. Return: 0, -errno; copy_error() says what of.
 */
int copy_pages(struct copy *copy, const struct copy_target *target, struct page_range pages);

/*
 * The pages of @pages whose bit is set; bit 0 of @words is the first of them. Return: as above.
 */
int copy_marked(struct copy *copy, const struct copy_target *target, struct page_range pages,
		const uint64_t *words);

/* A sentence, without an end of line. */
const char *copy_error(const struct copy *copy);

/* Bits that are set among the first @n_pages. */
uint64_t copy_count_marked(const uint64_t *words, uint64_t n_pages);
