/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* PAGEMAP_SCAN: pages that are not there, or come while writes are noted. */
#include <sys/mman.h>

#include "probe/lab.h"
#include "probe/scan.h"
#include "probe/table.h"

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif

#define ALL_MODES (UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP)

/* Of four pages two were written once; all are scanned before anything was protected. */
static void try_unpopulated(struct probe_run *run, enum lab_backing backing)
{
	struct tracked tracked = tracked_map(run, backing, 4);

	lab_fill(&tracked.memory, 0, 0xa1);
	lab_fill(&tracked.memory, 2, 0xa1);
	probe_answer(run, "%lld of 4", (long long)tracked_count(run, &tracked));
}

static void try_unpopulated_anon(struct probe_run *run)
{
	try_unpopulated(run, LAB_ANON);
}

static void try_unpopulated_shmem(struct probe_run *run)
{
	try_unpopulated(run, LAB_SHMEM);
}

static void try_unpopulated_hugetlb(struct probe_run *run)
{
	try_unpopulated(run, LAB_HUGETLB);
}

/* Empty pages that were protected: are they clean then, and is their first write seen? */
static void try_first_write(struct probe_run *run, enum lab_backing backing)
{
	struct tracked tracked = tracked_map(run, backing, 2);
	int64_t before, after;

	tracked_protect(run, &tracked);
	before = tracked_count(run, &tracked);
	tracked_store(&tracked, 1);
	after = tracked_count(run, &tracked);
	probe_answer(run, "%lld, then %lld", (long long)before, (long long)after);
}

static void try_first_write_anon(struct probe_run *run)
{
	try_first_write(run, LAB_ANON);
}

static void try_first_write_shmem(struct probe_run *run)
{
	try_first_write(run, LAB_SHMEM);
}

static void try_first_write_hugetlb(struct probe_run *run)
{
	try_first_write(run, LAB_HUGETLB);
}

/* Page 1 of a tracked range is filled by COPY: written by whom? */
static void try_copy(struct probe_run *run, uint64_t mode)
{
	struct tracked tracked = tracked_map(run, LAB_ANON, 2);
	int r;

	lab_register(run, tracked.uffd, &tracked.memory, ALL_MODES);
	tracked_protect(run, &tracked);
	r = lab_copy_byte(tracked.uffd, &tracked.memory, 1, 0xa1, mode);
	probe_must(run, r == 0, "COPY");
	probe_answer(run, "%lld written", (long long)tracked_count(run, &tracked));
}

static void try_copy_plain(struct probe_run *run)
{
	try_copy(run, 0);
}

static void try_copy_protected(struct probe_run *run)
{
	try_copy(run, UFFDIO_COPY_MODE_WP);
}

static void try_guard(struct probe_run *run)
{
	struct tracked tracked = tracked_prepare(run, LAB_ANON, 2);
	struct page_region regions[2] = {};
	struct pm_scan_arg scan = tracked_scan(&tracked, 0, regions, 2);
	uint8_t *page = lab_page(&tracked.memory, 1);
	int64_t n;

	if (madvise(page, tracked.memory.page_bytes, MADV_GUARD_INSTALL) < 0)
		probe_skip(run, "the kernel has no guard pages");
	scan.return_mask |= PAGE_IS_SWAPPED | PAGE_IS_PRESENT;
	n = lab_scan_raw(run, &scan);
	probe_must(run, n >= 0, "a scan");
	probe_detail(run, "%lld regions; the categories are 0x%llx", (long long)n,
		     (unsigned long long)regions[0].categories);
	probe_answer(run, "%s",
		     n == 1 && regions[0].start == (uintptr_t)page ? "written" : "clean");
}

#define MISSES	 "track=scan misses writes"
#define TOO_MANY "track=scan reports pages that were not written"

static const struct probe_check checks[] = {
	{
		.id = "scan.unpopulated-anon",
		.group = PROBE_SCAN,
		.title = "Anonymous pages that were never there count as written",
		.wanted = "4 of 4",
		.consequence = "none: ufd knows which pages are absent, and leaves them out",
		.run = try_unpopulated_anon,
	},
	{
		.id = "scan.unpopulated-shmem",
		.group = PROBE_SCAN,
		.title = "Pages of shmem that were never there count as written",
		.wanted = "4 of 4",
		.consequence = "none: ufd knows which pages are absent, and leaves them out",
		.run = try_unpopulated_shmem,
	},
	{
		.id = "scan.unpopulated-hugetlb",
		.group = PROBE_SCAN,
		.title = "Huge pages that were never there count as written",
		.wanted = "4 of 4",
		.known = { { PROBE_KERNEL(6, 18), "2 of 4" } },
		.consequence = "none: their first write is seen",
		.run = try_unpopulated_hugetlb,
	},
	{
		.id = "scan.first-write-anon",
		.group = PROBE_SCAN,
		.title = "Empty anonymous pages can be protected, their first write is seen",
		.wanted = "0, then 1",
		.consequence = TOO_MANY,
		.run = try_first_write_anon,
	},
	{
		.id = "scan.first-write-shmem",
		.group = PROBE_SCAN,
		.title = "Empty pages of shmem can be protected, their first write is seen",
		.wanted = "0, then 1",
		.consequence = TOO_MANY,
		.run = try_first_write_shmem,
	},
	{
		.id = "scan.first-write-hugetlb",
		.group = PROBE_SCAN,
		.title = "Empty huge pages can be protected, their first write is seen",
		.wanted = "0, then 1",
		.consequence = MISSES,
		.run = try_first_write_hugetlb,
	},
	{
		.id = "scan.copy",
		.group = PROBE_SCAN,
		.title = "A page that COPY filled without MODE_WP counts as written",
		.wanted = "1 written",
		.consequence = "none: ufd fills with MODE_WP while it tracks",
		.run = try_copy_plain,
	},
	{
		.id = "scan.copy-wp",
		.group = PROBE_SCAN,
		.title = "A page that COPY filled with MODE_WP does not count as written",
		.wanted = "0 written",
		.consequence = "what ufd fills while it tracks is reported as written by the guest",
		.run = try_copy_protected,
	},
	{
		.id = "scan.guard",
		.group = PROBE_SCAN,
		.title = "A guard page counts as written",
		.wanted = "written",
		.consequence = MISSES,
		.run = try_guard,
	},
};

const struct probe_family probe_family_scan_empty = PROBE_FAMILY(checks);
