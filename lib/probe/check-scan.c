/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* PAGEMAP_SCAN: which pages it reports, and over which mappings it may go. */
#include <sys/mman.h>
#include <unistd.h>

#include "probe/lab.h"
#include "probe/scan.h"
#include "probe/table.h"

/* The first, one in the middle and the last of 9 pages. */
static void try_positions(struct probe_run *run)
{
	static const size_t stored[] = { 0, 4, 8 };
	struct tracked tracked = tracked_prepare(run, LAB_SHMEM, 9);
	struct page_region regions[9] = {};
	struct pm_scan_arg scan = tracked_scan(&tracked, DIRTY, regions, 9);
	size_t n_right = 0;
	int64_t n;

	for (size_t i = 0; i < 3; i++)
		tracked_store(&tracked, stored[i]);
	n = lab_scan_raw(run, &scan);
	probe_must(run, n >= 0, "a scan");
	for (size_t i = 0; i < 3 && i < (size_t)n; i++)
		n_right += tracked_page(&tracked, regions[i].start) == stored[i] &&
			   tracked_page(&tracked, regions[i].end) == stored[i] + 1;
	probe_answer(run, "%zu of %lld right", n_right, (long long)n);
}

/* Get and protect again: a store, a scan, a scan, a store, a scan. */
static void try_again(struct probe_run *run)
{
	struct tracked tracked = tracked_prepare(run, LAB_SHMEM, 4);
	const struct lab_memory *memory = &tracked.memory;
	int64_t first, second, third;

	tracked_store(&tracked, 2);
	first = lab_scan(run, memory->at, memory->length_bytes, DIRTY);
	second = lab_scan(run, memory->at, memory->length_bytes, DIRTY);
	tracked_store(&tracked, 2);
	third = lab_scan(run, memory->at, memory->length_bytes, DIRTY);
	probe_answer(run, "%lld %lld %lld", (long long)first, (long long)second, (long long)third);
}

/* Two written pages whose protection raises messages, or that nobody registered. */
static struct tracked untracked(struct probe_run *run, bool is_registered)
{
	struct tracked tracked = { .memory = lab_map(run, LAB_ANON, 4) };
	struct lab_memory *memory = &tracked.memory;
	int r;

	tracked.uffd = lab_uffd(run, UFFD_FEATURE_PAGEFAULT_FLAG_WP);
	for (size_t i = 0; i < 4; i++)
		lab_fill(memory, i, 0xa1);
	if (!is_registered)
		return tracked;
	lab_register(run, tracked.uffd, memory, UFFDIO_REGISTER_MODE_WP);
	r = lab_protect(tracked.uffd, memory->at, 2 * memory->page_bytes,
			UFFDIO_WRITEPROTECT_MODE_WP);
	probe_must(run, r == 0, "protecting two pages");
	return tracked;
}

static void answer_scan(struct probe_run *run, const struct tracked *tracked, uint64_t flags)
{
	int64_t n = lab_scan(run, tracked->memory.at, tracked->memory.length_bytes, flags);

	if (n < 0)
		probe_answer(run, "%s", probe_errno((int)n));
	else
		probe_answer(run, "%lld written", (long long)n);
}

static void try_check_sync(struct probe_run *run)
{
	struct tracked tracked = untracked(run, true);

	answer_scan(run, &tracked, DIRTY);
}

static void try_check_unregistered(struct probe_run *run)
{
	struct tracked tracked = untracked(run, false);

	answer_scan(run, &tracked, DIRTY);
}

static void try_unchecked(struct probe_run *run)
{
	struct tracked tracked = untracked(run, false);

	answer_scan(run, &tracked, PM_SCAN_WP_MATCHING);
}

static void try_look_sync(struct probe_run *run)
{
	struct tracked tracked = untracked(run, true);

	answer_scan(run, &tracked, 0);
}

static void try_look_unregistered(struct probe_run *run)
{
	struct tracked tracked = untracked(run, false);

	answer_scan(run, &tracked, 0);
}

