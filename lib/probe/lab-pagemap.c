/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What our own page tables hold.
 *
 * The pagemap is opened anew each time: an fd of it shows the process that opened it, and
 * experiments fork.
 */
#include "probe/lab.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "kernel/features.h"
#include "kernel/pagemap.h"
#include "probe/lab-smaps.h"

static int open_own(struct probe_run *run)
{
	int fd = -EBADF, r = pagemap_open(&fd, getpid());

	errno = -r;
	probe_must(run, r == 0, "open() of our pagemap");
	return fd;
}

uint64_t lab_pagemap(struct probe_run *run, const void *at)
{
	_cleanup_(closep) int fd = open_own(run);
	uint64_t word = 0;
	int r = pagemap_read(fd, (struct hva){ (uintptr_t)at }, &word, 1);

	errno = -r;
	probe_must(run, r == 0, "read() of our pagemap");
	return word;
}

bool lab_is_protected(struct probe_run *run, const void *at)
{
	return lab_pagemap(run, at) & PAGEMAP_UFFD_WP;
}

bool lab_is_present(struct probe_run *run, const void *at)
{
	return lab_pagemap(run, at) & PAGEMAP_PRESENT;
}

int64_t lab_scan_raw(struct probe_run *run, struct pm_scan_arg *scan)
{
	_cleanup_(closep) int fd = open_own(run);
	int n;

	if (!features_get()->has_pagemap_scan)
		probe_skip(run, "the kernel lacks PAGEMAP_SCAN");
	scan->size = sizeof(*scan);
	n = ioctl(fd, PAGEMAP_SCAN, scan);
	return n < 0 ? -errno : n;
}

/* Before Linux 6.7 as much as is known: is any page of the mapping one? */
bool lab_is_huge(struct probe_run *run, const void *at)
{
	uint64_t page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
	struct page_region region = {};
	struct pm_scan_arg scan = {
		.start = (uintptr_t)at & ~(page_bytes - 1),
		.vec = (uintptr_t)&region,
		.vec_len = 1,
		.category_mask = PAGE_IS_HUGE,
		.return_mask = PAGE_IS_HUGE,
	};
	int64_t n;

	if (!features_get()->has_pagemap_scan)
		return lab_smaps_bytes(run, at, 1, "AnonHugePages") > 0 ||
		       lab_smaps_bytes(run, at, 1, "ShmemPmdMapped") > 0;
	scan.end = scan.start + page_bytes;
	n = lab_scan_raw(run, &scan);
	errno = n < 0 ? (int)-n : 0;
	probe_must(run, n >= 0, "PAGEMAP_SCAN for huge pages");
	return n > 0;
}

int64_t lab_scan(struct probe_run *run, const void *at, size_t length_bytes, uint64_t flags)
{
	uint64_t page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
	struct page_region regions[64];
	struct pm_scan_arg scan = {
		.flags = flags,
		.start = (uintptr_t)at,
		.end = (uintptr_t)at + length_bytes,
		.vec = (uintptr_t)regions,
		.vec_len = sizeof(regions) / sizeof(regions[0]),
		.category_mask = PAGE_IS_WRITTEN,
		.return_mask = PAGE_IS_WRITTEN,
	};
	int64_t n_pages = 0;

	while (scan.start < scan.end) {
		int64_t n = lab_scan_raw(run, &scan);

		if (n < 0)
			return n;
		for (int64_t i = 0; i < n; i++)
			n_pages += (int64_t)((regions[i].end - regions[i].start) / page_bytes);
		errno = ELOOP;
		probe_must(run, scan.walk_end > scan.start, "progress of PAGEMAP_SCAN");
		scan.start = scan.walk_end;
	}
	return n_pages;
}
