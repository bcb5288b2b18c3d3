/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* PAGEMAP_SCAN: what it refuses, where it stops, and how it goes on. */
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "kernel/pagemap.h"
#include "probe/lab.h"
#include "probe/scan.h"
#include "probe/table.h"

/* As it is given, its size too. Return: regions or -errno. */
static int64_t scan_as_given(struct probe_run *run, struct pm_scan_arg *scan)
{
	_cleanup_(closep) int fd = -EBADF;
	int r = pagemap_open(&fd, getpid());

	errno = -r;
	probe_must(run, r == 0, "open() of our pagemap");
	r = ioctl(fd, PAGEMAP_SCAN, scan);
	return r < 0 ? -errno : r;
}

#define UNKNOWN_BIT (UINT64_C(1) << 40)

static void try_invalid(struct probe_run *run)
{
	struct tracked tracked = tracked_prepare(run, LAB_ANON, 1);
	struct page_region region;
	struct pm_scan_arg right = tracked_scan(&tracked, 0, &region, 1), scans[7];
	static const char *const names[] = {
		"size", "flag", "start", "mask", "inverted", "anyof", "return",
	};

	for (size_t i = 0; i < 7; i++)
		scans[i] = right;
	scans[0].size--;
	scans[1].flags = UNKNOWN_BIT;
	scans[2].start++;
	scans[3].category_mask |= UNKNOWN_BIT;
	scans[4].category_inverted = UNKNOWN_BIT;
	scans[5].category_anyof_mask = UNKNOWN_BIT;
	scans[6].return_mask |= UNKNOWN_BIT;
	probe_answer(run, "EINVAL");
	for (size_t i = 0; i < 7; i++) {
		int64_t r = scan_as_given(run, &scans[i]);

		probe_step(run, "wrong %s: %lld", names[i], (long long)r);
		if (r != -EINVAL)
			probe_answer(run, "%s: %s", names[i], probe_errno(r < 0 ? (int)r : 0));
	}
}

static void try_reversed(struct probe_run *run)
{
	struct tracked tracked = tracked_prepare(run, LAB_ANON, 2);
	struct page_region region;
	struct pm_scan_arg scan = tracked_scan(&tracked, 0, &region, 1);
	int64_t r;

	scan.end = scan.start;
	scan.start += tracked.memory.page_bytes;
	r = lab_scan_raw(run, &scan);
	probe_answer(run, "%s", probe_errno(r < 0 ? (int)r : 0));
}

static void try_bad_vector(struct probe_run *run)
{
	struct tracked tracked = tracked_prepare(run, LAB_ANON, 1);
	struct pm_scan_arg scan = tracked_scan(&tracked, 0, (struct page_region *)(1L << 62), 1);
	int64_t r = lab_scan_raw(run, &scan);

	probe_answer(run, "%s", probe_errno(r < 0 ? (int)r : 0));
}

static void try_empty(struct probe_run *run)
{
	struct tracked tracked = tracked_prepare(run, LAB_ANON, 1);
	struct page_region region;
	struct pm_scan_arg scan = tracked_scan(&tracked, DIRTY, &region, 1);
	int64_t r;

	tracked_store(&tracked, 0);
	scan.end = scan.start;
	r = lab_scan_raw(run, &scan);
	if (r >= 0)
		probe_answer(run, "%lld regions", (long long)r);
	else
		probe_answer(run, "%s", probe_errno((int)r));
}

/* The range ends one byte into the second page. */
static void try_rounded(struct probe_run *run)
{
	struct tracked tracked = tracked_prepare(run, LAB_ANON, 3);
	struct page_region region = {};
	struct pm_scan_arg scan = tracked_scan(&tracked, DIRTY, &region, 1);
	int64_t r;

	tracked_store(&tracked, 1);
	tracked_store(&tracked, 2);
	scan.end = scan.start + tracked.memory.page_bytes + 1;
	r = lab_scan_raw(run, &scan);
	probe_detail(run, "%lld regions, %lld pages written after it", (long long)r,
		     (long long)tracked_count(run, &tracked));
	probe_answer(run, "%llu bytes", (unsigned long long)(region.end - region.start));
}

