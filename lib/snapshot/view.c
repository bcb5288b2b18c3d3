/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a guest's memory holds. */
#include "snapshot/view.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "guest/ledger.h"
#include "kernel/pagemap.h"
#include "kernel/proc-memory.h"
#include "snapshot/patient.h"
#include "source/source.h"

#define PIECE_BYTES MIB /* of data, until it is looked for the next hole */

struct view_reader {
	struct patient *patient; /* owned */
	char error[256];
};

/* Where the bytes of a page are. */
enum where {
	IN_FILE,
	IN_SOURCE,
	IN_PROCESS,
	NOWHERE, /* zero */
};

void memory_view_done(struct memory_view *view)
{
	closep(&view->backing);
	source_unref(view->source);
	free(view->mappings);
	*view = (struct memory_view){ .backing = -EBADF };
}

void guest_views_done(struct guest_views *views)
{
	for (size_t i = 0; i < views->n_memories; i++)
		memory_view_done(&views->memories[i]);
	free(views->memories);
	ledger_free(views->ledger);
	*views = (struct guest_views){};
}

void memory_view_shift(struct memory_view *view, uint64_t base_bytes)
{
	view->length_bytes += base_bytes;
	view->backing_offset -= min_u64(base_bytes, view->backing_offset);
	view->states_first += base_bytes / view->page_bytes;
	for (size_t i = 0; i < view->n_mappings; i++)
		view->mappings[i].pages.first += base_bytes / view->page_bytes;
}

int view_reader_new(struct view_reader **ret)
{
	_cleanup_(view_reader_freep) struct view_reader *reader = calloc(1, sizeof(*reader));
	int r;

	if (!reader)
		return -ENOMEM;
	r = patient_new(&reader->patient);
	if (r)
		return r;
	*ret = TAKE_PTR(reader);
	return 0;
}

struct view_reader *view_reader_free(struct view_reader *reader)
{
	if (!reader)
		return NULL;
	patient_free(reader->patient);
	free(reader);
	return NULL;
}

const char *view_reader_error(const struct view_reader *reader)
{
	return reader->error;
}

static bool has_file(const struct memory_view *view)
{
	return view->kind == BACKING_SHMEM || view->kind == BACKING_HUGETLB;
}

static uint64_t file_offset(const struct memory_view *view, uint64_t page)
{
	return view->backing_offset + page * view->page_bytes;
}

/* The mapping that shows a page; NULL: none does, any more. */
static const struct view_mapping *find_mapping(const struct memory_view *view, uint64_t page)
{
	for (size_t i = 0; i < view->n_mappings; i++)
		if (page - view->mappings[i].pages.first < view->mappings[i].pages.count)
			return &view->mappings[i];
	return NULL;
}

static struct hva address_of(const struct memory_view *view, const struct view_mapping *mapping,
			     uint64_t page)
{
	return hva_add(mapping->address, (page - mapping->pages.first) * view->page_bytes);
}

/* Has a page that is on its way arrived? Afterwards the guest may have written it. */
static int has_arrived(const struct memory_view *view, uint64_t page, bool *ret_has)
{
	const struct view_mapping *mapping;
	_cleanup_(closep) int pagemap = -EBADF;
	struct hva first;
	int r;

	if (has_file(view)) {
		uint64_t offset = file_offset(view, page), hole_end;

		r = backing_hole_end(view->backing, offset, offset + view->page_bytes, &hole_end);
		*ret_has = !r && hole_end == offset;
		return r;
	}
	mapping = find_mapping(view, page);
	if (!mapping) {
		*ret_has = false;
		return 0;
	}
	r = pagemap_open(&pagemap, mapping->pid);
	if (r)
		return r;
	return pagemap_first_used(
		pagemap, (struct hva_range){ address_of(view, mapping, page), view->page_bytes },
		ret_has, &first);
}

/* @pages clipped at the first page in another of the states that matter here. */
static void clip(const struct memory_view *view, struct page_range *pages, enum page_state state)
{
	const struct page_range states = { pages->first - view->states_first, pages->count };
	struct page_range run;

	if (page_states_find(&view->states, states, state, &run))
		pages->count = run.first - states.first;
}

