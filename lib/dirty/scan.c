/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The tracker `scan`: the kernel takes the protection off by itself (WP_ASYNC), PAGEMAP_SCAN
 * reports such pages and protects them again in the same step.
 *
 * What it reports exists nowhere else from then on. So its vector lies in the ledger, was zero
 * before, and is zeroed again when all of it is in the maps; a successor finds the rest
 * (scan_recover()). The kernel writes out what it has protected before it returns, also when the
 * caller is being killed.
 *
 * A page that has no page table entry counts as written there. So absent pages are not looked at,
 * but for small gaps, and what is absent after the scan is dropped: it was never written. A page
 * that was absent before it, and is not after it, was filled meanwhile: whether the scan saw the
 * guest's write or the empty entry cannot be told, so it is reported, and counted as uncertain.
 */
#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "dirty/tracker.h"
#include "guest/guest.h"
#include "kernel/pagemap.h"

#define PIECE_BYTES  (64 * MIB)
#define SMALL_BYTES  (2 * MIB) /* pieces end at huge pages: to protect a part of one splits it */
#define HEAD_BYTES   64
#define N_REGIONS    ((LEDGER_SCAN_BYTES - HEAD_BYTES) / sizeof(struct page_region))
#define BEFORE_PAGES (PIECE_BYTES / 4096)
#define WP_FLAGS     (PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC)

/* In the ledger. */
struct scan_area {
	uint32_t mapper; /* whose addresses these are; before the first call for it */
	uint32_t reserved[15];
	struct page_region regions[N_REGIONS]; /* those with an end were not marked yet */
};
_Static_assert(sizeof(struct scan_area) <= LEDGER_SCAN_BYTES, "the area is as large as it is");

/* One harvest of one mapping. */
struct scan {
	struct scan_area *area;
	struct mapping *mapping;
	struct memory *memory;
	struct dirty_counts *counts;
	bool is_settled;	 /* nothing was absent before: whatever is found was written */
	unsigned int page_shift; /* of the memory's page size */
	/* the states before the scan, from the word of this page on */
	uint64_t before_first;
	uint64_t before[BEFORE_PAGES / PAGES_PER_WORD + 2];
};

static void scan_remember(struct scan *scan, struct page_range pages)
{
	uint64_t first = align_down(pages.first, PAGES_PER_WORD) / PAGES_PER_WORD;
	uint64_t end = (pages.first + pages.count + PAGES_PER_WORD - 1) / PAGES_PER_WORD;

	/* pairs with the release of who moves states */
	scan->is_settled = atomic_load_explicit(&scan->memory->n_absent, memory_order_acquire) == 0;
	scan->before_first = first * PAGES_PER_WORD;
	for (uint64_t i = first; !scan->is_settled && i < end; i++)
		scan->before[i - first] = atomic_load_explicit(&scan->memory->states.words[i],
							       memory_order_acquire);
}

static bool scan_was_there(const struct scan *scan, uint64_t page)
{
	uint64_t at = page - scan->before_first;
	uint64_t state = scan->before[at / PAGES_PER_WORD] >> at % PAGES_PER_WORD * 2 & 3;

	return state == PAGE_PRESENT || state == PAGE_REMOVED;
}

/* Reported as written: marked unless it is absent. */
static void scan_mark(struct scan *scan, struct page_range pages)
{
	uint64_t end = pages.first + pages.count;

	if (scan->is_settled) {
		scan->counts->n_reported += pages.count;
		dirty_maps_mark(&scan->memory->dirty, pages);
		return;
	}
	for (uint64_t page = pages.first; page < end; page++) {
		enum page_state state = page_states_get(&scan->memory->states, page);

		if (state == PAGE_ABSENT)
			continue;
		scan->counts->n_reported++;
		if (state == PAGE_FILLING || !scan_was_there(scan, page))
			scan->counts->uncertain_bytes += scan->memory->page_bytes;
		dirty_maps_mark(&scan->memory->dirty, (struct page_range){ page, 1 });
	}
}

static struct page_range region_pages(const struct mapping *mapping,
				      const struct page_region *region)
{
	uint64_t page_bytes = mapping->memory->page_bytes;
	uint64_t first = align_down(region->start, page_bytes);

	return (struct page_range){ mapping_page(mapping, (struct hva){ first }),
				    (align_up(region->end, page_bytes) - first) / page_bytes };
}

/* A scan of a busy guest finds a region for each page it wrote: no division, one count for all. */
static void scan_mark_regions(struct scan *scan, uint64_t n)
{
	const struct mapping *mapping = scan->mapping;
	uint64_t first = mapping->offset_bytes >> scan->page_shift;
	uint64_t start = mapping->range.start.v, round = scan->memory->page_bytes - 1;

	for (uint64_t i = 0; i < n; i++) {
		const struct page_region *region = &scan->area->regions[i];
		uint64_t begin = (region->start - start) >> scan->page_shift;
		uint64_t end = (region->end - start + round) >> scan->page_shift;

		scan_mark(scan, (struct page_range){ first + begin, end - begin });
	}
	/* pairs with the acquire in file_look_take() */
	if (n)
		atomic_fetch_add_explicit(&scan->memory->n_marked, 1, memory_order_release);
}

