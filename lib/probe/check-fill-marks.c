/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Fills over marks: page table entries without a page that say "protected", "poisoned" or "guard".
 * EEXIST is the answer over some, others are overwritten, and with them goes what they said.
 */
#include <sys/mman.h>

#include "probe/lab.h"
#include "probe/table.h"

#define MISSING UFFDIO_REGISTER_MODE_MISSING
#define WP	UFFDIO_REGISTER_MODE_WP
#define PROTECT UFFDIO_WRITEPROTECT_MODE_WP
#define BYTE	0x5a

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102 /* 6.13; for files 6.15 */
#endif

/* One absent page, registered in both modes and protected. */
static int protect_absent(struct probe_run *run, enum lab_backing backing,
			  struct lab_memory *ret_memory)
{
	int uffd = lab_uffd(run, backing == LAB_ANON ? UFFD_FEATURE_WP_UNPOPULATED : 0), r;

	*ret_memory = lab_map(run, backing, 1);
	lab_register(run, uffd, ret_memory, MISSING | WP);
	r = lab_protect(uffd, ret_memory->at, ret_memory->length_bytes, PROTECT);
	errno = -r;
	probe_must(run, r == 0, "UFFDIO_WRITEPROTECT");
	errno = ENOENT;
	probe_must(run, lab_is_protected(run, ret_memory->at), "the mark of an absent page");
	return uffd;
}

/* The answer: what the fill said, and whether the page is protected now. */
static void say_protection(struct probe_run *run, int r, const void *at)
{
	if (r < 0)
		probe_answer(run, "%s", probe_errno(r));
	else
		probe_answer(run, "ok, %s",
			     lab_is_protected(run, at) ? "protected" : "unprotected");
}

static void try_copy_over_wp(struct probe_run *run, enum lab_backing backing, uint64_t mode)
{
	struct lab_memory memory;
	int uffd = protect_absent(run, backing, &memory);

	say_protection(run, lab_copy_byte(uffd, &memory, 0, BYTE, mode), memory.at);
}

static void try_copy_anon(struct probe_run *run)
{
	try_copy_over_wp(run, LAB_ANON, 0);
}

static void try_copy_shmem(struct probe_run *run)
{
	try_copy_over_wp(run, LAB_SHMEM, 0);
}

static void try_copy_hugetlb(struct probe_run *run)
{
	try_copy_over_wp(run, LAB_HUGETLB, 0);
}

/* The way that keeps the mark: the page comes protected, and its first write is told. */
static void try_copy_wp(struct probe_run *run, enum lab_backing backing)
{
	struct lab_memory memory = lab_map(run, backing, 1);
	int uffd = lab_uffd(run, 0), r;
	struct lab_thread *writer;
	struct uffd_msg message;
	bool is_told;

	lab_register(run, uffd, &memory, MISSING | WP);
	r = lab_copy_byte(uffd, &memory, 0, BYTE, UFFDIO_COPY_MODE_WP);
	if (r < 0) {
		probe_answer(run, "%s", probe_errno(r));
		return;
	}
	writer = lab_start_write(run, memory.at, 1);
	is_told = lab_raised(run, uffd, writer, &message);
	probe_detail(run, "a write to the filled page raised %s",
		     is_told ? "a message" : "no message");
	probe_answer(run, "%s",
		     is_told && message.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP
			     ? "protected"
			     : "unprotected");
}

static void try_copy_wp_anon(struct probe_run *run)
{
	try_copy_wp(run, LAB_ANON);
}

static void try_copy_wp_shmem(struct probe_run *run)
{
	try_copy_wp(run, LAB_SHMEM);
}

static void try_copy_wp_unregistered(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_ANON, 1);
	int uffd = lab_uffd(run, 0);

	lab_register(run, uffd, &memory, MISSING);
	probe_answer(run, "%s",
		     probe_errno(lab_copy_byte(uffd, &memory, 0, BYTE, UFFDIO_COPY_MODE_WP)));
}

static void try_zeropage_over_wp(struct probe_run *run, enum lab_backing backing)
{
	struct lab_memory memory;
	int uffd = protect_absent(run, backing, &memory);

	say_protection(run, lab_zeropage(uffd, memory.at, memory.length_bytes, 0, NULL), memory.at);
}

static void try_zeropage_anon(struct probe_run *run)
{
	try_zeropage_over_wp(run, LAB_ANON);
}

static void try_zeropage_shmem(struct probe_run *run)
{
	try_zeropage_over_wp(run, LAB_SHMEM);
}

static void try_poison_over_wp(struct probe_run *run)
{
	struct lab_memory memory;
	int uffd;

	(void)lab_uffd(run, UFFD_FEATURE_POISON);
	uffd = protect_absent(run, LAB_SHMEM, &memory);
	probe_answer(run, "%s",
		     probe_errno(lab_poison(uffd, memory.at, memory.length_bytes, 0, NULL)));
}

