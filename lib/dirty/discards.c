/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Discards that were told and have not happened yet.
 *
 * The kernel tells of madvise() before it takes the pages: whoever was told then, and copied at
 * once, has what was there before, and no page table tells him that it went. That the process is no
 * longer changing its address space does not help, since that ends before the pages go. So a
 * removed page that is still there when it is told is told once more: until it is seen to be gone,
 * or the guest has touched it anew, which makes it present.
 *
 * MADV_DONTNEED of a shared mapping looks alike, and leaves the page in its file: such pages are
 * told again and again, until they are touched.
 */
#include "dirty/discards.h"

#include <errno.h>

#include "guest/guest.h"
#include "kernel/backing.h"
#include "kernel/pagemap.h"

/* One run of removed pages, some of which may be there. */
struct remains {
	struct memory *memory;
	_Atomic uint64_t *pending;
	uint64_t n_pages; /* that are told again */
};

static void keep(struct remains *remains, struct page_range pages)
{
	dirty_map_set(remains->pending, pages);
	remains->n_pages += pages.count;
}

/*
 * Page by page: few are there, and behind each of them may lie much that is of no interest. Return:
 * 0 or -errno.
 */
static int keep_in_file(struct remains *remains, struct page_range pages)
{
	const struct memory *memory = remains->memory;
	uint64_t page_bytes = memory->page_bytes, base = memory->backing_offset;
	uint64_t at = base + pages.first * page_bytes, end = at + pages.count * page_bytes;

	while (at < end) {
		uint64_t stop = 0;
		int r = backing_hole_end(memory->backing, at, end, &stop);

		if (r < 0)
			return r;
		if (stop < end)
			keep(remains, (struct page_range){ (stop - base) / page_bytes, 1 });
		at = align_down(stop - base, page_bytes) + base + page_bytes;
	}
	return 0;
}

static int keep_in_tables(struct remains *remains, const struct guest_view *view,
			  struct page_range pages)
{
	for (uint32_t i = 0; i < view->n_mappings; i++) {
		struct mapping *mapping = view->mappings[i];
		struct page_range left = mapping_clip(mapping, pages);
		uint64_t end = left.first + left.count, page_bytes = mapping->memory->page_bytes;
		int r = 0;

		if (mapping->memory != remains->memory || !left.count || mapping->mapper->is_gone)
			continue;
		r = pagemap_open_once(&mapping->mapper->pagemap, mapping->mapper->pid);
		while (r == 0 && left.count) {
			struct hva_range range = { mapping_address(mapping, left.first),
						   left.count * page_bytes };
			bool is_used = false;
			struct hva found;

			r = pagemap_first_used(mapping->mapper->pagemap, range, &is_used, &found);
			if (r || !is_used)
				break;
			left.first = mapping_page(mapping, found);
			keep(remains, (struct page_range){ left.first, 1 });
			left.first++;
			left.count = end - left.first;
		}
		if (r == -EACCES || r == -EPERM) {
			keep(remains, left); /* nobody knows */
			r = 0;
		}
		if (r < 0 && r != -ESRCH) /* of one that has ended the next harvest tells */
			return r;
	}
	return 0;
}

static int keep_run(struct remains *remains, const struct guest_view *view, struct page_range told)
{
	bool is_shared = remains->memory->kind == BACKING_SHMEM ||
			 remains->memory->kind == BACKING_HUGETLB;
	uint64_t end = told.first + told.count;
	struct page_range removed;
	int r = 0;

	for (uint64_t at = told.first;
	     r == 0 &&
	     page_states_find(&remains->memory->states, (struct page_range){ at, end - at },
			      PAGE_REMOVED, &removed);
	     at = removed.first + removed.count)
		r = is_shared ? keep_in_file(remains, removed)
			      : keep_in_tables(remains, view, removed);
	return r;
}

int discards_keep(const struct guest_view *view, struct memory *memory, uint32_t slot,
		  uint64_t *ret_n_pages)
{
	const struct dirty_map *map = &memory->dirty.maps[slot];
	struct remains remains = { .memory = memory, .pending = map->pending };
	struct page_range left = { 0, memory_n_pages(memory) }, told;
	int r = 0;

	while (r == 0 && dirty_map_find(map->unacked, left, &told)) {
		r = keep_run(&remains, view, told);
		left.first = told.first + told.count;
		left.count = memory_n_pages(memory) - left.first;
	}
	*ret_n_pages = remains.n_pages;
	return r;
}

int discards_begin(const struct guest_view *view, struct memory *memory, uint32_t slot,
		   uint64_t *ret_n_pages)
{
	struct remains remains = { .memory = memory, .pending = memory->dirty.maps[slot].pending };
	int r = keep_run(&remains, view, (struct page_range){ 0, memory_n_pages(memory) });

	*ret_n_pages = remains.n_pages;
	return r;
}
