/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What fills answer when not all can be done: the errno, the result field, and what was done before.
 * lib/kernel/uffd turns these answers into outcomes; docs/kernel.md has its table.
 */
#include <sys/mman.h>
#include <unistd.h>

#include "probe/lab.h"
#include "probe/table.h"

#define MISSING UFFDIO_REGISTER_MODE_MISSING
#define BYTE	0x5a

static int register_missing(struct probe_run *run, const struct lab_memory *memory)
{
	int uffd = lab_uffd(run, 0);

	lab_register(run, uffd, memory, MISSING);
	return uffd;
}

/* What is copied from; as many pages as any experiment here wants. */
static uint8_t *source(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_ANON, 4);

	memset(memory.at, BYTE, memory.length_bytes);
	return memory.at;
}

/* ---- the result field ---- */

static void try_partial(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_ANON, 4);
	int uffd = register_missing(run, &memory), first, second;
	const uint8_t *bytes = source(run);
	int64_t done = 0, field = 0;

	probe_must(run, lab_copy_byte(uffd, &memory, 2, 1, 0) == 0, "UFFDIO_COPY");
	first = lab_copy(uffd, memory.at, bytes, memory.length_bytes, 0, &done);
	second = lab_copy(uffd, lab_page(&memory, 2), bytes, 2 * memory.page_bytes, 0, &field);
	probe_detail(run,
		     "UFFDIO_COPY of 4 pages, the third of which is there: %s, %lld bytes; from "
		     "there on: %s, field %lld",
		     probe_errno(first), (long long)done, probe_errno(second), (long long)field);
	probe_answer(run, "%s after %lld pages, then %s", probe_errno(first),
		     (long long)done / (long long)memory.page_bytes, probe_errno(second));
}

/* Nothing was done: does the field say why, as the errno does? */
static void try_field(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_ANON, 1);
	int uffd = register_missing(run, &memory), r;
	const uint8_t *bytes = source(run);
	int64_t field = 0;

	probe_must(run, lab_copy_byte(uffd, &memory, 0, 1, 0) == 0, "UFFDIO_COPY");
	r = lab_copy(uffd, memory.at, bytes, memory.page_bytes, 0, &field);
	probe_detail(run, "UFFDIO_COPY onto a page: %s, field %lld", probe_errno(r),
		     (long long)field);
	probe_answer(run, "%s", field == r ? "the errno" : field == 0 ? "untouched" : "another");
}

static void try_field_of_mistake(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_ANON, 2);
	int uffd = register_missing(run, &memory), r;
	const uint8_t *bytes = source(run);
	int64_t field = 0;

	r = lab_copy(uffd, memory.at + 1, bytes, memory.page_bytes, 0, &field);
	probe_detail(run, "UFFDIO_COPY to an unaligned address: %s, field %lld", probe_errno(r),
		     (long long)field);
	probe_answer(run, "%s, %s", probe_errno(r), field == 0 ? "untouched" : "touched");
}

/* ---- where nothing can be filled ---- */

static void try_border(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_ANON, 2);
	int uffd = register_missing(run, &memory), r;
	const uint8_t *bytes = source(run);

	probe_must(run, mprotect(lab_page(&memory, 1), memory.page_bytes, PROT_READ) == 0,
		   "mprotect()");
	r = lab_copy(uffd, memory.at, bytes, memory.length_bytes, 0, NULL);
	probe_detail(run, "the first page is %s",
		     lab_is_present(run, memory.at) ? "filled" : "absent");
	probe_answer(run, "%s", probe_errno(r));
}

static void try_unregistered(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_ANON, 3);
	int uffd = register_missing(run, &memory), q, r;
	const uint8_t *bytes = source(run);

	lab_unregister(uffd, lab_page(&memory, 1), memory.page_bytes);
	munmap(lab_page(&memory, 2), memory.page_bytes);
	q = lab_copy(uffd, lab_page(&memory, 1), bytes, memory.page_bytes, 0, NULL);
	r = lab_copy(uffd, lab_page(&memory, 2), bytes, memory.page_bytes, 0, NULL);
	probe_detail(run, "where it was unregistered: %s; where it was unmapped: %s",
		     probe_errno(q), probe_errno(r));
	probe_answer(run, "%s", q == r ? probe_errno(r) : "unlike");
}

static void try_bad_source(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_ANON, 1);
	int uffd = register_missing(run, &memory);
	uint8_t *bytes = source(run);

	probe_must(run, mprotect(bytes, memory.page_bytes, PROT_NONE) == 0, "mprotect()");
	probe_answer(run, "%s",
		     probe_errno(lab_copy(uffd, memory.at, bytes, memory.page_bytes, 0, NULL)));
}

/* Two pages of which the file has one left. */
static struct lab_memory map_cut(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_SHMEM, 2);

	probe_must(run, ftruncate(memory.fd, (off_t)memory.page_bytes) == 0, "ftruncate()");
	return memory;
}

static void try_copy_past_end(struct probe_run *run)
{
	struct lab_memory memory = map_cut(run);
	int uffd = register_missing(run, &memory);

	probe_answer(run, "%s", probe_errno(lab_copy_byte(uffd, &memory, 1, BYTE, 0)));
}

static void try_zeropage_past_end(struct probe_run *run)
{
	struct lab_memory memory = map_cut(run);
	int uffd = register_missing(run, &memory);

	probe_answer(
		run, "%s",
		probe_errno(lab_zeropage(uffd, lab_page(&memory, 1), memory.page_bytes, 0, NULL)));
}

