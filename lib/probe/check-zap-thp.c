/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The write-protect bit of transparent huge pages, and when it splits them. */
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "kernel/pagemap.h"
#include "probe/lab.h"
#include "probe/table.h"
#include "probe/zap.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

#define HUGE_PAGES 512

/* One huge page of 2 MiB, registered, and protected if @is_protected. */
static struct zap huge_prepare(struct probe_run *run, enum lab_backing backing, bool is_protected)
{
	uint64_t features = UFFD_FEATURE_PAGEFAULT_FLAG_WP;
	struct zap zap = { .memory = lab_map(run, backing, HUGE_PAGES) };
	struct lab_memory *memory = &zap.memory;
	int r = 0;

	if (backing == LAB_SHMEM_THP)
		features |= UFFD_FEATURE_WP_HUGETLBFS_SHMEM;
	zap.uffd = lab_uffd(run, features);
	for (size_t i = 0; i < HUGE_PAGES; i++)
		lab_fill(memory, i, 0xa1);
	if (!lab_is_huge(run, memory->at) &&
	    madvise(memory->at, memory->length_bytes, MADV_COLLAPSE) < 0)
		probe_skip(run, "no transparent huge page is to be had: %s", strerror(errno));
	if (!lab_is_huge(run, memory->at))
		probe_skip(run, "the kernel maps no transparent huge page here");
	lab_register(run, zap.uffd, memory, UFFDIO_REGISTER_MODE_WP);
	if (is_protected)
		r = lab_protect(zap.uffd, memory->at, memory->length_bytes,
				UFFDIO_WRITEPROTECT_MODE_WP);
	errno = -r;
	probe_must(run, r == 0, "protecting the huge page");
	return zap;
}

static unsigned int count_protected(struct probe_run *run, const struct lab_memory *memory)
{
	_cleanup_(closep) int fd = -EBADF;
	uint64_t words[HUGE_PAGES];
	unsigned int n = 0;
	int r = pagemap_open(&fd, getpid());

	if (r == 0)
		r = pagemap_read(fd, (struct hva){ (uintptr_t)memory->at }, words, HUGE_PAGES);
	errno = -r;
	probe_must(run, r == 0, "read() of our pagemap");
	for (size_t i = 0; i < HUGE_PAGES; i++)
		n += !!(words[i] & PAGEMAP_UFFD_WP);
	return n;
}

static void answer_protected(struct probe_run *run, const struct zap *zap)
{
	bool is_huge = lab_is_huge(run, zap->memory.at);

	probe_answer(run, "%u of %u, %s", count_protected(run, &zap->memory), HUGE_PAGES,
		     is_huge ? "huge" : "small pages");
}

static void try_whole(struct probe_run *run)
{
	struct zap zap = huge_prepare(run, LAB_ANON_THP, true);

	answer_protected(run, &zap);
}

static void try_whole_shmem(struct probe_run *run)
{
	struct zap zap = huge_prepare(run, LAB_SHMEM_THP, true);

	answer_protected(run, &zap);
}

static void try_part(struct probe_run *run)
{
	struct zap zap = huge_prepare(run, LAB_ANON_THP, false);
	int r = lab_protect(zap.uffd, lab_page(&zap.memory, 7), zap.memory.page_bytes,
			    UFFDIO_WRITEPROTECT_MODE_WP);

	probe_step(run, "protecting page 7: %s", probe_errno(r));
	answer_protected(run, &zap);
}

/* A store to page 7, which is let through for that page alone. */
static void try_store(struct probe_run *run)
{
	struct zap zap = huge_prepare(run, LAB_ANON_THP, true);
	uint8_t *page = lab_page(&zap.memory, 7);
	struct lab_thread *writer = lab_start_write(run, page + 5, 0x5e);
	struct uffd_msg message = lab_fault(run, zap.uffd);
	int r = lab_protect(zap.uffd, page, zap.memory.page_bytes, 0);

	probe_must(run, r == 0, "taking the protection off page 7");
	lab_join(run, writer);
	probe_detail(run, "the message named byte %lld of page 7",
		     (long long)(message.arg.pagefault.address - (uintptr_t)page));
	answer_protected(run, &zap);
}

static void try_dontneed(struct probe_run *run)
{
	struct zap zap = huge_prepare(run, LAB_ANON_THP, true);
	int r = madvise(lab_page(&zap.memory, 7), zap.memory.page_bytes, MADV_DONTNEED);

	probe_must(run, r == 0, "MADV_DONTNEED of page 7");
	answer_protected(run, &zap);
}

/* Small pages that are protected do not become a huge one that is not. */
static void try_collapse(struct probe_run *run)
{
	struct zap zap = huge_prepare(run, LAB_ANON_THP, false);
	int r = lab_protect(zap.uffd, lab_page(&zap.memory, 7), zap.memory.page_bytes,
			    UFFDIO_WRITEPROTECT_MODE_WP);

	probe_must(run, r == 0, "protecting page 7");
	r = madvise(zap.memory.at, zap.memory.length_bytes, MADV_COLLAPSE) < 0 ? errno : 0;
	probe_detail(run, "MADV_COLLAPSE says %s", probe_errno(r));
	probe_answer(run, "%s", lab_is_protected(run, lab_page(&zap.memory, 7)) ? "kept" : "lost");
}

static const struct probe_check checks[] = {
	{
		.id = "zap.thp",
		.group = PROBE_ZAP,
		.title = "Protecting a whole anonymous huge page leaves it one",
		.wanted = "512 of 512, huge",
		.consequence = "anonymous guests run on small pages as soon as they are tracked",
		.run = try_whole,
	},
	{
		.id = "zap.thp-shmem",
		.group = PROBE_ZAP,
		.title = "WRITEPROTECT maps a huge page of shmem by small ones, all protected",
		.wanted = "512 of 512, small pages",
		.consequence =
			"one byte written counts as 2 MiB in guests with huge pages of shmem",
		.run = try_whole_shmem,
	},
	{
		.id = "zap.thp-part",
		.group = PROBE_ZAP,
		.title = "Protecting a part of a huge page splits it and protects that part",
		.wanted = "1 of 512, small pages",
		.consequence = "one byte written counts as 2 MiB",
		.run = try_part,
	},
	{
		.id = "zap.thp-store",
		.group = PROBE_ZAP,
		.title = "A store splits a protected huge page, the rest stays protected",
		.wanted = "511 of 512, small pages",
		.consequence = "with track=wp ufd misses writes to the rest of the huge page",
		.run = try_store,
	},
	{
		.id = "zap.thp-dontneed",
		.group = PROBE_ZAP,
		.title = "MADV_DONTNEED of a part of a huge page leaves the rest protected",
		.wanted = "511 of 512, small pages",
		.consequence = "with track=wp ufd misses writes to the rest of the huge page",
		.run = try_dontneed,
	},
	{
		.id = "zap.collapse",
		.group = PROBE_ZAP,
		.title = "MADV_COLLAPSE keeps the protection of small pages",
		.wanted = "kept",
		.consequence = "khugepaged lets writes go by: turn THP off for tracked guests",
		.run = try_collapse,
	},
};

const struct probe_family probe_family_zap_thp = PROBE_FAMILY(checks);
