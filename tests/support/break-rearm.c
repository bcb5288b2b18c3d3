/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Linked into a test of its own: trackers that never protect again what was written.
 *
 * The scan takes what was written and leaves it so; of the calls that protect only the first of each page
 * is made, which arms it.
 */
#include <stdlib.h>

#include "kernel/pagemap.h"
#include "kernel/uffd.h"

int __real_pagemap_scan(int fd, struct hva_range range, uint64_t categories, uint64_t flags,
			struct page_region *vector, uint64_t n_vector, uint64_t *ret_n,
			struct hva *ret_walk_end);
int __wrap_pagemap_scan(int fd, struct hva_range range, uint64_t categories, uint64_t flags,
			struct page_region *vector, uint64_t n_vector, uint64_t *ret_n,
			struct hva *ret_walk_end);
int __wrap_pagemap_scan(int fd, struct hva_range range, uint64_t categories, uint64_t flags,
			struct page_region *vector, uint64_t n_vector, uint64_t *ret_n,
			struct hva *ret_walk_end)
{
	if (vector)
		flags &= ~(uint64_t)PM_SCAN_WP_MATCHING;
	return __real_pagemap_scan(fd, range, categories, flags, vector, n_vector, ret_n,
				   ret_walk_end);
}

int __real_uffd_write_protect(int fd, struct hva_range range, bool protect);
int __wrap_uffd_write_protect(int fd, struct hva_range range, bool protect);
int __wrap_uffd_write_protect(int fd, struct hva_range range, bool protect)
{
	if (protect)
		return 0;
	return __real_uffd_write_protect(fd, range, protect);
}