/* A tracked half with a written page, then a half that is not tracked. */
static void try_half(struct probe_run *run)
{
	struct tracked tracked = tracked_prepare(run, LAB_ANON, 4);
	const struct lab_memory *memory = &tracked.memory;
	struct page_region regions[4] = {};
	struct pm_scan_arg scan = tracked_scan(&tracked, DIRTY, regions, 4);
	uint8_t *half = lab_page(memory, 2);
	int64_t n, n_left;

	probe_must(run, lab_unregister(tracked.uffd, half, 2 * memory->page_bytes) == 0,
		   "UNREGISTER of the second half");
	tracked_store(&tracked, 1);
	n = lab_scan_raw(run, &scan);
	n_left = lab_scan(run, memory->at, 2 * memory->page_bytes, 0);
	probe_detail(run, "it says %s; the vector %s; of the tracked half %lld pages count after",
		     n < 0 ? probe_errno((int)n) : "ok",
		     regions[0].end ? "has a region" : "is empty", (long long)n_left);
	if (n >= 0)
		probe_answer(run, "%lld regions", (long long)n);
	else
		probe_answer(run, "%s, %s", probe_errno((int)n),
			     n_left == 1 ? "nothing protected" : "protected");
}

/* Unmapped addresses in the middle. */
static void try_gap(struct probe_run *run)
{
	struct tracked tracked = tracked_prepare(run, LAB_ANON, 4);

	tracked_store(&tracked, 3);
	probe_must(run, munmap(lab_page(&tracked.memory, 1), tracked.memory.page_bytes) == 0,
		   "munmap() of page 1");
	answer_scan(run, &tracked, DIRTY);
}

/* The last close lets go of all protection. */
static void try_closed(struct probe_run *run)
{
	struct tracked tracked = tracked_prepare(run, LAB_ANON, 4);

	close(tracked.uffd);
	probe_detail(run, "%lld of 4 pages count as written",
		     (long long)tracked_count(run, &tracked));
	answer_scan(run, &tracked, DIRTY);
}

#define MISSES "track=scan misses writes"

static const struct probe_check checks[] = {
	{
		.id = "scan.positions",
		.group = PROBE_SCAN,
		.title = "The first, a middle and the last page are found where they are",
		.wanted = "3 of 3 right",
		.consequence = MISSES,
		.remedy = "attach guests with track=wp",
		.run = try_positions,
	},
	{
		.id = "scan.again",
		.group = PROBE_SCAN,
		.title = "A page is reported once for each time it was written",
		.wanted = "1 0 1",
		.consequence = MISSES,
		.remedy = "attach guests with track=wp",
		.run = try_again,
	},
	{
		.id = "scan.check-sync",
		.group = PROBE_SCAN,
		.title = "CHECK_WPASYNC refuses memory whose protection raises messages",
		.wanted = "EPERM",
		.consequence = "ufd cannot tell memory that lost its tracking",
		.run = try_check_sync,
	},
	{
		.id = "scan.check-unregistered",
		.group = PROBE_SCAN,
		.title = "CHECK_WPASYNC refuses memory that is not registered",
		.wanted = "EPERM",
		.consequence = "ufd cannot tell memory that lost its tracking",
		.run = try_check_unregistered,
	},
	{
		.id = "scan.unchecked",
		.group = PROBE_SCAN,
		.title = "Protecting memory that is not registered says so without CHECK_WPASYNC",
		.wanted = "EPERM",
		.known = { { PROBE_KERNEL(6, 18), "0 written" } },
		.consequence = "such memory looks clean: ufd scans with CHECK_WPASYNC only",
		.run = try_unchecked,
	},
	{
		.id = "scan.half",
		.group = PROBE_SCAN,
		.title = "A scan that ends with EPERM has protected nothing",
		.wanted = "EPERM, nothing protected",
		.known = { { PROBE_KERNEL(6, 18), "EPERM, protected" } },
		.consequence = "pages before the refusal were taken: ufd counts them as written",
		.run = try_half,
	},
	{
		.id = "scan.gap",
		.group = PROBE_SCAN,
		.title = "Unmapped addresses in the range are passed over",
		.wanted = "1 written",
		.consequence = "ufd has to scan mapping by mapping",
		.run = try_gap,
	},
	{
		.id = "scan.look-sync",
		.group = PROBE_SCAN,
		.title = "A scan that protects nothing works where protection raises messages",
		.wanted = "2 written",
		.consequence = "none: with track=wp ufd does not scan",
		.run = try_look_sync,
	},
	{
		.id = "scan.look-unregistered",
		.group = PROBE_SCAN,
		.title = "All of unregistered memory counts as written",
		.wanted = "4 written",
		.consequence = "none: ufd scans registered memory only",
		.run = try_look_unregistered,
	},
	{
		.id = "scan.closed",
		.group = PROBE_SCAN,
		.title = "After the last close of its uffd memory is not tracked, and says so",
		.wanted = "EPERM",
		.consequence = "memory looks clean to a pager that lost its uffd",
		.run = try_closed,
	},
};

const struct probe_family probe_family_scan = PROBE_FAMILY(checks);
