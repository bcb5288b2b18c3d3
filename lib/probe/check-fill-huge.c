/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Filling huge pages.
 *
 * How the kernel tells that none is free is asked with the pool as it is found: empty, or with so few
 * pages free that taking them for a moment does no harm.
 */
#include <stdio.h>
#include <unistd.h>

#include "probe/lab.h"
#include "probe/table.h"

#define MISSING		UFFDIO_REGISTER_MODE_MISSING
#define BYTE		0x5a
#define POOL		"/sys/kernel/mm/hugepages/hugepages-2048kB/"
#define MAX_TAKEN_PAGES 8

static void try_huge_part(struct probe_run *run)
{
	struct lab_memory memory = lab_map_unused(run, LAB_HUGETLB, 1);
	struct lab_memory bytes = lab_map(run, LAB_ANON, 1);
	int uffd = lab_uffd(run, 0);

	lab_fill(&bytes, 0, BYTE);
	lab_register(run, uffd, &memory, MISSING);
	probe_answer(run, "%s",
		     probe_errno(lab_copy(uffd, memory.at, bytes.at, bytes.page_bytes, 0, NULL)));
}

/* A number of the pool of 2 MiB pages; -1 if there is no such pool. */
static long pool_value(const char *name)
{
	char path[128];
	long value = -1;
	FILE *file;

	snprintf(path, sizeof(path), POOL "%s", name);
	file = fopen(path, "re");
	if (!file)
		return -1;
	if (fscanf(file, "%ld", &value) != 1)
		value = -1;
	fclose(file);
	return value;
}

/* Takes the few pages that are free, until this process ends. */
static void empty_pool(struct probe_run *run)
{
	long n_free = pool_value("free_hugepages") - pool_value("resv_hugepages");
	struct lab_memory all;

	if (pool_value("nr_hugepages") < 0)
		probe_skip(run, "the host has no pool of 2 MiB pages");
	if (pool_value("nr_overcommit_hugepages") > 0)
		probe_skip(run, "the pool of huge pages grows by itself (nr_overcommit_hugepages)");
	if (n_free > MAX_TAKEN_PAGES)
		probe_skip(run, "%ld huge pages are free: too many to take them all", n_free);
	if (n_free <= 0)
		return;
	all = lab_map(run, LAB_HUGETLB, (size_t)n_free);
	for (long i = 0; i < n_free; i++)
		lab_fill(&all, (size_t)i, 0);
}

static void try_empty_pool(struct probe_run *run)
{
	struct lab_memory memory = lab_map_unused(run, LAB_HUGETLB, 1);
	struct lab_memory bytes = lab_map(run, LAB_ANON_THP,
					  memory.length_bytes / (size_t)getpagesize());
	int uffd = lab_uffd(run, 0), r;
	int64_t field = 0;

	lab_fill(&bytes, 0, BYTE);
	lab_register(run, uffd, &memory, MISSING);
	empty_pool(run);
	r = lab_copy(uffd, memory.at, bytes.at, memory.length_bytes, 0, &field);
	probe_detail(run, "UFFDIO_COPY from the empty pool: %s, field %lld", probe_errno(r),
		     (long long)field);
	if (r == 0)
		probe_skip(run, "somebody gave a huge page back meanwhile");
	probe_answer(run, "%s", probe_errno(r));
}

static const struct probe_check checks[] = {
	{
		.id = "fill.huge-part",
		.group = PROBE_FILL,
		.title = "A part of a huge page cannot be filled",
		.wanted = "EINVAL",
		.consequence = "nothing: ufd fills whole pages of a mapping",
		.run = try_huge_part,
	},
	{
		.id = "fill.huge-empty",
		.group = PROBE_FILL,
		.title = "UFFDIO_COPY says ENOMEM when no huge page is free",
		.wanted = "ENOMEM",
		.known = { { PROBE_KERNEL(6, 1), "ENOMEM" }, { PROBE_KERNEL(6, 18), "EEXIST" } },
		.consequence = "ufd proves that a page exists before it believes EEXIST",
		.remedy = "reserve huge pages for all of a guest's memory",
		.run = try_empty_pool,
	},
};

const struct probe_family probe_family_fill_huge = PROBE_FAMILY(checks);