/* Two written pages, and a scan that has no room for them, or asks for another category. */
static void try_no_room(struct probe_run *run, struct page_region *vector, uint64_t mask)
{
	struct tracked tracked = tracked_prepare(run, LAB_ANON, 4);
	struct pm_scan_arg scan = tracked_scan(&tracked, DIRTY, vector, 0);
	int64_t r, n_left;

	tracked_store(&tracked, 1);
	tracked_store(&tracked, 3);
	scan.category_mask = mask;
	r = lab_scan_raw(run, &scan);
	n_left = tracked_count(run, &tracked);
	probe_detail(run, "it returned %lld; of 2 written pages %lld are so after it", (long long)r,
		     (long long)n_left);
	if (r < 0)
		probe_answer(run, "%s", probe_errno((int)r));
	else
		probe_answer(run, "%s", n_left == 0 ? "all protected" : "nothing protected");
}

static void try_empty_vector(struct probe_run *run)
{
	struct page_region region;

	try_no_room(run, &region, PAGE_IS_WRITTEN);
}

static void try_no_vector(struct probe_run *run)
{
	try_no_room(run, NULL, PAGE_IS_WRITTEN);
}

static void try_no_vector_mask(struct probe_run *run)
{
	try_no_room(run, NULL, PAGE_IS_SWAPPED);
}

/* Every second page of 16 was written; calls of the same limits until the range is walked. */
static void try_limits(struct probe_run *run, size_t n_regions, uint64_t max_pages)
{
	struct tracked tracked = tracked_prepare(run, LAB_ANON, 16);
	struct page_region regions[8] = {};
	struct pm_scan_arg scan = tracked_scan(&tracked, DIRTY, regions, n_regions);
	char counts[64] = "";
	size_t n_right = 0, n_found = 0;

	for (size_t i = 0; i < 16; i += 2)
		tracked_store(&tracked, i);
	scan.max_pages = max_pages;
	for (int calls = 0; calls < 16 && scan.start < scan.end; calls++) {
		int64_t n = lab_scan_raw(run, &scan);

		probe_must(run, n >= 0, "a scan");
		for (int64_t i = 0; i < n; i++, n_found++)
			n_right += tracked_page(&tracked, regions[i].start) == 2 * n_found;
		probe_step(run, "%lld regions, walked to page %zu, %lld pages still count",
			   (long long)n, tracked_page(&tracked, scan.walk_end),
			   (long long)tracked_count(run, &tracked));
		/* what was not reported is not protected either */
		if (tracked_count(run, &tracked) != 8 - (int64_t)n_found)
			n_right = 0;
		snprintf(counts + strlen(counts), sizeof(counts) - strlen(counts), "%s%lld",
			 calls ? " " : "", (long long)n);
		scan.start = scan.walk_end;
	}
	probe_detail(run, "calls reported %s pages, %zu of 8 right", counts, n_right);
	probe_answer(run, "%s", n_right == 8 && n_found == 8 ? "none lost" : counts);
}

static void try_short_vector(struct probe_run *run)
{
	try_limits(run, 3, 0);
}

static void try_max_pages(struct probe_run *run)
{
	try_limits(run, 8, 3);
}

/* Two neighbours and a page on its own. */
static void try_merged(struct probe_run *run)
{
	struct tracked tracked = tracked_prepare(run, LAB_ANON, 8);
	struct page_region regions[8] = {};
	struct pm_scan_arg scan = tracked_scan(&tracked, DIRTY, regions, 8);
	int64_t n;

	tracked_store(&tracked, 2);
	tracked_store(&tracked, 3);
	tracked_store(&tracked, 6);
	n = lab_scan_raw(run, &scan);
	probe_must(run, n >= 0, "a scan");
	for (int64_t i = 0; i < n; i++)
		probe_step(run, "pages %zu to %zu", tracked_page(&tracked, regions[i].start),
			   tracked_page(&tracked, regions[i].end));
	probe_answer(run, "%lld regions", (long long)n);
}

