/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* COPY and ZEROPAGE: what they fill, what they answer, and whom they wake. */
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "probe/lab.h"
#include "probe/table.h"

#define MISSING UFFDIO_REGISTER_MODE_MISSING
#define BYTE	0x5a
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* 6.1 */
#endif

#define N_WAITERS 4

/* @memory registered in missing mode with a uffd of its own. */
static int register_missing(struct probe_run *run, const struct lab_memory *memory)
{
	int uffd = lab_uffd(run, 0);

	lab_register(run, uffd, memory, MISSING);
	return uffd;
}

/* A reader that waits at @at; its message was read. */
static struct lab_thread *start_waiter(struct probe_run *run, int uffd, const void *at)
{
	struct lab_thread *reader = lab_start_read(run, at);

	lab_fault(run, uffd);
	return reader;
}

/* ---- they fill ---- */

static void try_copy(struct probe_run *run, enum lab_backing backing)
{
	struct lab_memory memory = lab_map(run, backing, 1);
	int uffd = register_missing(run, &memory), r;
	struct lab_thread *reader = start_waiter(run, uffd, memory.at);
	uint8_t *bytes = malloc(memory.page_bytes);
	int64_t field = 0;

	probe_must(run, bytes, "malloc()");
	memset(bytes, BYTE, memory.page_bytes);
	r = lab_copy(uffd, memory.at, bytes, memory.page_bytes, 0, &field);
	probe_step(run, "UFFDIO_COPY: %s, field %lld", probe_errno(r), (long long)field);
	if (r < 0)
		probe_answer(run, "%s", probe_errno(r));
	else if (!lab_ended(reader, 1000))
		probe_answer(run, "not woken");
	else if (field != (int64_t)memory.page_bytes || lab_join(run, reader) != BYTE)
		probe_answer(run, "other bytes");
	else
		probe_answer(run, "filled");
}

static void try_copy_anon(struct probe_run *run)
{
	try_copy(run, LAB_ANON);
}

static void try_copy_shmem(struct probe_run *run)
{
	try_copy(run, LAB_SHMEM);
}

static void try_copy_hugetlb(struct probe_run *run)
{
	try_copy(run, LAB_HUGETLB);
}

static void try_copy_unaligned(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_ANON, 1);
	int uffd = register_missing(run, &memory), r;
	uint8_t *bytes = calloc(2, memory.page_bytes);

	probe_must(run, bytes, "calloc()");
	bytes[memory.page_bytes] = BYTE;
	r = lab_copy(uffd, memory.at, bytes + 1, memory.page_bytes, 0, NULL);
	if (r == 0 && memory.at[memory.page_bytes - 1] != BYTE)
		probe_answer(run, "other bytes");
	else
		probe_answer(run, "%s", probe_errno(r));
}

/* Into ranges that the guest itself may not write, or not even read. */
static void try_copy_inaccessible(struct probe_run *run)
{
	static const int rights[] = { PROT_READ, PROT_NONE };
	int r = 0;

	for (int i = 0; r == 0 && i < 2; i++) {
		struct lab_memory memory = lab_map(run, LAB_ANON, 1);
		int uffd = register_missing(run, &memory);

		probe_must(run, mprotect(memory.at, memory.length_bytes, rights[i]) == 0,
			   "mprotect()");
		r = lab_copy_byte(uffd, &memory, 0, BYTE, 0);
		probe_step(run, "rights %d: UFFDIO_COPY says %s", rights[i], probe_errno(r));
	}
	probe_answer(run, "%s", probe_errno(r));
}

/* A huge page's worth of bytes in one call. */
static void try_copy_thp(struct probe_run *run)
{
	size_t n = ((size_t)2 << 20) / (size_t)getpagesize();
	struct lab_memory plain = lab_map(run, LAB_ANON_THP, n);
	struct lab_memory memory = lab_map(run, LAB_ANON_THP, n);
	int uffd = register_missing(run, &memory), r;

	lab_fill(&plain, 0, BYTE);
	if (!lab_is_huge(run, plain.at))
		probe_skip(run, "the kernel gives no transparent huge page");
	r = lab_copy(uffd, memory.at, plain.at, memory.length_bytes, 0, NULL);
	errno = -r;
	probe_must(run, r == 0, "UFFDIO_COPY of 2 MiB");
	probe_answer(run, "%s", lab_is_huge(run, memory.at) ? "huge" : "small");
}

/* 2 MiB of small pages that were filled, but for @n_absent: does the kernel make them one? */
static void try_collapse(struct probe_run *run, size_t n_absent)
{
	size_t n = ((size_t)2 << 20) / (size_t)getpagesize();
	struct lab_memory memory = lab_map(run, LAB_ANON_THP, n);
	struct lab_memory bytes = lab_map(run, LAB_ANON, n - n_absent);
	int uffd = register_missing(run, &memory), r;

	memset(bytes.at, BYTE, bytes.length_bytes);
	r = lab_copy(uffd, memory.at, bytes.at, bytes.length_bytes, 0, NULL);
	errno = -r;
	probe_must(run, r == 0, "UFFDIO_COPY");
	r = madvise(memory.at, memory.length_bytes, MADV_COLLAPSE) < 0 ? -errno : 0;
	probe_detail(run, "MADV_COLLAPSE says %s", probe_errno(r));
	if (n_absent)
		probe_answer(run, "%s",
			     lab_is_present(run, lab_page(&memory, n - 1)) ? "zeros" : "absent");
	else
		probe_answer(run, "%s", probe_errno(r));
}

