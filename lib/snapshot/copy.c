/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Pages of a guest's memory into an image. */
#include "snapshot/copy.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/bits.h"
#include "image/image-writer.h"
#include "snapshot/view.h"

#define PIECE_BYTES MIB

struct copy {
	struct copy_opts opts;
	struct view_reader *reader; /* owned */
	char *buffer;		    /* owned; mapped: guest bytes are not for core dumps */
	size_t n_buffer;
	char error[320];
};

int copy_new(struct copy **ret, const struct copy_opts *opts)
{
	_cleanup_(copy_freep) struct copy *copy = calloc(1, sizeof(*copy));
	int r;

	if (!copy)
		return -ENOMEM;
	copy->opts = *opts;
	r = view_reader_new(&copy->reader);
	if (r)
		return r;
	*ret = TAKE_PTR(copy);
	return 0;
}

static void buffer_done(struct copy *copy)
{
	if (copy->buffer)
		munmap(copy->buffer, copy->n_buffer);
	copy->buffer = NULL;
}

struct copy *copy_free(struct copy *copy)
{
	if (!copy)
		return NULL;
	view_reader_free(copy->reader);
	buffer_done(copy);
	free(copy);
	return NULL;
}

const char *copy_error(const struct copy *copy)
{
	return copy->error;
}

/* Pages of one piece; there is a buffer for them afterwards. */
static int piece_of(struct copy *copy, const struct memory_view *view, uint64_t *ret_n_pages)
{
	size_t n_bytes = max_u64(PIECE_BYTES, view->page_bytes);
	void *buffer;

	*ret_n_pages = n_bytes / view->page_bytes;
	if (copy->buffer && copy->n_buffer >= n_bytes)
		return 0;
	buffer = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (buffer == MAP_FAILED)
		return -errno;
	(void)madvise(buffer, n_bytes, MADV_DONTDUMP);
	buffer_done(copy);
	copy->buffer = buffer;
	copy->n_buffer = n_bytes;
	return 0;
}

static bool claim(const struct copy *copy, const struct memory_view *view, uint64_t page,
		  const char *bytes)
{
	bool is_zero = !bytes || (!bytes[0] && memcmp(bytes, bytes + 1, view->page_bytes - 1) == 0);

	return copy->opts.claim(copy->opts.userdata, view->number, page - view->states_first,
				is_zero);
}

/* How many of these pages, from the first on, count alike. */
static uint64_t claim_run(const struct copy *copy, const struct memory_view *view,
			  struct page_range pages, const char *bytes, bool *ret_counts)
{
	uint64_t n = 1;

	if (!copy->opts.claim) {
		*ret_counts = true;
		return pages.count;
	}
	*ret_counts = claim(copy, view, pages.first, bytes);
	while (*ret_counts && n < pages.count &&
	       claim(copy, view, pages.first + n, bytes ? bytes + n * view->page_bytes : NULL))
		n++;
	/* one that was asked for in vain ends the run, and is not asked for again */
	return n;
}

static int write_run(struct copy *copy, const struct copy_target *target, struct page_range run,
		     const char *bytes)
{
	if (bytes)
		return image_writer_pages(copy->opts.writer, target->image_memory, run.first, bytes,
					  run.count);
	return target->is_new ? 0
			      : image_writer_zero(copy->opts.writer, target->image_memory,
						  run.first, run.count);
}

/* @bytes: of @pages, or NULL: zero. */
static int put(struct copy *copy, const struct copy_target *target, struct page_range pages,
	       const char *bytes)
{
	const struct memory_view *view = target->view;

	while (pages.count > 0) {
		bool counts;
		uint64_t n = claim_run(copy, view, pages, bytes, &counts);
		struct page_range run = { pages.first, n };
		int r = counts ? write_run(copy, target, run, bytes) : 0;

		if (r < 0) {
			snprintf(copy->error, sizeof(copy->error),
				 "the image cannot be written: %s", strerror(-r));
			return r;
		}
		/* behind a run that counts lies a page that did not, if the claims ended it */
		if (copy->opts.claim && counts && n < pages.count)
			n++;
		pages.first += n;
		pages.count -= n;
		bytes = bytes ? bytes + n * view->page_bytes : NULL;
	}
	return 0;
}

static int copy_data(struct copy *copy, const struct copy_target *target, struct page_range run)
{
	int r = view_read(copy->reader, target->view, run, copy->buffer);

	if (r < 0) {
		snprintf(copy->error, sizeof(copy->error), "%s", view_reader_error(copy->reader));
		return r;
	}
	return put(copy, target, run, copy->buffer);
}

static int copy_run(struct copy *copy, const struct copy_target *target, struct page_range pages,
		    uint64_t piece_pages, uint64_t *ret_count)
{
	uint64_t n = 0;
	int r = view_extent(copy->reader, target->view, pages, &n);

	if (r < 0) {
		snprintf(copy->error, sizeof(copy->error), "%s", view_reader_error(copy->reader));
		return r;
	}
	pages.count = min_u64(pages.count, n);
	if (r == VIEW_DATA)
		pages.count = min_u64(pages.count, piece_pages);
	*ret_count = pages.count;
	return r == VIEW_DATA ? copy_data(copy, target, pages) : put(copy, target, pages, NULL);
}

int copy_pages(struct copy *copy, const struct copy_target *target, struct page_range pages)
{
	uint64_t piece_pages;
	int r = piece_of(copy, target->view, &piece_pages);

	if (r) {
		snprintf(copy->error, sizeof(copy->error), "no buffer: %s", strerror(-r));
		return r;
	}
	while (pages.count > 0) {
		uint64_t n;

		r = copy_run(copy, target, pages, piece_pages, &n);
		if (!r && copy->opts.between)
			r = copy->opts.between(copy->opts.userdata);
		if (r)
			return r;
		if (copy->opts.done_bytes)
			atomic_fetch_add_explicit(copy->opts.done_bytes,
						  n * target->view->page_bytes,
						  memory_order_relaxed);
		pages.first += n;
		pages.count -= n;
	}
	return 0;
}

int copy_marked(struct copy *copy, const struct copy_target *target, struct page_range pages,
		const uint64_t *words)
{
	uint64_t first = bits_find(words, pages.count, 0, true);

	while (first < pages.count) {
		uint64_t end = bits_find(words, pages.count, first, false);
		int r = copy_pages(copy, target,
				   (struct page_range){ pages.first + first, end - first });

		if (r)
			return r;
		first = bits_find(words, pages.count, end, true);
	}
	return 0;
}

uint64_t copy_count_marked(const uint64_t *words, uint64_t n_pages)
{
	uint64_t n = 0;

	for (uint64_t i = 0; i < n_pages / 64; i++)
		n += __builtin_popcountll(words[i]);
	if (n_pages % 64)
		n += __builtin_popcountll(words[n_pages / 64] << (64 - n_pages % 64));
	return n;
}
