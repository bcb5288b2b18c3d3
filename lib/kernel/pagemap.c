/* SPDX-License-Identifier: MIT */
/* /proc/PID/pagemap. */
#include "kernel/pagemap.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "kernel/features.h"

/*
 * A swap entry keeps its type in the lowest five bits of the word and its offset above. A marker is of
 * the highest type, which is no swap device; from Linux 5.19 to 6.2 of the one below, for the highest
 * were pages that could not be swapped in. These, and what else has those types, have page frames
 * as offsets, a marker has bits: 1 is write-protection. All read 0 without CAP_SYS_ADMIN.
 */
#define PAGEMAP_SWAP_ENTRY     ((UINT64_C(1) << 55) - 1)
#define PAGEMAP_SWAP_TYPE_BITS 5
#define PAGEMAP_WP_MARKER      (UINT64_C(1) << PAGEMAP_SWAP_TYPE_BITS | 31)
#define PAGEMAP_WP_MARKER_6_2  (UINT64_C(1) << PAGEMAP_SWAP_TYPE_BITS | 30)

int pagemap_open(int *ret_fd, pid_t pid)
{
	char path[32];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? -ESRCH : -errno;
	*ret_fd = fd;
	return 0;
}

int pagemap_read(int fd, struct hva start, uint64_t *ret_words, uint64_t n_words)
{
	uint64_t page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
	uint64_t done = 0;

	while (done < n_words) {
		off_t at = (off_t)((start.v / page_bytes + done) * sizeof(*ret_words));
		ssize_t n = pread(fd, ret_words + done, (n_words - done) * sizeof(*ret_words), at);

		if (n < 0)
			return -errno;
		if (n == 0)
			return -ESRCH;
		done += (uint64_t)n / sizeof(*ret_words);
	}
	return 0;
}

static uint64_t count_reported(const struct page_region *vector, uint64_t n_vector)
{
	uint64_t n = 0;

	while (n < n_vector && vector[n].end)
		n++;
	return n;
}

int pagemap_scan(int fd, struct hva_range range, uint64_t categories, uint64_t flags,
		 struct page_region *vector, uint64_t n_vector, uint64_t *ret_n,
		 struct hva *ret_walk_end)
{
	/* One category goes by category_mask, which every kernel gets right on empty page tables.
	 */
	bool is_single = (categories & (categories - 1)) == 0;
	struct pm_scan_arg scan = {
		.size = sizeof(scan),
		.flags = flags,
		.start = range.start.v,
		.end = range.start.v + range.length_bytes,
		.vec = (uintptr_t)vector,
		.vec_len = n_vector,
		.category_mask = is_single ? categories : 0,
		.category_anyof_mask = is_single ? 0 : categories,
		.return_mask = categories,
	};
	int n;

	/* The kernel would take it for "no vector", and protect all without a report. */
	if (vector && n_vector == 0)
		return -EINVAL;

	n = ioctl(fd, PAGEMAP_SCAN, &scan);
	if (n < 0) {
		int error = errno;

		/* it wrote out what came before: nobody else knows of these any more */
		*ret_n = vector && flags & PM_SCAN_WP_MATCHING ? count_reported(vector, n_vector)
							       : 0;
		return error == EPERM && flags & PM_SCAN_CHECK_WPASYNC ? PAGEMAP_UNARMED : -error;
	}
	*ret_n = (uint64_t)n;
	*ret_walk_end = (struct hva){ scan.walk_end };
	return 0;
}

bool pagemap_is_used(uint64_t word)
{
	uint64_t entry = word & PAGEMAP_SWAP_ENTRY;

	if (word & PAGEMAP_PRESENT)
		return true;
	if (!(word & PAGEMAP_SWAPPED))
		return false;
	if (!(word & PAGEMAP_UFFD_WP))
		return true;
	return entry && entry != PAGEMAP_WP_MARKER && entry != PAGEMAP_WP_MARKER_6_2;
}

/* Read a range word by word; what the kernel has in no page table costs it little. */
static int first_used_by_words(int fd, struct hva_range range, bool *ret_is_used,
			       struct hva *ret_first)
{
	uint64_t page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
	uint64_t n_pages = range.length_bytes / page_bytes;
	uint64_t words[512];
	int r;

	for (uint64_t at = 0; at < n_pages; at += 512) {
		uint64_t n = min_u64(n_pages - at, 512);

		r = pagemap_read(fd, hva_add(range.start, at * page_bytes), words, n);
		if (r < 0)
			return r;
		for (uint64_t i = 0; i < n; i++) {
			if (!pagemap_is_used(words[i]))
				continue;
			*ret_first = hva_add(range.start, (at + i) * page_bytes);
			*ret_is_used = true;
			return 0;
		}
	}
	*ret_is_used = false;
	return 0;
}

int pagemap_first_used(int fd, struct hva_range range, bool *ret_is_used, struct hva *ret_first)
{
	struct hva at = range.start, end = hva_add(range.start, range.length_bytes);
	struct page_region regions[64];
	uint64_t n = 0;
	int r;

	if (!features_get()->has_pagemap_scan)
		return first_used_by_words(fd, range, ret_is_used, ret_first);

	while (at.v < end.v) {
		struct hva_range rest = { at, end.v - at.v };

		r = pagemap_scan(fd, rest, PAGE_IS_PRESENT | PAGE_IS_SWAPPED, 0, regions, 64, &n,
				 &at);
		if (r)
			return r;
		/* Markers count as swapped there: the words tell. */
		for (uint64_t i = 0; i < n; i++) {
			struct hva_range found = { { regions[i].start },
						   regions[i].end - regions[i].start };
			bool is_one = false;

			r = first_used_by_words(fd, found, &is_one, ret_first);
			if (r < 0)
				return r;
			if (!is_one)
				continue;
			*ret_is_used = true;
			return 0;
		}
	}
	*ret_is_used = false;
	return 0;
}
