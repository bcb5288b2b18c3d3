/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The write-protect bit when page table entries or pages go: discards, holes, truncation, swap.
 *
 * What is wanted follows the bytes. Where they stay the bit should stay; where they change by the
 * discard itself the bit should go, so that the change is seen as a write. check-zap-life.c has
 * what happens to whole mappings.
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "probe/lab.h"
#include "probe/table.h"
#include "probe/zap.h"

static const char *after_read(struct probe_run *run, enum lab_backing backing)
{
	struct zap zap = zap_prepare(run, backing, 1, 0);

	(void)*(volatile uint8_t *)zap.memory.at;
	return zap_state(run, &zap, 0);
}

ZAP_SMALL(after_read)
ZAP_HUGE(after_read)

static const char *after_mprotect(struct probe_run *run, enum lab_backing backing)
{
	struct zap zap = zap_prepare(run, backing, 1, 0);
	int r;

	r = mprotect(zap.memory.at, zap.memory.length_bytes, PROT_READ);
	probe_must(run, r == 0, "mprotect() to reading");
	r = mprotect(zap.memory.at, zap.memory.length_bytes, PROT_READ | PROT_WRITE);
	probe_must(run, r == 0, "mprotect() to writing");
	return zap_state(run, &zap, 0);
}

ZAP_SMALL(after_mprotect)
ZAP_HUGE(after_mprotect)

/* Pages whose bytes stay: a shared file's. Pages whose bytes go: all others. */
static const char *after_dontneed(struct probe_run *run, enum lab_backing backing)
{
	struct zap zap = zap_prepare(run, backing, 1, 0);

	if (madvise(zap.memory.at, zap.memory.length_bytes, MADV_DONTNEED) < 0)
		return probe_errno(errno);
	return zap_state(run, &zap, 0);
}

ZAP_ON(after_dontneed, anon, LAB_ANON)
ZAP_ON(after_dontneed, shmem, LAB_SHMEM)
ZAP_ON(after_dontneed, private, LAB_SHMEM_PRIVATE)
ZAP_ON(after_dontneed, hugetlb, LAB_HUGETLB)
ZAP_ON(after_dontneed, hugetlb_private, LAB_HUGETLB_PRIVATE)

static const char *after_free(struct probe_run *run, enum lab_backing backing)
{
	struct zap zap = zap_prepare(run, backing, 1, 0);

	if (madvise(zap.memory.at, zap.memory.length_bytes, MADV_FREE) < 0)
		return probe_errno(errno);
	return zap_state(run, &zap, 0);
}

ZAP_ON(after_free, anon, LAB_ANON)

/* What MADV_FREE left is dropped at once by MADV_PAGEOUT, swap or not. */
static const char *after_reclaim(struct probe_run *run, enum lab_backing backing)
{
	struct zap zap = zap_prepare(run, backing, 1, 0);

	if (madvise(zap.memory.at, zap.memory.length_bytes, MADV_FREE) < 0)
		return probe_errno(errno);
	for (int i = 0; i < 50 && lab_is_present(run, zap.memory.at); i++)
		if (madvise(zap.memory.at, zap.memory.length_bytes, MADV_PAGEOUT) < 0)
			probe_skip(run, "MADV_PAGEOUT is refused: %s", strerror(errno));
	if (lab_is_present(run, zap.memory.at))
		probe_skip(run, "the kernel did not reclaim the freed page");
	return zap_state(run, &zap, 0);
}

ZAP_ON(after_reclaim, anon, LAB_ANON)

static const char *after_punch(struct probe_run *run, enum lab_backing backing)
{
	struct zap zap = zap_prepare(run, backing, 1, 0);

	if (fallocate(zap.memory.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
		      (off_t)zap.memory.length_bytes) < 0)
		return probe_errno(errno);
	return zap_state(run, &zap, 0);
}

ZAP_ON(after_punch, shmem, LAB_SHMEM)
ZAP_ON(after_punch, private, LAB_SHMEM_PRIVATE)
ZAP_ON(after_punch, hugetlb, LAB_HUGETLB)
ZAP_ON(after_punch, hugetlb_private, LAB_HUGETLB_PRIVATE)

static const char *after_remove(struct probe_run *run, enum lab_backing backing)
{
	struct zap zap = zap_prepare(run, backing, 1, 0);

	if (madvise(zap.memory.at, zap.memory.length_bytes, MADV_REMOVE) < 0)
		return probe_errno(errno);
	return zap_state(run, &zap, 0);
}

ZAP_ON(after_remove, shmem, LAB_SHMEM)
ZAP_ON(after_remove, private, LAB_SHMEM_PRIVATE)
ZAP_ON(after_remove, hugetlb, LAB_HUGETLB)
ZAP_ON(after_remove, hugetlb_private, LAB_HUGETLB_PRIVATE)