/* A page that its process has closed to itself by a mark of its own. */
static void try_copy_over_guard(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_ANON, 1);
	int uffd = lab_uffd(run, 0), r, number;

	if (madvise(memory.at, memory.length_bytes, MADV_GUARD_INSTALL) < 0)
		probe_skip(run, "the kernel lacks MADV_GUARD_INSTALL: %s", strerror(errno));
	lab_register(run, uffd, &memory, MISSING);
	r = lab_copy_byte(uffd, &memory, 0, BYTE, 0);
	number = lab_signal_of_read(memory.at, NULL);
	probe_detail(run, "UFFDIO_COPY says %s; a read then %s", probe_errno(r),
		     number ? "is refused" : "succeeds");
	probe_answer(run, "%s", number ? "kept" : "overwritten");
}

#define KEEPS_BY_COPY "while a guest is tracked ufd fills with MODE_WP, and zeros by COPY"

static const struct probe_check checks[] = {
	{
		.id = "fill.copy-wp-anon",
		.group = PROBE_FILL,
		.title = "UFFDIO_COPY with MODE_WP fills an anonymous page protected",
		.wanted = "protected",
		.is_needed = true,
		.consequence = "anonymous memory cannot be filled while it is tracked",
		.remedy = "run a kernel with CONFIG_USERFAULTFD, 6.1 or newer",
		.run = try_copy_wp_anon,
	},
	{
		.id = "fill.copy-wp-shmem",
		.group = PROBE_FILL,
		.title = "UFFDIO_COPY with MODE_WP fills a page of a memfd protected",
		.wanted = "protected",
		.is_needed = true,
		.consequence = "a memfd cannot be filled while it is tracked",
		.remedy = "run a kernel with CONFIG_USERFAULTFD, 6.1 or newer",
		.run = try_copy_wp_shmem,
	},
	{
		.id = "fill.copy-wp-unregistered",
		.group = PROBE_FILL,
		.title = "UFFDIO_COPY with MODE_WP is refused without write-protect mode",
		.wanted = "EINVAL",
		.consequence = "nothing: ufd asks for it only while write-protect mode is on",
		.run = try_copy_wp_unregistered,
	},
	{
		.id = "fill.copy-over-wp-anon",
		.group = PROBE_FILL,
		.title = "UFFDIO_COPY keeps the protection of an absent anonymous page",
		.wanted = "ok, protected",
		.known = { { PROBE_KERNEL(5, 19), "ok, unprotected" } },
		.consequence = KEEPS_BY_COPY,
		.run = try_copy_anon,
	},
	{
		.id = "fill.copy-over-wp",
		.group = PROBE_FILL,
		.title = "UFFDIO_COPY keeps the protection of an absent page of a memfd",
		.wanted = "ok, protected",
		.known = { { PROBE_KERNEL(5, 19), "ok, unprotected" } },
		.consequence = KEEPS_BY_COPY,
		.run = try_copy_shmem,
	},
	{
		.id = "fill.copy-over-wp-hugetlb",
		.group = PROBE_FILL,
		.title = "UFFDIO_COPY keeps the protection of an absent huge page",
		.wanted = "ok, protected",
		.known = { { PROBE_KERNEL(5, 19), "ok, unprotected" } },
		.consequence = KEEPS_BY_COPY,
		.run = try_copy_hugetlb,
	},
	{
		.id = "fill.zeropage-over-wp-anon",
		.group = PROBE_FILL,
		.title = "UFFDIO_ZEROPAGE fills a protected absent anonymous page",
		.wanted = "ok, protected",
		.known = { { PROBE_KERNEL(6, 4), "EEXIST" } },
		.consequence = KEEPS_BY_COPY,
		.run = try_zeropage_anon,
	},
	{
		.id = "fill.zeropage-over-wp",
		.group = PROBE_FILL,
		.title = "UFFDIO_ZEROPAGE keeps the protection of an absent page of a memfd",
		.wanted = "ok, protected",
		.known = { { PROBE_KERNEL(5, 19), "ok, unprotected" } },
		.consequence = KEEPS_BY_COPY,
		.run = try_zeropage_shmem,
	},
	{
		.id = "fill.poison-over-wp",
		.group = PROBE_FILL,
		.title = "UFFDIO_POISON poisons a protected absent page",
		.wanted = "ok",
		.known = { { PROBE_KERNEL(6, 6), "EEXIST" } },
		.consequence = "ufd takes the protection off first, and counts the page as dirty",
		.run = try_poison_over_wp,
	},
	{
		.id = "fill.copy-over-guard",
		.group = PROBE_FILL,
		.title = "UFFDIO_COPY leaves a guard page (MADV_GUARD_INSTALL) alone",
		.wanted = "kept",
		.known = { { PROBE_KERNEL(6, 13), "overwritten" } },
		.consequence =
			"a guard page inside a guest's memory is filled like any absent page",
		.run = try_copy_over_guard,
	},
};

const struct probe_family probe_family_fill_marks = PROBE_FAMILY(checks);