static void try_collapse_filled(struct probe_run *run)
{
	try_collapse(run, 0);
}

static void try_collapse_absent(struct probe_run *run)
{
	try_collapse(run, 1);
}

static void try_zeropage(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_ANON, 1);
	int uffd = register_missing(run, &memory), r;
	struct lab_thread *reader = start_waiter(run, uffd, memory.at);
	intptr_t byte;

	r = lab_zeropage(uffd, memory.at, memory.length_bytes, 0, NULL);
	probe_step(run, "UFFDIO_ZEROPAGE: %s", probe_errno(r));
	if (r < 0) {
		probe_answer(run, "%s", probe_errno(r));
		return;
	}
	byte = lab_join(run, reader);
	r = lab_copy_byte(uffd, &memory, 0, BYTE, 0);
	probe_detail(run, "the reader saw %#x; UFFDIO_COPY over the zero page says %s",
		     (unsigned int)byte, probe_errno(r));
	probe_answer(run, "%s", byte ? "other bytes" : r == -EEXIST ? "final" : "replaceable");
}

static void try_zeropage_shmem(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_SHMEM, 1);
	int uffd = register_missing(run, &memory), r;
	struct stat file;

	r = lab_zeropage(uffd, memory.at, memory.length_bytes, 0, NULL);
	probe_must(run, fstat(memory.fd, &file) == 0, "fstat()");
	probe_step(run, "UFFDIO_ZEROPAGE: %s; the file has %lld blocks", probe_errno(r),
		   (long long)file.st_blocks);
	if (r < 0)
		probe_answer(run, "%s", probe_errno(r));
	else
		probe_answer(run, "%s", file.st_blocks ? "a page of the file" : "the zero page");
}

static void try_zeropage_hugetlb(struct probe_run *run)
{
	struct lab_memory memory = lab_map_unused(run, LAB_HUGETLB, 1);
	int uffd = register_missing(run, &memory);

	probe_answer(run, "%s",
		     probe_errno(lab_zeropage(uffd, memory.at, memory.length_bytes, 0, NULL)));
}

/* ---- whom they wake ---- */

static void try_wakes_all(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_ANON, 1);
	int uffd = register_missing(run, &memory), n_woken = 0, r;
	struct lab_thread *readers[N_WAITERS];

	for (int i = 0; i < N_WAITERS; i++)
		readers[i] = start_waiter(run, uffd, memory.at);
	r = lab_copy_byte(uffd, &memory, 0, BYTE, 0);
	errno = -r;
	probe_must(run, r == 0, "UFFDIO_COPY");
	for (int i = 0; i < N_WAITERS; i++)
		n_woken += lab_ended(readers[i], 500);
	probe_detail(run, "%d of %d threads that waited for one page were woken", n_woken,
		     N_WAITERS);
	probe_answer(run, "%s", n_woken == N_WAITERS ? "all" : n_woken ? "some" : "none");
}

static void try_dontwake(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_ANON, 1);
	int uffd = register_missing(run, &memory), r;
	struct lab_thread *reader = start_waiter(run, uffd, memory.at);
	bool is_asleep;

	r = lab_copy_byte(uffd, &memory, 0, BYTE, UFFDIO_COPY_MODE_DONTWAKE);
	errno = -r;
	probe_must(run, r == 0, "UFFDIO_COPY");
	is_asleep = lab_is_asleep(run, uffd);
	lab_wake(uffd, memory.at, memory.length_bytes);
	lab_join(run, reader);
	probe_answer(run, "%s", is_asleep ? "asleep until UFFDIO_WAKE" : "woken");
}

/* The file got its page by other means while a thread waits for it. */
static void try_exists_wakes(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_SHMEM, 1);
	int uffd = register_missing(run, &memory), r;
	struct lab_thread *reader = start_waiter(run, uffd, memory.at);
	bool is_asleep;

	lab_fill_file(run, &memory, 0, BYTE);
	r = lab_copy_byte(uffd, &memory, 0, 1, 0);
	is_asleep = lab_is_asleep(run, uffd);
	lab_wake(uffd, memory.at, memory.length_bytes);
	probe_detail(run, "UFFDIO_COPY says %s; after UFFDIO_WAKE the reader saw %#x",
		     probe_errno(r), (unsigned int)lab_join(run, reader));
	if (r != -EEXIST)
		probe_answer(run, "%s", probe_errno(r));
	else
		probe_answer(run, "%s", is_asleep ? "asleep" : "woken");
}