static const char *after_truncate(struct probe_run *run, enum lab_backing backing)
{
	struct zap zap = zap_prepare(run, backing, 1, 0);

	probe_must(run, ftruncate(zap.memory.fd, 0) == 0, "ftruncate() to nothing");
	probe_must(run, ftruncate(zap.memory.fd, (off_t)zap.memory.length_bytes) == 0,
		   "ftruncate() to the old length");
	return zap_state(run, &zap, 0);
}

ZAP_ON(after_truncate, shmem, LAB_SHMEM)
ZAP_ON(after_truncate, private, LAB_SHMEM_PRIVATE)
ZAP_ON(after_truncate, hugetlb, LAB_HUGETLB)
ZAP_ON(after_truncate, hugetlb_private, LAB_HUGETLB_PRIVATE)

static const char *in_swap(struct probe_run *run, enum lab_backing backing)
{
	struct zap zap = zap_prepare(run, backing, 1, 0);

	lab_swap_out(run, zap.memory.at, zap.memory.length_bytes);
	return zap_state(run, &zap, 0);
}

ZAP_SMALL(in_swap)

static const char *back_from_swap(struct probe_run *run, enum lab_backing backing)
{
	struct zap zap = zap_prepare(run, backing, 1, 0);
	uint8_t byte;

	lab_swap_out(run, zap.memory.at, zap.memory.length_bytes);
	byte = *(volatile uint8_t *)zap.memory.at;
	if (byte != 0xa1)
		return "other bytes";
	return zap_state(run, &zap, 0);
}

ZAP_SMALL(back_from_swap)

#define KEPT_SINCE_6_18                             \
	{                                           \
		{                                   \
			PROBE_KERNEL(6, 18), "kept" \
		}                                   \
	}

#define LOOKS_CLEAN   "the zeros look clean: ufd looks for blocks that its file has lost"
#define IS_ANNOUNCED  "the change looks clean: ufd marks it when the kernel announces the discard"
#define ONLY_SEALED   "the change looks clean: ufd tracks private mappings of sealed files only"
#define MISSED_WRITES "with track=wp ufd misses writes that follow; track=scan tells too many"