/* Pages that were never populated, and page tables that are there: four ways to ask. */
static void try_masks(struct probe_run *run)
{
	struct tracked tracked = tracked_map(run, LAB_ANON, 6);
	struct page_region regions[8];
	struct pm_scan_arg right = tracked_scan(&tracked, 0, regions, 8), scans[4];
	int64_t counts[4] = {};

	lab_fill(&tracked.memory, 0, 0xa1); /* makes the page table */
	for (size_t i = 0; i < 4; i++) {
		scans[i] = right;
		scans[i].start += 2 * tracked.memory.page_bytes;
	}
	scans[1].category_mask = 0;
	scans[1].category_anyof_mask = PAGE_IS_WRITTEN;
	scans[2].category_mask |= PAGE_IS_PRESENT; /* written, and not there */
	scans[2].category_inverted = PAGE_IS_PRESENT;
	scans[3].category_mask = 0; /* every page, and what it is */
	for (size_t i = 0; i < 4; i++) {
		int64_t n = lab_scan_raw(run, &scans[i]);

		probe_must(run, n >= 0, "a scan");
		for (int64_t j = 0; j < n; j++)
			if (regions[j].categories & PAGE_IS_WRITTEN)
				counts[i] += (int64_t)(tracked_page(&tracked, regions[j].end) -
						       tracked_page(&tracked, regions[j].start));
	}
	probe_answer(run, "%lld %lld %lld %lld", (long long)counts[0], (long long)counts[1],
		     (long long)counts[2], (long long)counts[3]);
}

static const struct probe_check checks[] = {
	{
		.id = "scan.invalid",
		.group = PROBE_SCAN,
		.title = "Wrong size, unknown flags and categories, odd start: EINVAL",
		.wanted = "EINVAL",
		.consequence = "none: ufd asks only for what Linux 6.7 knows",
		.run = try_invalid,
	},
	{
		.id = "scan.reversed",
		.group = PROBE_SCAN,
		.title = "A range that ends before it starts says EFAULT",
		.wanted = "EFAULT",
		.consequence = "none: ufd never asks so",
		.run = try_reversed,
	},
	{
		.id = "scan.bad-vector",
		.group = PROBE_SCAN,
		.title = "A vector outside the address space says EFAULT",
		.wanted = "EFAULT",
		.consequence = "none: ufd never asks so",
		.run = try_bad_vector,
	},
	{
		.id = "scan.empty-range",
		.group = PROBE_SCAN,
		.title = "An empty range has no regions",
		.wanted = "0 regions",
		.consequence = "none: ufd never asks so",
		.run = try_empty,
	},
	{
		.id = "scan.rounded",
		.group = PROBE_SCAN,
		.title = "The end of the range is rounded up to a page",
		.wanted = "4096 bytes",
		.consequence = "none: ufd asks for whole pages",
		.run = try_rounded,
	},
	{
		.id = "scan.empty-vector",
		.group = PROBE_SCAN,
		.title = "A vector without room protects nothing, for it reports nothing",
		.wanted = "nothing protected",
		.known = { { PROBE_KERNEL(6, 7), "all protected" } },
		.consequence = "what was written is lost: ufd refuses to scan with an empty vector",
		.run = try_empty_vector,
	},
	{
		.id = "scan.no-vector",
		.group = PROBE_SCAN,
		.title = "A scan without a vector protects the whole range",
		.wanted = "all protected",
		.consequence = "none: ufd protects by UFFDIO_WRITEPROTECT",
		.run = try_no_vector,
	},
	{
		.id = "scan.no-vector-mask",
		.group = PROBE_SCAN,
		.title = "A scan without a vector protects only the pages of its categories",
		.wanted = "nothing protected",
		.known = { { PROBE_KERNEL(6, 7), "all protected" } },
		.consequence = "none: ufd gives a vector with every scan",
		.run = try_no_vector_mask,
	},
	{
		.id = "scan.short-vector",
		.group = PROBE_SCAN,
		.title = "A scan whose vector is full goes on at walk_end and loses nothing",
		.wanted = "none lost",
		.consequence = "track=scan loses writes of a guest that writes much",
		.remedy = "track by faults: attach guests with track=wp",
		.run = try_short_vector,
	},
	{
		.id = "scan.max-pages",
		.group = PROBE_SCAN,
		.title = "A scan that met max_pages goes on at walk_end and loses nothing",
		.wanted = "none lost",
		.consequence = "none: ufd sets no limit of pages",
		.run = try_max_pages,
	},
	{
		.id = "scan.merged",
		.group = PROBE_SCAN,
		.title = "Neighbours of the same categories are one region",
		.wanted = "2 regions",
		.consequence = "scans of ufd need more calls",
		.run = try_merged,
	},
	{
		.id = "scan.masks",
		.group = PROBE_SCAN,
		.title = "Every way to ask counts empty pages as written",
		.wanted = "4 4 4 4",
		.consequence = "none: ufd asks by category_mask alone, which was always right",
		.run = try_masks,
	},
};

const struct probe_family probe_family_scan_arguments = PROBE_FAMILY(checks);