#define GIVEN_UP "ufd cannot page such memory"
#define SLOWER	 "nothing: ufd does not rely on it"

static const struct probe_check checks[] = {
	{
		.id = "fill.copy-anon",
		.group = PROBE_FILL,
		.title = "UFFDIO_COPY fills an absent anonymous page and wakes who waits",
		.wanted = "filled",
		.is_needed = true,
		.is_for_start = true,
		.consequence = GIVEN_UP,
		.remedy = "run a kernel with CONFIG_USERFAULTFD, 6.1 or newer",
		.run = try_copy_anon,
	},
	{
		.id = "fill.copy-shmem",
		.group = PROBE_FILL,
		.title = "UFFDIO_COPY fills an absent page of a memfd and wakes who waits",
		.wanted = "filled",
		.is_needed = true,
		.consequence = GIVEN_UP,
		.remedy = "run a kernel with CONFIG_USERFAULTFD, 6.1 or newer",
		.run = try_copy_shmem,
	},
	{
		.id = "fill.copy-hugetlb",
		.group = PROBE_FILL,
		.title = "UFFDIO_COPY fills an absent huge page and wakes who waits",
		.wanted = "filled",
		.consequence = GIVEN_UP,
		.run = try_copy_hugetlb,
	},
	{
		.id = "fill.copy-unaligned",
		.group = PROBE_FILL,
		.title = "What UFFDIO_COPY copies from need not be aligned",
		.wanted = "ok",
		.consequence = SLOWER,
		.run = try_copy_unaligned,
	},
	{
		.id = "fill.copy-inaccessible",
		.group = PROBE_FILL,
		.title = "UFFDIO_COPY fills ranges that their process may not write or read",
		.wanted = "ok",
		.consequence = "ranges that a guest protects stay absent until it opens them again",
		.run = try_copy_inaccessible,
	},
	{
		.id = "fill.copy-thp",
		.group = PROBE_FILL,
		.title = "UFFDIO_COPY of 2 MiB into memory advised so makes a huge page",
		.wanted = "huge",
		.known = { { PROBE_KERNEL(4, 3), "small" } },
		.consequence =
			"memory that ufd filled consists of small pages until it is collapsed",
		.run = try_copy_thp,
	},
	{
		.id = "fill.collapse",
		.group = PROBE_FILL,
		.title = "MADV_COLLAPSE makes a huge page of small ones that were filled",
		.wanted = "ok",
		.consequence = "memory that ufd filled stays in small pages",
		.run = try_collapse_filled,
	},
	{
		.id = "fill.collapse-absent",
		.group = PROBE_FILL,
		.title = "MADV_COLLAPSE does not make zeros of a page that is absent",
		.wanted = "absent",
		.consequence = "a guest with huge pages could read zeros in place of its data",
		.remedy = "turn transparent huge pages off",
		.run = try_collapse_absent,
	},
	{
		.id = "fill.zeropage",
		.group = PROBE_FILL,
		.title = "UFFDIO_ZEROPAGE on anonymous memory is final: no fill replaces it",
		.wanted = "final",
		.consequence = "a late fill would replace zeros that the guest has seen already",
		.run = try_zeropage,
	},
	{
		.id = "fill.zeropage-shmem",
		.group = PROBE_FILL,
		.title = "UFFDIO_ZEROPAGE on shmem puts a page of its own into the file",
		.wanted = "a page of the file",
		.consequence = SLOWER,
		.run = try_zeropage_shmem,
	},
	{
		.id = "fill.zeropage-hugetlb",
		.group = PROBE_FILL,
		.title = "UFFDIO_ZEROPAGE fills huge pages, too",
		.wanted = "ok",
		.known = { { PROBE_KERNEL(4, 11), "EINVAL" } },
		.consequence = "ufd copies zeros into huge pages",
		.run = try_zeropage_hugetlb,
	},
	{
		.id = "fill.wakes-all",
		.group = PROBE_FILL,
		.title = "One UFFDIO_COPY wakes every thread that waits for the page",
		.wanted = "all",
		.is_needed = true,
		.consequence = "threads of a guest would hang",
		.run = try_wakes_all,
	},
	{
		.id = "fill.dontwake",
		.group = PROBE_FILL,
		.title = "UFFDIO_COPY with DONTWAKE leaves waking to UFFDIO_WAKE",
		.wanted = "asleep until UFFDIO_WAKE",
		.consequence = "nothing is lost: who is woken early finds his page",
		.run = try_dontwake,
	},
	{
		.id = "fill.exists-wakes",
		.group = PROBE_FILL,
		.title = "UFFDIO_COPY that answers EEXIST wakes who waits for the page",
		.wanted = "woken",
		.known = { { PROBE_KERNEL(4, 3), "asleep" } },
		.consequence = "ufd wakes the page itself whenever a fill says EEXIST",
		.run = try_exists_wakes,
	},
};

const struct probe_family probe_family_fill = PROBE_FAMILY(checks);