static void try_poison_past_end(struct probe_run *run)
{
	struct lab_memory memory = map_cut(run);
	int uffd = lab_uffd(run, UFFD_FEATURE_POISON);

	lab_register(run, uffd, &memory, MISSING);
	probe_answer(
		run, "%s",
		probe_errno(lab_poison(uffd, lab_page(&memory, 1), memory.page_bytes, 0, NULL)));
}

/* ---- what is there already ---- */

/* The page table is empty, the file's page is not. */
static void try_cached(struct probe_run *run, enum lab_backing backing)
{
	struct lab_memory memory = lab_map(run, backing, 1);
	int uffd = register_missing(run, &memory), r;
	uint8_t byte;

	lab_fill_file(run, &memory, 0, 1);
	r = lab_copy_byte(uffd, &memory, 0, BYTE, 0);
	byte = *memory.at;
	probe_detail(run, "UFFDIO_COPY says %s; a reader then sees %s bytes", probe_errno(r),
		     byte == 1	    ? "the file's"
		     : byte == BYTE ? "the copied"
				    : "other");
	probe_answer(run, "%s", probe_errno(r));
}

static void try_cached_shared(struct probe_run *run)
{
	try_cached(run, LAB_SHMEM);
}

static void try_cached_private(struct probe_run *run)
{
	try_cached(run, LAB_SHMEM_PRIVATE);
}

/* Read before it was registered, so that the zero page is mapped there. */
static void try_read_before(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_ANON, 1);
	struct lab_thread *reader;
	int uffd, r;

	(void)*(volatile uint8_t *)memory.at;
	uffd = register_missing(run, &memory);
	reader = lab_start_read(run, memory.at);
	lab_join(run, reader);
	r = lab_copy_byte(uffd, &memory, 0, BYTE, 0);
	probe_detail(run, "a later reader raised %s; UFFDIO_COPY says %s",
		     lab_is_silent(run, uffd) ? "no message" : "a message", probe_errno(r));
	probe_answer(run, "%s", probe_errno(r));
}

#define OUTCOMES "ufd would take the answer for another outcome of a fill"

static const struct probe_check checks[] = {
	{
		.id = "fill.partial",
		.group = PROBE_FILL,
		.title = "A fill that stops midway says how far it came, and why when asked again",
		.wanted = "EAGAIN after 2 pages, then EEXIST",
		.consequence = OUTCOMES,
		.run = try_partial,
	},
	{
		.id = "fill.field",
		.group = PROBE_FILL,
		.title = "The result field of a fill that did nothing is its errno",
		.wanted = "the errno",
		.consequence = "nothing: ufd takes only a positive field for progress",
		.run = try_field,
	},
	{
		.id = "fill.field-mistake",
		.group = PROBE_FILL,
		.title = "A malformed fill is refused and leaves the result field alone",
		.wanted = "EINVAL, untouched",
		.consequence = "ufd could not tell its own mistakes from the kernel's answers",
		.run = try_field_of_mistake,
	},
	{
		.id = "fill.border",
		.group = PROBE_FILL,
		.title = "A fill across two mappings is refused as a whole",
		.wanted = "ENOENT",
		.consequence = OUTCOMES,
		.run = try_border,
	},
	{
		.id = "fill.unregistered",
		.group = PROBE_FILL,
		.title = "A fill where nothing is registered or mapped any more says so",
		.wanted = "ENOENT",
		.consequence = OUTCOMES,
		.run = try_unregistered,
	},
	{
		.id = "fill.bad-source",
		.group = PROBE_FILL,
		.title = "UFFDIO_COPY from memory that cannot be read is refused",
		.wanted = "EFAULT",
		.consequence = "ufd could not ask whether a process is gone without filling a page",
		.run = try_bad_source,
	},
	{
		.id = "fill.copy-past-end",
		.group = PROBE_FILL,
		.title = "UFFDIO_COPY behind the end of the file is refused",
		.wanted = "EFAULT",
		.consequence = OUTCOMES,
		.run = try_copy_past_end,
	},
	{
		.id = "fill.zeropage-past-end",
		.group = PROBE_FILL,
		.title = "UFFDIO_ZEROPAGE behind the end of the file is refused",
		.wanted = "EFAULT",
		.consequence = OUTCOMES,
		.run = try_zeropage_past_end,
	},
	{
		.id = "fill.poison-past-end",
		.group = PROBE_FILL,
		.title = "UFFDIO_POISON behind the end of the file is refused",
		.wanted = "EFAULT",
		.consequence = OUTCOMES,
		.run = try_poison_past_end,
	},
	{
		.id = "fill.cached",
		.group = PROBE_FILL,
		.title = "UFFDIO_COPY does not replace a page that the shared file holds already",
		.wanted = "EEXIST",
		.is_needed = true,
		.consequence = "bytes that the guest wrote could be overwritten",
		.run = try_cached_shared,
	},
	{
		.id = "fill.cached-private",
		.group = PROBE_FILL,
		.title = "UFFDIO_COPY fills a private mapping whatever its file holds",
		.wanted = "ok",
		.consequence = "guests on a shared template would see the template's bytes",
		.run = try_cached_private,
	},
	{
		.id = "fill.read-before",
		.group = PROBE_FILL,
		.title = "An anonymous page that was read before it was registered can be filled",
		.wanted = "ok",
		.known = { { PROBE_KERNEL(4, 3), "EEXIST" } },
		.consequence =
			"ufd looks for such pages at attach, and keeps, drops or refuses them",
		.run = try_read_before,
	},
};

const struct probe_family probe_family_fill_results = PROBE_FAMILY(checks);
