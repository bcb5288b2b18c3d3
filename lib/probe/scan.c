/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Memory whose writes the kernel notes by itself. */
#include "probe/scan.h"

#include <unistd.h>

void tracked_register(struct probe_run *run, struct tracked *tracked)
{
	enum lab_backing backing = tracked->memory.backing;
	uint64_t features = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_ASYNC;

	if (backing != LAB_ANON && backing != LAB_ANON_THP)
		features |= UFFD_FEATURE_WP_HUGETLBFS_SHMEM;
	tracked->uffd = lab_uffd(run, features);
	lab_register(run, tracked->uffd, &tracked->memory, UFFDIO_REGISTER_MODE_WP);
}

struct tracked tracked_map(struct probe_run *run, enum lab_backing backing, size_t n_pages)
{
	struct tracked tracked = { .memory = lab_map(run, backing, n_pages) };

	tracked_register(run, &tracked);
	return tracked;
}

void tracked_protect(struct probe_run *run, const struct tracked *tracked)
{
	struct pm_scan_arg scan = tracked_scan(tracked, DIRTY, NULL, 0);
	int64_t r = lab_scan_raw(run, &scan);

	errno = r < 0 ? (int)-r : 0;
	probe_must(run, r == 0 && scan.walk_end == scan.end, "protecting by a scan");
}

struct tracked tracked_prepare(struct probe_run *run, enum lab_backing backing, size_t n_pages)
{
	struct tracked tracked = tracked_map(run, backing, n_pages);

	for (size_t i = 0; i < n_pages; i++)
		lab_fill(&tracked.memory, i, 0xa1);
	tracked_protect(run, &tracked);
	return tracked;
}

void tracked_store(const struct tracked *tracked, size_t i)
{
	*(volatile uint8_t *)lab_page(&tracked->memory, i) = 0x5e;
}

struct pm_scan_arg tracked_scan(const struct tracked *tracked, uint64_t flags,
				struct page_region *regions, size_t n_regions)
{
	return (struct pm_scan_arg){
		.size = sizeof(struct pm_scan_arg),
		.flags = flags,
		.start = (uintptr_t)tracked->memory.at,
		.end = (uintptr_t)tracked->memory.at + tracked->memory.length_bytes,
		.vec = (uintptr_t)regions,
		.vec_len = n_regions,
		.category_mask = PAGE_IS_WRITTEN,
		.return_mask = PAGE_IS_WRITTEN,
	};
}

int64_t tracked_count(struct probe_run *run, const struct tracked *tracked)
{
	const struct lab_memory *memory = &tracked->memory;
	int64_t n = lab_scan(run, memory->at, memory->length_bytes, 0);

	errno = n < 0 ? (int)-n : 0;
	probe_must(run, n >= 0, "a scan that changes nothing");
	return n / (int64_t)(memory->page_bytes / (size_t)sysconf(_SC_PAGESIZE));
}

size_t tracked_page(const struct tracked *tracked, uint64_t address)
{
	return (address - (uintptr_t)tracked->memory.at) / (size_t)sysconf(_SC_PAGESIZE);
}