static int find_filling(const struct memory_view *view, struct page_range *pages)
{
	bool has = false;
	int r;

	pages->count = 1;
	r = has_arrived(view, pages->first, &has);
	if (r)
		return r;
	if (!has)
		return IN_SOURCE;
	return has_file(view) ? IN_FILE : IN_PROCESS;
}

/* Where a page that is present or removed is, and how far that holds. */
static int find_settled(const struct memory_view *view, struct page_range *pages,
			enum page_state state)
{
	clip(view, pages, PAGE_ABSENT);
	clip(view, pages, PAGE_FILLING);
	if (has_file(view))
		return IN_FILE;
	clip(view, pages, state == PAGE_PRESENT ? PAGE_REMOVED : PAGE_PRESENT);
	return state == PAGE_PRESENT || view->is_graduated ? IN_PROCESS : NOWHERE;
}

/*
 * Where the first page of @pages is; they are cut to those that are there, too. A state may move
 * while this looks: towards the file or process only, and a run of none is one that has just moved.
 * Return: enum where, -errno.
 */
static int find(const struct memory_view *view, struct page_range *pages)
{
	uint64_t page = pages->first - view->states_first;
	struct page_range run;
	enum page_state state;
	int where;

	pages->count = min_u64(pages->count, VIEW_EXTENT_PAGES);
	if (pages->first < view->states_first) {
		pages->count = min_u64(pages->count, view->states_first - pages->first);
		return has_file(view) ? IN_FILE : NOWHERE;
	}
	if (page >= view->states.n_pages)
		return has_file(view) ? IN_FILE : NOWHERE;
	pages->count = min_u64(pages->count, view->states.n_pages - page);

	state = page_states_get(&view->states, page);
	switch (state) {
	case PAGE_ABSENT:
		if (!page_states_find(&view->states, (struct page_range){ page, pages->count },
				      PAGE_ABSENT, &run) ||
		    run.first != page)
			run.count = 1;
		pages->count = run.count;
		return view->source ? IN_SOURCE : IN_FILE;
	case PAGE_FILLING:
		if (!view->source) {
			pages->count = 1;
			return IN_FILE;
		}
		return find_filling(view, pages);
	case PAGE_PRESENT:
	case PAGE_REMOVED:
		break;
	}
	where = find_settled(view, pages, state);
	pages->count = max_u64(pages->count, 1);
	return where;
}

/* Whole pages of zeros at the beginning of a run of the source; 0: data. */
static uint64_t zeros_of_source(const struct memory_view *view, struct page_range pages,
				uint64_t *ret_n_data)
{
	uint64_t offset = view->source_offset +
			  (pages.first - view->states_first) * view->page_bytes;
	uint64_t length = 0;
	int r;

	r = source_extent(view->source, offset, pages.count * view->page_bytes, &length);
	*ret_n_data = max_u64(
		1, min_u64(pages.count, (length + view->page_bytes - 1) / view->page_bytes));
	return r == SOURCE_ZERO ? length / view->page_bytes : 0;
}

/*
 * How far the first hole goes, if there is one. Where data ends is not asked for: SEEK_HOLE walks
 * all of it, each time, and holes within a piece read as zeros just as well. Of huge pages each
 * would have to be asked for, which costs more than zeros.
 */
static int extent_of_file(const struct memory_view *view, struct page_range pages,
			  uint64_t *ret_count)
{
	uint64_t start = file_offset(view, pages.first);
	uint64_t end = start + pages.count * view->page_bytes, hole_end = start;
	int r = view->kind == BACKING_HUGETLB
			? 0
			: backing_hole_end(view->backing, start, end, &hole_end);
	uint64_t n_zero = (hole_end - start) / view->page_bytes;

	if (r)
		return r;
	*ret_count = n_zero ? n_zero
			    : min_u64(pages.count, max_u64(1, PIECE_BYTES / view->page_bytes));
	return n_zero ? VIEW_ZERO : VIEW_DATA;
}

