/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * PAGEMAP_SCAN of huge pages, transparent and other: how many pages one written byte counts for.
 */
#include <sys/mman.h>

#include "probe/lab.h"
#include "probe/scan.h"
#include "probe/table.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

#define HUGE_PAGES 512

/* One transparent huge page, written and not protected yet. The kernel collapses none that is tracked. */
static struct tracked huge_prepare(struct probe_run *run, enum lab_backing backing)
{
	struct tracked tracked = { .memory = lab_map(run, backing, HUGE_PAGES) };
	struct lab_memory *memory = &tracked.memory;

	for (size_t i = 0; i < HUGE_PAGES; i++)
		lab_fill(memory, i, 0xa1);
	if (!lab_is_huge(run, memory->at) &&
	    madvise(memory->at, memory->length_bytes, MADV_COLLAPSE) < 0)
		probe_skip(run, "no transparent huge page is to be had: %s", strerror(errno));
	if (!lab_is_huge(run, memory->at))
		probe_skip(run, "the kernel maps no transparent huge page here");
	tracked_register(run, &tracked);
	return tracked;
}

static void protect_by_ioctl(struct probe_run *run, const struct tracked *tracked)
{
	int r = lab_protect(tracked->uffd, tracked->memory.at, tracked->memory.length_bytes,
			    UFFDIO_WRITEPROTECT_MODE_WP);

	errno = -r;
	probe_must(run, r == 0, "protecting by WRITEPROTECT");
}

/* How it is mapped before one byte of page 7 is written, and how many pages count after that. */
static void answer_after_store(struct probe_run *run, const struct tracked *tracked)
{
	bool is_huge = lab_is_huge(run, tracked->memory.at);

	probe_must(run, tracked_count(run, tracked) == 0, "protecting all of it");
	tracked_store(tracked, 7);
	probe_detail(run, "mapped by %s before the store, by %s after it",
		     is_huge ? "a huge page" : "small pages",
		     lab_is_huge(run, tracked->memory.at) ? "a huge page" : "small pages");
	probe_answer(run, "%s, %lld written", is_huge ? "huge" : "small pages",
		     (long long)tracked_count(run, tracked));
}

static void try_anon_scan(struct probe_run *run)
{
	struct tracked tracked = huge_prepare(run, LAB_ANON_THP);

	tracked_protect(run, &tracked);
	answer_after_store(run, &tracked);
}

static void try_anon_ioctl(struct probe_run *run)
{
	struct tracked tracked = huge_prepare(run, LAB_ANON_THP);

	protect_by_ioctl(run, &tracked);
	answer_after_store(run, &tracked);
}

static void try_shmem_scan(struct probe_run *run)
{
	struct tracked tracked = huge_prepare(run, LAB_SHMEM_THP);

	tracked_protect(run, &tracked);
	answer_after_store(run, &tracked);
}

static void try_shmem_ioctl(struct probe_run *run)
{
	struct tracked tracked = huge_prepare(run, LAB_SHMEM_THP);

	protect_by_ioctl(run, &tracked);
	answer_after_store(run, &tracked);
}

/* A page of shmem that only lost its page table entries was not written. */
static void try_shmem_dontneed(struct probe_run *run)
{
	struct tracked tracked = huge_prepare(run, LAB_SHMEM_THP);
	const struct lab_memory *memory = &tracked.memory;

	tracked_protect(run, &tracked);
	probe_must(run, lab_is_huge(run, memory->at), "the huge page after its protection");
	probe_must(run, madvise(memory->at, memory->length_bytes, MADV_DONTNEED) == 0,
		   "MADV_DONTNEED");
	probe_answer(run, "%lld written", (long long)tracked_count(run, &tracked));
}

/* A scan that protects a half only. */
static void try_anon_part(struct probe_run *run)
{
	struct tracked tracked = huge_prepare(run, LAB_ANON_THP);
	const struct lab_memory *memory = &tracked.memory;
	int64_t n = lab_scan(run, memory->at, memory->length_bytes / 2, DIRTY);

	probe_answer(run, "%lld protected, %s", (long long)n,
		     lab_is_huge(run, memory->at) ? "huge" : "small pages");
	probe_detail(run, "%lld pages count as written after it",
		     (long long)tracked_count(run, &tracked));
}

/* One byte of one huge page of two, in base pages. */
static void try_hugetlb(struct probe_run *run)
{
	struct tracked tracked = tracked_prepare(run, LAB_HUGETLB, 2);
	struct page_region regions[2] = {};
	struct pm_scan_arg scan = tracked_scan(&tracked, DIRTY, regions, 2);
	int64_t n;

	tracked_store(&tracked, 1);
	n = lab_scan_raw(run, &scan);
	probe_must(run, n == 1, "a scan that finds one region");
	probe_detail(run, "the region is pages %zu to %zu",
		     tracked_page(&tracked, regions[0].start),
		     tracked_page(&tracked, regions[0].end));
	probe_answer(run, "%zu written",
		     tracked_page(&tracked, regions[0].end) -
			     tracked_page(&tracked, regions[0].start));
}