static const struct probe_check checks[] = {
	{
		.id = "zap.read",
		.group = PROBE_ZAP,
		.title = "Reading a protected page keeps its protection",
		.wanted = "kept",
		.is_needed = true,
		.consequence = MISSED_WRITES,
		.run = try_after_read_small,
	},
	{
		.id = "zap.read-hugetlb",
		.group = PROBE_ZAP,
		.title = "Reading a protected huge page keeps its protection",
		.wanted = "kept",
		.consequence = MISSED_WRITES,
		.run = try_after_read_huge,
	},
	{
		.id = "zap.mprotect",
		.group = PROBE_ZAP,
		.title = "mprotect() to reading and back keeps the protection",
		.wanted = "kept",
		.consequence = MISSED_WRITES,
		.run = try_after_mprotect_small,
	},
	{
		.id = "zap.mprotect-hugetlb",
		.group = PROBE_ZAP,
		.title = "mprotect() of huge pages to reading and back keeps the protection",
		.wanted = "kept",
		.consequence = MISSED_WRITES,
		.run = try_after_mprotect_huge,
	},
	{
		.id = "zap.dontneed-anon",
		.group = PROBE_ZAP,
		.title = "MADV_DONTNEED drops the protection of anonymous pages with their bytes",
		.wanted = "lost",
		.consequence = IS_ANNOUNCED,
		.run = try_after_dontneed_anon,
	},
	{
		.id = "zap.dontneed-shmem",
		.group = PROBE_ZAP,
		.title = "MADV_DONTNEED of shared memory keeps bytes and protection",
		.wanted = "kept",
		.consequence = MISSED_WRITES,
		.run = try_after_dontneed_shmem,
	},
	{
		.id = "zap.dontneed-private",
		.group = PROBE_ZAP,
		.title = "MADV_DONTNEED drops the protection of copied pages with their bytes",
		.wanted = "lost",
		.known = KEPT_SINCE_6_18,
		.consequence = IS_ANNOUNCED,
		.run = try_after_dontneed_private,
	},
	{
		.id = "zap.dontneed-hugetlb",
		.group = PROBE_ZAP,
		.title = "MADV_DONTNEED of shared huge pages keeps bytes and protection",
		.wanted = "kept",
		.consequence = MISSED_WRITES,
		.run = try_after_dontneed_hugetlb,
	},
	{
		.id = "zap.dontneed-hugetlb-private",
		.group = PROBE_ZAP,
		.title = "MADV_DONTNEED drops the protection of private huge pages",
		.wanted = "lost",
		.known = KEPT_SINCE_6_18,
		.consequence = IS_ANNOUNCED,
		.run = try_after_dontneed_hugetlb_private,
	},
	{
		.id = "zap.free",
		.group = PROBE_ZAP,
		.title = "MADV_FREE keeps the protection while the page is there",
		.wanted = "kept",
		.consequence = MISSED_WRITES,
		.run = try_after_free_anon,
	},
	{
		.id = "zap.free-reclaimed",
		.group = PROBE_ZAP,
		.title = "A page that was freed and reclaimed has lost its protection",
		.wanted = "lost",
		.consequence = IS_ANNOUNCED,
		.run = try_after_reclaim_anon,
	},
	{
		.id = "zap.punch-shmem",
		.group = PROBE_ZAP,
		.title = "Punching a hole into shared memory drops the protection",
		.wanted = "lost",
		.known = KEPT_SINCE_6_18,
		.consequence = LOOKS_CLEAN,
		.run = try_after_punch_shmem,
	},
	{
		.id = "zap.punch-private",
		.group = PROBE_ZAP,
		.title = "Punching a hole under a copied page leaves page and protection alone",
		.wanted = "kept",
		.consequence = MISSED_WRITES,
		.run = try_after_punch_private,
	},
	{
		.id = "zap.punch-hugetlb",
		.group = PROBE_ZAP,
		.title = "Punching out a shared huge page drops the protection",
		.wanted = "lost",
		.known = KEPT_SINCE_6_18,
		.consequence = LOOKS_CLEAN,
		.run = try_after_punch_hugetlb,
	},
	{
		.id = "zap.punch-hugetlb-private",
		.group = PROBE_ZAP,
		.title = "Punching a hole under a private huge page drops the protection",
		.wanted = "lost",
		.known = KEPT_SINCE_6_18,
		.consequence = ONLY_SEALED,
		.run = try_after_punch_hugetlb_private,
	},
	{
		.id = "zap.remove-shmem",
		.group = PROBE_ZAP,
		.title = "MADV_REMOVE of shared memory drops the protection",
		.wanted = "lost",
		.known = KEPT_SINCE_6_18,
		.consequence = IS_ANNOUNCED,
		.run = try_after_remove_shmem,
	},
	{
		.id = "zap.remove-private",
		.group = PROBE_ZAP,
		.title = "MADV_REMOVE of a private mapping is refused with EACCES",
		.wanted = "EACCES",
		.consequence = IS_ANNOUNCED,
		.run = try_after_remove_private,
	},
	{
		.id = "zap.remove-hugetlb",
		.group = PROBE_ZAP,
		.title = "MADV_REMOVE of shared huge pages drops the protection",
		.wanted = "lost",
		.known = KEPT_SINCE_6_18,
		.consequence = IS_ANNOUNCED,
		.run = try_after_remove_hugetlb,
	},
	{
		.id = "zap.remove-hugetlb-private",
		.group = PROBE_ZAP,
		.title = "MADV_REMOVE of private huge pages is refused with EACCES",
		.wanted = "EACCES",
		.consequence = IS_ANNOUNCED,
		.run = try_after_remove_hugetlb_private,
	},
	{
		.id = "zap.truncate-shmem",
		.group = PROBE_ZAP,
		.title = "Cutting a shared file and growing it again drops the protection",
		.wanted = "lost",
		.known = KEPT_SINCE_6_18,
		.consequence = LOOKS_CLEAN,
		.run = try_after_truncate_shmem,
	},
	{
		.id = "zap.truncate-private",
		.group = PROBE_ZAP,
		.title = "Cutting a file drops the protection of its private copies with them",
		.wanted = "lost",
		.known = KEPT_SINCE_6_18,
		.consequence = ONLY_SEALED,
		.run = try_after_truncate_private,
	},
	{
		.id = "zap.truncate-hugetlb",
		.group = PROBE_ZAP,
		.title = "Cutting a shared file of huge pages drops the protection",
		.wanted = "lost",
		.consequence = LOOKS_CLEAN,
		.run = try_after_truncate_hugetlb,
	},
	{
		.id = "zap.truncate-hugetlb-private",
		.group = PROBE_ZAP,
		.title = "Cutting a file of huge pages drops the protection of private copies",
		.wanted = "lost",
		.consequence = ONLY_SEALED,
		.run = try_after_truncate_hugetlb_private,
	},
	{
		.id = "zap.swap",
		.group = PROBE_ZAP,
		.title = "A page in swap is still protected: a store to it raises a fault",
		.wanted = "kept",
		.consequence = "writes are missed when memory is short",
		.remedy = "turn swap off on hosts whose guests are tracked",
		.run = try_in_swap_small,
	},
	{
		.id = "zap.swap-read",
		.group = PROBE_ZAP,
		.title = "A page that came back from swap by a read is still protected",
		.wanted = "kept",
		.consequence = "writes are missed when memory is short",
		.remedy = "turn swap off on hosts whose guests are tracked",
		.run = try_back_from_swap_small,
	},
};

const struct probe_family probe_family_zap = PROBE_FAMILY(checks);