int view_extent(struct view_reader *reader, const struct memory_view *view, struct page_range pages,
		uint64_t *ret_count)
{
	uint64_t n_zero, n_data;
	int where = find(view, &pages), r;

	switch (where) {
	case NOWHERE:
		*ret_count = pages.count;
		return VIEW_ZERO;
	case IN_PROCESS:
		*ret_count = pages.count;
		return VIEW_DATA;
	case IN_SOURCE:
		n_zero = zeros_of_source(view, pages, &n_data);
		*ret_count = n_zero ? n_zero : n_data;
		return n_zero ? VIEW_ZERO : VIEW_DATA;
	case IN_FILE:
		r = extent_of_file(view, pages, ret_count);
		break;
	default:
		r = where;
		break;
	}
	if (r < 0)
		snprintf(reader->error, sizeof(reader->error), "memory %s cannot be looked at: %s",
			 view->name, strerror(-r));
	return r;
}

int view_judge_zero(const struct memory_view *view, uint64_t page)
{
	uint64_t offset = file_offset(view, view->states_first + page), hole_end = offset;
	enum page_state state;
	int r;

	/* whoever discards memory of a process tells it before the kernel does it */
	if (!has_file(view) || page >= view->states.n_pages)
		return VIEW_ZERO_ALWAYS;
	/* the file first: what goes on being filled, or is told to be removed, is neither any more */
	r = backing_hole_end(view->backing, offset, offset + view->page_bytes, &hole_end);
	if (r < 0)
		return r;
	state = page_states_get(&view->states, page);
	if (state == PAGE_REMOVED || (state == PAGE_ABSENT && view->source))
		return VIEW_ZERO_ALWAYS;
	return state == PAGE_PRESENT && hole_end > offset ? VIEW_ZERO_HOLE : VIEW_ZERO_OR_HOLE;
}

static int read_file(const struct memory_view *view, struct page_range pages, void *buffer)
{
	uint64_t offset = file_offset(view, pages.first);
	uint64_t length = pages.count * view->page_bytes;
	char *to = buffer;

	while (length > 0) {
		ssize_t n = pread(view->backing, to, length, offset);

		if (n < 0 && errno != EINTR)
			return -errno;
		if (n == 0)
			return -ENODATA; /* it was cut while we read */
		if (n > 0) {
			to += n;
			offset += n;
			length -= n;
		}
	}
	return 0;
}

static int read_process(const struct memory_view *view, struct page_range pages, void *buffer)
{
	char *to = buffer;

	while (pages.count > 0) {
		const struct view_mapping *mapping = find_mapping(view, pages.first);
		uint64_t n;
		int r;

		if (!mapping) { /* mapped nowhere: nobody has bytes there */
			memset(to, 0, view->page_bytes);
			n = 1;
		} else {
			n = min_u64(pages.count,
				    mapping->pages.first + mapping->pages.count - pages.first);
			r = proc_memory_read(mapping->pid, address_of(view, mapping, pages.first),
					     to, n * view->page_bytes);
			if (r)
				return r;
		}
		to += n * view->page_bytes;
		pages.first += n;
		pages.count -= n;
	}
	return 0;
}

static int read_run(struct view_reader *reader, const struct memory_view *view, int where,
		    struct page_range pages, void *buffer)
{
	switch (where) {
	case NOWHERE:
		memset(buffer, 0, pages.count * view->page_bytes);
		return 0;
	case IN_PROCESS:
		return read_process(view, pages, buffer);
	case IN_SOURCE:
		return patient_read(reader->patient, view->source,
				    view->source_offset +
					    (pages.first - view->states_first) * view->page_bytes,
				    buffer, pages.count * view->page_bytes);
	case IN_FILE:
		return read_file(view, pages, buffer);
	default:
		return where;
	}
}

int view_read(struct view_reader *reader, const struct memory_view *view, struct page_range pages,
	      void *buffer)
{
	char *to = buffer;

	while (pages.count > 0) {
		struct page_range run = pages;
		int where = find(view, &run);
		int r = read_run(reader, view, where, run, to);

		if (r < 0) {
			snprintf(reader->error, sizeof(reader->error),
				 "memory %s at offset %llu cannot be read%s: %s", view->name,
				 (unsigned long long)(run.first * view->page_bytes),
				 where == IN_SOURCE ? " from its source" : "", strerror(-r));
			return r;
		}
		to += run.count * view->page_bytes;
		pages.first += run.count;
		pages.count -= run.count;
	}
	return 0;
}
