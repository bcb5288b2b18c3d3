/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Memory whose writes the kernel notes by itself, and PAGEMAP_SCAN of it.
 *
 * Context of all: the experiment's process, or a child of it.
 */
#pragma once

#include "probe/lab.h"

#define DIRTY ((uint64_t)PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC)

/* Readable. */
struct tracked {
	struct lab_memory memory;
	int uffd; /* of asynchronous protection, over all of @memory */
};

/* From now on @memory is tracked by a uffd; nothing is protected. Skips without UFFD_FEATURE_WP_ASYNC. */
void tracked_register(struct probe_run *run, struct tracked *tracked);

/* The same of new memory, of which nothing is populated. */
struct tracked tracked_map(struct probe_run *run, enum lab_backing backing, size_t n_pages);

/* The same, each page written (0xa1), then all protected by a scan without a vector. */
struct tracked tracked_prepare(struct probe_run *run, enum lab_backing backing, size_t n_pages);

/* Protect all of it by a scan without a vector. */
void tracked_protect(struct probe_run *run, const struct tracked *tracked);

/* One byte into page @i. */
void tracked_store(const struct tracked *tracked, size_t i);

/* A scan for written pages of all of @tracked, into @regions; NULL: none. */
struct pm_scan_arg tracked_scan(const struct tracked *tracked, uint64_t flags,
				struct page_region *regions, size_t n_regions);

/* Pages of @tracked that count as written, in its own page size; nothing is changed. */
int64_t tracked_count(struct probe_run *run, const struct tracked *tracked);

/* Where @address lies in @tracked, in base pages. */
size_t tracked_page(const struct tracked *tracked, uint64_t address);
