/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Absence is proved, not believed: a page that exists where the source has other bytes would be
 * shown to the guest, without a fault. The mapping is registered and closed meanwhile, so nothing
 * new can appear in it by a fault; what appears by other ways is a foreign touch and met later.
 */
#include <errno.h>

#include "kernel/backing.h"
#include "kernel/pagemap.h"
#include "pager/paged.h"

#define N_WORDS	   512 /* of a page map, read at once */
#define KEEP_BYTES (64 * MIB)

/* Pages that another mapping shows already were proved with it, and may have been filled since. */
static bool is_shown_elsewhere(const struct ufd_pager_guest *paged, const struct mapping *mapping,
			       uint64_t page)
{
	const struct guest_view *view = paged->guest->view;

	for (uint32_t i = 0; i < view->n_mappings; i++)
		if (view->mappings[i] != mapping && view->mappings[i]->memory == mapping->memory &&
		    mapping_shows(view->mappings[i], page))
			return true;
	return false;
}

static void absence_keep(struct ufd_pager_guest *paged, struct memory *memory,
			 struct page_range pages)
{
	struct command command = { .kind = COMMAND_KEEP, .memory = memory, .pages = pages };
	uint64_t n;

	if (paged_demand(paged)) {
		(void)demand_command(paged_demand(paged), &command);
		return;
	}
	(void)page_states_move_all(&memory->states, pages, PAGE_ABSENT, PAGE_FILLING);
	n = page_states_move_all(&memory->states, pages, PAGE_FILLING, PAGE_PRESENT);
	atomic_fetch_sub(&memory->n_absent, n);
	memory_mark_dirty(memory, pages); /* as the demand thread does */
}

/* A page exists. Return: 0 if that is dealt with, -ENOTEMPTY. */
static int absence_broken(struct ufd_pager_guest *paged, struct memory *memory,
			  struct page_range pages, uint64_t *ret_offset)
{
	uint64_t offset = pages.first * memory->page_bytes;
	bool is_shared = memory->kind == BACKING_SHMEM || memory->kind == BACKING_HUGETLB;

	if (paged->opts.populated == UFD_POPULATED_KEEP) {
		absence_keep(paged, memory, pages);
		return 0;
	}
	if (paged->opts.populated == UFD_POPULATED_PUNCH && is_shared)
		return backing_punch(memory->backing, memory->backing_offset + offset,
				     pages.count * memory->page_bytes);
	if (ret_offset)
		*ret_offset = offset;
	return -ENOTEMPTY;
}

static int absence_prove_file(struct ufd_pager_guest *paged, struct mapping *mapping,
			      uint64_t *ret_offset)
{
	struct memory *memory = mapping->memory;
	uint64_t at = memory->backing_offset + mapping->offset_bytes;
	uint64_t end = at + mapping->range.length_bytes, found, length;
	int r;

	while (at < end) {
		r = backing_find_data(memory->backing, at, end, &found, &length);
		if (r < 0)
			return r;
		if (!length)
			return 0;
		at = found + length;
		for (uint64_t page = (found - memory->backing_offset) / memory->page_bytes;
		     page * memory->page_bytes + memory->backing_offset < at; page++) {
			if (is_shown_elsewhere(paged, mapping, page) ||
			    page_states_get(&memory->states, page) != PAGE_ABSENT)
				continue;
			r = absence_broken(paged, memory, (struct page_range){ page, 1 },
					   ret_offset);
			if (r < 0)
				return r;
		}
	}
	return 0;
}

static int absence_prove_tables(struct ufd_pager_guest *paged, struct mapping *mapping,
				uint64_t *ret_offset)
{
	struct mapper *mapper = mapping->mapper;
	struct hva_range left = mapping->range;
	uint64_t end = left.start.v + left.length_bytes;
	bool is_used = false;
	struct hva first;
	int r = pagemap_open_once(&mapper->pagemap, mapper->pid);

	while (r == 0 && left.length_bytes) {
		r = pagemap_first_used(mapper->pagemap, left, &is_used, &first);
		if (r < 0 || !is_used)
			break;
		r = absence_broken(paged, mapping->memory,
				   (struct page_range){ mapping_page(mapping, first), 1 },
				   ret_offset);
		left.start = hva_add(
			(struct hva){ align_down(first.v, mapping->memory->page_bytes) },
			mapping->memory->page_bytes);
		left.length_bytes = end - left.start.v;
	}
	return r;
}

int absence_prove(struct ufd_pager_guest *paged, struct mapping *mapping, uint64_t *ret_offset)
{
	struct memory *memory = mapping->memory;
	int r = 0;

	if (memory->is_backing_source)
		return 0;
	if (memory->kind != BACKING_ANON)
		r = absence_prove_file(paged, mapping, ret_offset);
	if (r == 0 && (memory->kind == BACKING_ANON || memory->kind == BACKING_PRIVATE))
		r = absence_prove_tables(paged, mapping, ret_offset);
	return r;
}

/* ---- what was mapped before ---- */

/* Pages from @first on, which is mapped, that are so, too; @most at most. Return: 0 or -errno. */
static int mapped_count(const struct mapping *mapping, uint64_t first, uint64_t most, uint64_t *ret)
{
	uint64_t words[N_WORDS], n = 1, n_asked = 0, i = 0;

	for (; i == n_asked && n < most; n += i) {
		int r;

		n_asked = mapping->memory->kind == BACKING_HUGETLB ? 1 : min_u64(most - n, N_WORDS);
		r = pagemap_read(mapping->mapper->pagemap, mapping_address(mapping, first + n),
				 words, n_asked);
		if (r < 0)
			return r;
		for (i = 0; i < n_asked && pagemap_is_used(words[i]); i++)
			;
	}
	*ret = n;
	return 0;
}

static void keep_absent(struct ufd_pager_guest *paged, struct memory *memory,
			struct page_range pages)
{
	uint64_t end = pages.first + pages.count;
	struct page_range run;

	for (uint64_t at = pages.first; page_states_find(
		     &memory->states, (struct page_range){ at, end - at }, PAGE_ABSENT, &run);
	     at = run.first + run.count)
		absence_keep(paged, memory, run);
}

int absence_keep_mapped(struct ufd_pager_guest *paged, struct mapping *mapping)
{
	struct memory *memory = mapping->memory;
	uint64_t most = max_u64(KEEP_BYTES / memory->page_bytes, 1), n;
	uint64_t end = mapping->range.start.v + mapping->range.length_bytes;
	struct hva at = mapping->range.start, first;
	bool is_used = false;
	int r;

	if (!memory->is_backing_source || !count_get(&memory->n_absent))
		return 0;
	r = pagemap_open_once(&mapping->mapper->pagemap, mapping->mapper->pid);
	while (r == 0 && at.v < end) {
		struct page_range pages;

		r = pagemap_first_used(mapping->mapper->pagemap,
				       (struct hva_range){ at, end - at.v }, &is_used, &first);
		if (r || !is_used)
			break;
		first.v = align_down(first.v, memory->page_bytes);
		pages.first = mapping_page(mapping, first);
		r = mapped_count(mapping, pages.first,
				 min_u64(most, (end - first.v) / memory->page_bytes), &n);
		if (r < 0)
			break;
		pages.count = n;
		keep_absent(paged, memory, pages);
		at = hva_add(first, n * memory->page_bytes);
	}
	return r;
}