/* A written huge page, and a scan that must not go over all of it. */
static void try_hugetlb_part(struct probe_run *run, size_t length_bytes, uint64_t max_pages)
{
	struct tracked tracked = tracked_prepare(run, LAB_HUGETLB, 1);
	struct page_region regions[2] = {};
	struct pm_scan_arg scan = tracked_scan(&tracked, DIRTY, regions, 2);
	int64_t n;

	tracked_store(&tracked, 0);
	scan.end = scan.start + length_bytes;
	scan.max_pages = max_pages;
	n = lab_scan_raw(run, &scan);
	probe_detail(run, "%lld regions, walked to page %zu", (long long)n,
		     tracked_page(&tracked, scan.walk_end));
	if (n < 0)
		probe_answer(run, "%s", probe_errno((int)n));
	else
		probe_answer(run, "%s", scan.walk_end == scan.start ? "no progress" : "progress");
}

static void try_hugetlb_range(struct probe_run *run)
{
	try_hugetlb_part(run, 4096, 0);
}

static void try_hugetlb_max_pages(struct probe_run *run)
{
	try_hugetlb_part(run, (size_t)2 << 20, 1);
}

static const struct probe_check checks[] = {
	{
		.id = "scan.thp-anon",
		.group = PROBE_SCAN,
		.title = "A scan leaves an anonymous huge page whole, a store counts as one page",
		.wanted = "huge, 1 written",
		.consequence = "tracking costs anonymous guests their huge pages, or precision",
		.run = try_anon_scan,
	},
	{
		.id = "scan.thp-anon-wp",
		.group = PROBE_SCAN,
		.title = "WRITEPROTECT leaves an anonymous huge page whole, a store is one page",
		.wanted = "huge, 1 written",
		.consequence = "tracking costs anonymous guests their huge pages, or precision",
		.run = try_anon_ioctl,
	},
	{
		.id = "scan.thp-anon-part",
		.group = PROBE_SCAN,
		.title = "A scan of a half of an anonymous huge page splits it, and protects it",
		.wanted = "256 protected, small pages",
		.consequence =
			"scans by pieces report too much: ufd cuts them at huge pages anyway",
		.run = try_anon_part,
	},
	{
		.id = "scan.thp-shmem",
		.group = PROBE_SCAN,
		.title = "After a scan of a huge page of shmem a store counts as one page",
		.wanted = "huge, 1 written",
		.known = { { PROBE_KERNEL(6, 18), "huge, 512 written" } },
		.consequence = "a byte written counts as 2 MiB: ufd begins by WRITEPROTECT instead",
		.run = try_shmem_scan,
	},
	{
		.id = "scan.thp-shmem-wp",
		.group = PROBE_SCAN,
		.title = "After WRITEPROTECT of a huge page of shmem a store counts as one page",
		.wanted = "small pages, 1 written",
		.consequence =
			"one byte written counts as 2 MiB in guests with huge pages of shmem",
		.run = try_shmem_ioctl,
	},
	{
		.id = "scan.thp-shmem-dontneed",
		.group = PROBE_SCAN,
		.title = "MADV_DONTNEED of a huge page of shmem does not count as writing it",
		.wanted = "0 written",
		.known = { { PROBE_KERNEL(6, 18), "512 written" } },
		.consequence = "none lost, 2 MiB too many; ufd begins by WRITEPROTECT instead",
		.run = try_shmem_dontneed,
	},
	{
		.id = "scan.hugetlb",
		.group = PROBE_SCAN,
		.title = "One byte written to a huge page counts as all of it",
		.wanted = "512 written",
		.consequence = "ufd rounds what a scan says to whole huge pages",
		.run = try_hugetlb,
	},
	{
		.id = "scan.hugetlb-range",
		.group = PROBE_SCAN,
		.title = "A range that is a part of a huge page is refused",
		.wanted = "EINVAL",
		.known = { { PROBE_KERNEL(6, 18), "no progress" } },
		.consequence =
			"no step and no error: ufd scans whole huge pages, and stops if it stands",
		.run = try_hugetlb_range,
	},
	{
		.id = "scan.hugetlb-max-pages",
		.group = PROBE_SCAN,
		.title = "A limit of less than a huge page is refused, or passed",
		.wanted = "progress",
		.known = { { PROBE_KERNEL(6, 18), "no progress" } },
		.consequence = "no step and no error: ufd sets no limit of pages",
		.run = try_hugetlb_max_pages,
	},
};

const struct probe_family probe_family_scan_huge = PROBE_FAMILY(checks);
