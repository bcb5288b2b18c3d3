/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What becomes of pages that CONTINUE mapped: write protection, swap, transparent huge pages.
 *
 * A page whose page table entry was made by CONTINUE must count as dirty, whoever wrote its bytes: the
 * proof is that it comes back from swap as it was.
 */
#include <sys/mman.h>
#include <unistd.h>

#include "probe/continue.h"
#include "probe/lab.h"
#include "probe/table.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

#define HUGE_BYTES ((size_t)2 << 20)
#define HUGE_PAGES (HUGE_BYTES / 4096)
#define ALL_MODES  (MISSING_MINOR | UFFDIO_REGISTER_MODE_WP)

/* One wp fault of a store to a page that was mapped protected? */
static void try_protected(struct probe_run *run, enum lab_backing backing)
{
	struct minor minor = minor_prepare(run, backing, 1, ALL_MODES);
	uint8_t *page = lab_page(&minor.memory, 0);
	struct lab_thread *writer;
	struct uffd_msg message;
	unsigned int n = 0;
	bool was_protected;
	int r;

	lab_fill_file(run, &minor.memory, 0, 0xa1);
	r = minor_continue(&minor, 0, UFFDIO_CONTINUE_MODE_WP);
	if (r) {
		probe_answer(run, "%s", probe_errno(r));
		return;
	}
	was_protected = lab_is_protected(run, page);
	writer = lab_start_write(run, page, 0x5e);
	while (n < 5 && lab_raised(run, minor.uffd, writer, &message)) {
		probe_step(run, "flags 0x%llx", (unsigned long long)message.arg.pagefault.flags);
		n += !!(message.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP);
		lab_protect(minor.uffd, page, minor.memory.page_bytes, 0);
	}
	probe_detail(run, "the page %s protected before, and reads 0x%02x after it",
		     was_protected ? "was" : "was not", page[0]);
	probe_answer(run, "%u wp %s", n, n == 1 ? "fault" : "faults");
}

/* There is no feature bit for it; both came with Linux 6.4. */
static void need_continue_wp(struct probe_run *run)
{
	close(lab_uffd(run, UFFD_FEATURE_WP_UNPOPULATED));
}

static void try_protected_shared(struct probe_run *run)
{
	need_continue_wp(run);
	try_protected(run, LAB_SHMEM);
}

static void try_protected_hugetlb(struct probe_run *run)
{
	need_continue_wp(run);
	try_protected(run, LAB_HUGETLB);
}

/* Without MODE_WP, where an empty page table entry is protected. */
static void try_marker(struct probe_run *run)
{
	struct minor minor = minor_prepare(run, LAB_SHMEM, 1, ALL_MODES);
	bool was_protected;
	int r;

	lab_fill_file(run, &minor.memory, 0, 0xa1);
	r = lab_protect(minor.uffd, minor.memory.at, minor.memory.page_bytes,
			UFFDIO_WRITEPROTECT_MODE_WP);
	probe_must(run, r == 0, "protecting an empty page");
	was_protected = lab_is_protected(run, minor.memory.at);
	probe_must(run, was_protected, "the mark of an empty page");
	r = minor_continue(&minor, 0, 0);
	probe_step(run, "CONTINUE without MODE_WP: %s", probe_errno(r));
	if (r)
		probe_answer(run, "%s", probe_errno(r));
	else
		probe_answer(run, "%s", lab_is_protected(run, minor.memory.at) ? "kept" : "lost");
}

/* Who wrote the bytes that must come back from swap. */
enum written { BY_FILE, BY_MAPPING };

static void try_swap(struct probe_run *run, enum written written)
{
	struct minor minor = minor_prepare(run, LAB_SHMEM, 1, MISSING_MINOR);
	uint8_t *page = lab_page(&minor.memory, 0), byte;
	struct lab_thread *reader;
	struct uffd_msg message;
	int r;

	lab_fill_file(run, &minor.memory, 0, 0xa1);
	r = minor_continue(&minor, 0, 0);
	probe_must(run, r == 0, "CONTINUE");
	if (written == BY_MAPPING)
		lab_fill(&minor.memory, 0, 0x5e);
	lab_swap_out(run, page, minor.memory.page_bytes);
	reader = lab_start_read(run, page);
	if (!lab_raised(run, minor.uffd, reader, &message)) {
		probe_answer(run, "no message, 0x%02x", (unsigned int)lab_join(run, reader));
		return;
	}
	r = minor_continue(&minor, 0, 0);
	probe_step(run, "flags 0x%llx, then CONTINUE: %s",
		   (unsigned long long)message.arg.pagefault.flags, probe_errno(r));
	if (r) {
		probe_answer(run, "CONTINUE: %s", probe_errno(r));
		return;
	}
	byte = (uint8_t)lab_join(run, reader);
	probe_detail(run, "0x%02x came back; the message had flags 0x%llx", byte,
		     (unsigned long long)message.arg.pagefault.flags);
	probe_answer(run, "%s", byte == (written == BY_FILE ? 0xa1 : 0x5e) ? "kept" : "lost");
}

static void try_swap_file(struct probe_run *run)
{
	try_swap(run, BY_FILE);
}

static void try_swap_mapping(struct probe_run *run)
{
	try_swap(run, BY_MAPPING);
}

/* Each page of the file begins with another byte. */
static uint8_t first_byte(size_t i)
{
	return (uint8_t)(i * 7 + 1);
}