/*
 * Walk [@at, @end). Return: 0, PAGEMAP_UNARMED (what came before the unarmed part is marked),
 * -errno.
 */
static int scan_walk(struct scan *scan, struct hva at, struct hva end)
{
	struct scan_area *area = scan->area;

	while (at.v < end.v) {
		struct hva walk_end = at;
		uint64_t n = 0;
		int r = pagemap_scan(scan->mapping->mapper->pagemap,
				     (struct hva_range){ at, end.v - at.v }, PAGE_IS_WRITTEN,
				     WP_FLAGS, area->regions, N_REGIONS, &n, &walk_end);

		scan->counts->n_scans++;
		scan_mark_regions(scan, n);
		/* in the maps before they are gone from here; pairs with a successor's reading */
		atomic_thread_fence(memory_order_release);
		memset(area->regions, 0, n * sizeof(area->regions[0]));
		if (r)
			return r;
		if (walk_end.v <= at.v)
			return -EIO; /* the kernel made no step */
		at = walk_end;
	}
	return 0;
}

/*
 * The kernel does not track some part of it, unmapped and mapped anew perhaps: nothing is known
 * there.
 */
static void scan_unarmed(struct scan *scan, struct hva start, struct hva end)
{
	struct page_range pages = { mapping_page(scan->mapping, start),
				    (end.v - start.v) / scan->memory->page_bytes };
	uint64_t before = scan->counts->n_reported, bytes;

	scan_mark(scan, pages);
	atomic_fetch_add_explicit(&scan->memory->n_marked, 1, memory_order_release);
	bytes = (scan->counts->n_reported - before) * scan->memory->page_bytes;
	scan->counts->unarmed_bytes += bytes;
	scan->counts->uncertain_bytes += bytes;
}

static int scan_piece(struct scan *scan, struct hva start, struct hva end)
{
	uint64_t small_bytes = max_u64(SMALL_BYTES, scan->memory->page_bytes);
	int r;

	scan_remember(scan, (struct page_range){ mapping_page(scan->mapping, start),
						 (end.v - start.v) / scan->memory->page_bytes });
	r = scan_walk(scan, start, end);
	if (r != PAGEMAP_UNARMED)
		return r;
	for (struct hva at = start; at.v < end.v;) {
		struct hva next = { min_u64(align_down(at.v, small_bytes) + small_bytes, end.v) };

		r = scan_walk(scan, at, next);
		if (r == PAGEMAP_UNARMED)
			scan_unarmed(scan, at, next);
		else if (r)
			return r;
		at = next;
	}
	return 0;
}

static int scan_collect(struct ledger *ledger, struct mapping *mapping, struct dirty_counts *counts)
{
	struct scan scan = {
		.area = ledger_scan_vector(ledger),
		.mapping = mapping,
		.memory = mapping->memory,
		.counts = counts,
		.page_shift = (unsigned int)__builtin_ctzll(mapping->memory->page_bytes),
	};
	struct page_range left = mapping_pages(mapping), run;
	uint64_t end_page = left.first + left.count;
	int r = pagemap_open_once(&mapping->mapper->pagemap, mapping->mapper->pid);

	if (r == -ESRCH)
		return TRACKER_GONE;
	scan.area->mapper = mapping->mapper->id;
	while (r == 0 && protect_next_existing(scan.memory, left, &run)) {
		struct hva at = mapping_address(mapping, run.first);
		struct hva end = hva_add(at, run.count * scan.memory->page_bytes);

		while (r == 0 && at.v < end.v) {
			struct hva next = { min_u64(align_down(at.v, SMALL_BYTES) + PIECE_BYTES,
						    end.v) };

			if (scan.memory->page_bytes > PIECE_BYTES)
				next = hva_add(at, scan.memory->page_bytes);
			r = scan_piece(&scan, at, next);
			at = next;
		}
		left.first = run.first + run.count;
		left.count = end_page - left.first;
	}
	return r ? r : tracker_check_alive(mapping);
}

void scan_recover(struct guest *guest)
{
	struct scan_area *area = ledger_scan_vector(guest->ledger);
	uint64_t n = 0;

	for (; n < N_REGIONS && area->regions[n].end; n++) {
		const struct page_region *region = &area->regions[n];
		struct mapping *mapping = guest_view_find(guest->view, area->mapper,
							  (struct hva){ region->start });
		struct page_range pages;

		/* the ledger is foreign input */
		if (!mapping || region->end <= region->start ||
		    region->end - mapping->range.start.v > mapping->range.length_bytes)
			continue;
		pages = region_pages(mapping, region);
		for (uint64_t page = pages.first; page < pages.first + pages.count; page++)
			if (page_states_get(&mapping->memory->states, page) != PAGE_ABSENT)
				memory_mark_dirty(mapping->memory, (struct page_range){ page, 1 });
	}
	atomic_thread_fence(memory_order_release);
	/* no more than that: what was never written costs no memory */
	memset(area->regions, 0, n * sizeof(area->regions[0]));
}

const struct tracker tracker_scan = { .name = "scan", .collect = scan_collect };
