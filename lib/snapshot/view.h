/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a guest's memory holds, for somebody who wants to copy it and leave it as it is: no page is
 * made for being looked at, and a guest that is still being filled goes on being filled.
 *
 * Theory of operation. A view is a copy of what the engine knows: fds and a mapping of the ledger
 * of its own, so that it is good whatever becomes of the guest; whoever copied asks afterwards
 * whether the guest is still the same. Where a page's bytes are follows from its state:
 *
 *	state   | of a file                          | anonymous, or private
 *	--------+------------------------------------+------------------------------------------
 *	absent  | in the source; of SPEC `backing`   | in the source
 *	        | in the file                        |
 *	filling | in the file if it has the page (a  | in the process if it has the page, else in
 *	        | fill is atomic), else in the source| the source
 *	present | in the file; a hole is zero        | in the process
 *	removed | in the file: a DONTNEED leaves it  | zero; of a guest that graduated in the process,
 *	        | there                              | which may have made the page without a word
 *
 * While the guest runs, a page may change between the look and the copy, or be torn by it: it is
 * then reported as written, and is copied again. What was absent when it was looked at had not been
 * written before.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/cleanup.h"
#include "base/units.h"
#include "guest/page-state.h"
#include "kernel/backing.h"

struct ledger;
struct source;
struct view_reader;

#define VIEW_NAME_BYTES	  64
#define VIEW_EXTENT_PAGES 65536 /* the most that one look covers */

/* Readable. Where a process shows pages of a memory without a file. */
struct view_mapping {
	pid_t pid;
	struct hva address;
	struct page_range pages;
};

/* Readable. Zero is empty. Without pages in @states it is a plain file. */
struct memory_view {
	char name[VIEW_NAME_BYTES];
	uint32_t number; /* the engine's */
	enum backing_kind kind;
	uint64_t page_bytes;
	uint64_t length_bytes;
	int backing; /* owned, or -EBADF */
	dev_t device;
	ino_t inode;
	uint64_t backing_offset; /* of the first byte */

	uint64_t states_first; /* page of the memory that the first state is of */
	struct page_states states;
	struct source *source; /* reference; NULL: nothing comes from elsewhere */
	uint64_t source_offset;
	bool is_graduated;
	struct view_mapping *mappings; /* owned; only of memory without a file */
	size_t n_mappings;
};

void memory_view_done(struct memory_view *view);

/*
 * Count from so much before its first byte: as its owner does, or as the file. What lies there is
 * the file's, or zero.
 */
void memory_view_shift(struct memory_view *view, uint64_t base_bytes);

/* Readable. All memories of a guest. */
struct guest_views {
	struct ledger *ledger;	      /* owned; a mapping of its own, which the states lie in */
	struct memory_view *memories; /* owned */
	size_t n_memories;
};

void guest_views_done(struct guest_views *views);

static inline uint64_t memory_view_n_pages(const struct memory_view *view)
{
	return view->length_bytes / view->page_bytes;
}

/* One that reads for one thread: its ring, and words for its errors. Return: 0 or -errno. */
int view_reader_new(struct view_reader **ret);
struct view_reader *view_reader_free(struct view_reader *reader);
DEFINE_CLEANUP(struct view_reader, view_reader_free)

enum view_content {
	VIEW_DATA,
	VIEW_ZERO, /* reads zero, and costs nothing */
};

/**
 * view_extent() - what the first pages of a range hold, without reading them
 * @pages:     within the memory, not empty
 * @ret_count: for how many pages that holds; 1 at least
 *
 * Context: bulk, job; asks the kernel. Return: enum view_content, -errno.
 */
int view_extent(struct view_reader *reader, const struct memory_view *view, struct page_range pages,
		uint64_t *ret_count);

/**
 * view_read() - copy pages
 * @buffer: as many bytes
 *
 * Context: bulk, job; blocks on the source. Return: 0, -errno; view_reader_error() says what of.
 */
int view_read(struct view_reader *reader, const struct memory_view *view, struct page_range pages,
	      void *buffer);

/* What a page that has just been read, and was zero, held before somebody could discard it. */
enum view_zero {
	VIEW_ZERO_ALWAYS,  /* that */
	VIEW_ZERO_OR_HOLE, /* that, unless the word of a hole comes yet */
	VIEW_ZERO_HOLE,	   /* unknown: the page was there, and a hole was punched into its file */
};

/* @page: of the memory, as states count. Context: bulk, job. Return: enum view_zero, -errno. */
int view_judge_zero(const struct memory_view *view, uint64_t page);

/* What went wrong last, in a sentence that names the memory and the offset; "" if nothing has. */
const char *view_reader_error(const struct view_reader *reader);
