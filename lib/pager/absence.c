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
