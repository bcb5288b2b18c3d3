/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What our own page tables hold.
 *
 * The pagemap is opened anew each time: an fd of it shows the process that opened it, and
 * experiments fork.
 */
#include "probe/lab.h"

#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "kernel/features.h"
#include "kernel/pagemap.h"

#define N_SWAP_TRIES 50

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

/* Of private memory the page table says it; of a file, the page cache does. */
static size_t count_resident(struct probe_run *run, uint8_t *at, size_t length_bytes)
{
	size_t page_bytes = (size_t)sysconf(_SC_PAGESIZE), n = 0;

	for (size_t i = 0; i < length_bytes; i += page_bytes) {
		unsigned char is_cached = 0;

		probe_must(run, mincore(at + i, page_bytes, &is_cached) == 0, "mincore()");
		n += lab_is_present(run, at + i) || is_cached & 1;
	}
	return n;
}

/*
 * A page that another CPU still holds in a batch of its own, or that is being written, stays at the
 * first try; each try takes a moment of ours to let that end.
 */
void lab_swap_out(struct probe_run *run, void *at, size_t length_bytes)
{
	struct sysinfo host;
	size_t n_left;

	probe_must(run, sysinfo(&host) == 0, "sysinfo()");
	if (host.freeswap == 0)
		probe_skip(run, host.totalswap ? "no swap is free" : "the host has no swap");
	for (int i = 0; i < N_SWAP_TRIES; i++) {
		if (madvise(at, length_bytes, MADV_PAGEOUT) < 0)
			probe_skip(run, "MADV_PAGEOUT is refused: %s", strerror(errno));
		n_left = count_resident(run, at, length_bytes);
		if (!n_left)
			return;
		poll(NULL, 0, 2);
	}
	probe_skip(run, "the kernel kept %zu pages that it was to swap out", n_left);
}