/* 2 MiB of shmem that lie in one huge page of the file, and are not mapped at @memory. */
static struct lab_memory huge_file(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_SHMEM_THP, HUGE_PAGES);

	for (size_t i = 0; i < HUGE_PAGES; i++)
		lab_fill(&memory, i, first_byte(i));
	if (!lab_is_huge(run, memory.at) && madvise(memory.at, HUGE_BYTES, MADV_COLLAPSE) < 0)
		probe_skip(run, "no transparent huge page of shmem is to be had: %s",
			   strerror(errno));
	if (!lab_is_huge(run, memory.at))
		probe_skip(run, "the kernel maps no transparent huge page of shmem");
	probe_must(run, madvise(memory.at, HUGE_BYTES, MADV_DONTNEED) == 0, "MADV_DONTNEED");
	return memory;
}

static void try_huge(struct probe_run *run)
{
	int uffd = lab_uffd(run, UFFD_FEATURE_MINOR_SHMEM), r;
	struct lab_memory memory = huge_file(run);
	int64_t field = 0;

	lab_register(run, uffd, &memory, MISSING_MINOR);
	r = lab_continue(uffd, memory.at, HUGE_BYTES, 0, &field);
	probe_step(run, "CONTINUE of 2 MiB: %s, field %lld", probe_errno(r), (long long)field);
	if (r) {
		probe_answer(run, "%s", probe_errno(r));
		return;
	}
	probe_answer(run, "%s", lab_is_huge(run, memory.at) ? "huge" : "small pages");
}

/*
 * The file's small pages become a huge one while the registered mapping has not mapped them: through a
 * second mapping, since the pages are missing in the first.
 */
static void try_collapse(struct probe_run *run)
{
	int uffd = lab_uffd(run, UFFD_FEATURE_MINOR_SHMEM), r;
	struct lab_memory memory = lab_map(run, LAB_SHMEM_THP, HUGE_PAGES), alias = memory;
	const struct lab_faults *faults;
	unsigned int n_right = 0;

	alias.at = lab_map(run, LAB_ANON_THP, HUGE_PAGES).at; /* aligned as a huge page is */
	alias.at = mmap(alias.at, HUGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
			memory.fd, 0);
	probe_must(run, alias.at != MAP_FAILED, "a second mapping of the file");
	for (size_t i = 0; i < HUGE_PAGES; i++)
		lab_fill(&alias, i, first_byte(i));
	lab_register(run, uffd, &memory, UFFDIO_REGISTER_MODE_MINOR);
	r = madvise(alias.at, HUGE_BYTES, MADV_COLLAPSE) < 0 ? errno : 0;
	probe_step(run, "MADV_COLLAPSE through the second mapping: %s", probe_errno(r));
	if (r == EINVAL)
		probe_skip(run, "the kernel collapses no pages of shmem");
	faults = lab_serve(run, uffd, &memory, 0);
	for (size_t i = 0; i < HUGE_PAGES; i += 16)
		n_right += *(volatile uint8_t *)lab_page(&memory, i) == first_byte(i);
	probe_detail(run, "MADV_COLLAPSE: %s; %u messages; %u of 32 pages right", probe_errno(r),
		     __atomic_load_n(&faults->n_minor, __ATOMIC_RELAXED), n_right);
	probe_answer(run, "%s", n_right == 32 ? "kept" : "lost");
}

static const struct probe_check checks[] = {
	{
		.id = "continue.wp",
		.group = PROBE_CONTINUE,
		.title = "CONTINUE with MODE_WP maps a page protected: a store raises one fault",
		.wanted = "1 wp fault",
		.consequence = "pages that come while ufd tracks writes would look clean",
		.run = try_protected_shared,
	},
	{
		.id = "continue.wp-hugetlb",
		.group = PROBE_CONTINUE,
		.title = "CONTINUE with MODE_WP maps a huge page protected",
		.wanted = "1 wp fault",
		.consequence = "huge pages that come while ufd tracks writes would look clean",
		.run = try_protected_hugetlb,
	},
	{
		.id = "continue.wp-marker",
		.group = PROBE_CONTINUE,
		.title = "CONTINUE without MODE_WP keeps the protection of an empty page",
		.wanted = "kept",
		.known = { { PROBE_KERNEL(6, 18), "lost" } },
		.consequence =
			"protection goes with a plain fill: ufd asks for MODE_WP while tracking",
		.run = try_marker,
	},
	{
		.id = "continue.swap",
		.group = PROBE_CONTINUE,
		.title = "A page that only the pager wrote comes back from swap after CONTINUE",
		.wanted = "kept",
		.consequence =
			"the kernel loses pages of guests when memory is short: turn swap off",
		.run = try_swap_file,
	},
	{
		.id = "continue.swap-written",
		.group = PROBE_CONTINUE,
		.title = "A page that was written after CONTINUE comes back from swap",
		.wanted = "kept",
		.consequence =
			"the kernel loses what guests wrote when memory is short: turn swap off",
		.run = try_swap_mapping,
	},
	{
		.id = "continue.thp",
		.group = PROBE_CONTINUE,
		.title = "CONTINUE maps a transparent huge page of shmem as one",
		.wanted = "huge",
		.known = { { PROBE_KERNEL(6, 18), "small pages" } },
		.consequence = "shared guests run on small pages until MADV_COLLAPSE or khugepaged",
		.run = try_huge,
	},
	{
		.id = "continue.collapse",
		.group = PROBE_CONTINUE,
		.title = "MADV_COLLAPSE of shmem with minor faults to come keeps its content",
		.wanted = "kept",
		.consequence = "guests lose pages to khugepaged: turn THP of shmem off",
		.run = try_collapse,
	},
};

const struct probe_family probe_family_continue_kept = PROBE_FAMILY(checks);
