/* SPDX-License-Identifier: MIT */
/*
 * /proc/PID/pagemap: what a process's page tables hold.
 *
 * Context of all: any; do not allocate, and take as long as the range has page tables.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <unistd.h>

#include "base/units.h"
#include "kernel/uapi.h"

/* Bits of a pagemap word. */
#define PAGEMAP_PRESENT (UINT64_C(1) << 63)
#define PAGEMAP_SWAPPED (UINT64_C(1) << 62)
#define PAGEMAP_UFFD_WP (UINT64_C(1) << 57)

/* Return: 0 with an owned fd, -EACCES without ptrace-read rights, -ESRCH, other -errno. */
int pagemap_open(int *ret_fd, pid_t pid);

/*
 * Into a place that several threads share, and that is negative until one of them needs it: who
 * comes second closes his own. Return: as above.
 */
static inline int pagemap_open_once(int *shared_fd, pid_t pid)
{
	int none = __atomic_load_n(shared_fd, __ATOMIC_ACQUIRE), own, r;

	if (none >= 0)
		return 0;
	r = pagemap_open(&own, pid);
	if (r < 0)
		return r;
	if (!__atomic_compare_exchange_n(shared_fd, &none, own, false, __ATOMIC_ACQ_REL,
					 __ATOMIC_ACQUIRE))
		close(own);
	return 0;
}

/* One pagemap word per base page. Return: 0, -ESRCH (ended, or past the address space), -errno. */
int pagemap_read(int fd, struct hva start, uint64_t *ret_words, uint64_t n_words);

/* Does the page have content? As pagemap_first_used() says it. */
bool pagemap_is_used(uint64_t word);

enum {
	_PAGEMAP_DONE,
	PAGEMAP_UNARMED, /* part of the range is not registered for asynchronous write-protection */
};

/**
 * pagemap_scan() - one PAGEMAP_SCAN call, walked until the range or the vector ends
 * @categories:   PAGE_IS_ bits; a page is reported if it has any of them
 * @flags:        PM_SCAN_ bits
 * @vector:       in the ledger for dirty scans; zeroed by the caller
 * @ret_n:        regions written; neighbours with equal categories are one region
 * @ret_walk_end: continue from here; equal to the range's end when complete
 *
 * Aligns nothing: a hugetlb range must consist of whole pages when re-arming (else the kernel makes
 * no progress and reports no error). A process that has ended looks clean: check its pidfd
 * afterwards. With PM_SCAN_WP_MATCHING, @vector NULL protects the whole range and reports nothing.
 * Return: 0; PAGEMAP_UNARMED; -ENOTTY before Linux 6.7, other -errno (-ENOMEM: it wanted a page table). When
 *         re-arming, @ret_n regions before the failure were reported and re-armed all the same, so they
 *         count as dirty (@ret_walk_end is untouched).
 */
int pagemap_scan(int fd, struct hva_range range, uint64_t categories, uint64_t flags,
		 struct page_region *vector, uint64_t n_vector, uint64_t *ret_n,
		 struct hva *ret_walk_end);

/**
 * pagemap_first_used() - the first page of a range that has content in this process
 * @ret_is_used: false if every page is empty; then @ret_first is untouched
 *
 * Present pages (the shared zero page too), swap entries and poison markers count, write-protect
 * markers do not. A swapped and protected page looks like a marker without CAP_SYS_ADMIN. Of a
 * shared file this sees what this process has mapped, not what the file holds.
 * Uses PAGEMAP_SCAN, or pagemap words before Linux 6.7. An ended process shows nothing.
 */
int pagemap_first_used(int fd, struct hva_range range, bool *ret_is_used, struct hva *ret_first);
