/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Minor faults and UFFDIO_CONTINUE: pages that are in the file and not in the page table.
 *
 * The bytes get into the file by write(2) or through a second mapping, behind the back of the
 * registered one, as a pager puts them there. check-continue-kept.c has what becomes of them later.
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "probe/continue.h"
#include "probe/lab.h"
#include "probe/table.h"

struct minor minor_prepare(struct probe_run *run, enum lab_backing backing, size_t n_pages,
			   uint64_t modes)
{
	bool is_huge = backing == LAB_HUGETLB || backing == LAB_HUGETLB_PRIVATE;
	uint64_t features = is_huge ? UFFD_FEATURE_MINOR_HUGETLBFS : UFFD_FEATURE_MINOR_SHMEM;
	struct minor minor;

	if (modes & UFFDIO_REGISTER_MODE_WP)
		features |= UFFD_FEATURE_WP_HUGETLBFS_SHMEM;
	minor.uffd = lab_uffd(run, features);
	minor.memory = lab_map(run, backing, n_pages);
	lab_register(run, minor.uffd, &minor.memory, modes);
	return minor;
}

int minor_continue(const struct minor *minor, size_t i, uint64_t mode)
{
	return lab_continue(minor->uffd, lab_page(&minor->memory, i), minor->memory.page_bytes,
			    mode, NULL);
}

uint8_t minor_file_byte(struct probe_run *run, const struct minor *minor, size_t i)
{
	uint8_t byte;
	ssize_t n = pread(minor->memory.fd, &byte, 1, (off_t)(i * minor->memory.page_bytes));

	probe_must(run, n == 1, "reading the file");
	return byte;
}

/* A page that is in the file, read by somebody: which message, and what does he read in the end? */
static void try_mapped(struct probe_run *run, enum lab_backing backing)
{
	struct minor minor = minor_prepare(run, backing, 2, MISSING_MINOR);
	struct lab_thread *reader;
	struct uffd_msg message;
	uint64_t flags;
	int r, byte;

	lab_fill_file(run, &minor.memory, 1, 0xa1);
	reader = lab_start_read(run, lab_page(&minor.memory, 1));
	message = lab_fault(run, minor.uffd);
	flags = message.arg.pagefault.flags;
	r = minor_continue(&minor, 1, 0);
	probe_step(run, "message with flags 0x%llx, then CONTINUE: %s", (unsigned long long)flags,
		   probe_errno(r));
	if (r) {
		probe_answer(run, "%s", probe_errno(r));
		return;
	}
	byte = (int)lab_join(run, reader);
	probe_detail(run, "flags 0x%llx, read 0x%02x", (unsigned long long)flags,
		     (unsigned int)byte);
	if (!(flags & UFFD_PAGEFAULT_FLAG_MINOR))
		probe_answer(run, "missing");
	else
		probe_answer(run, "%s", byte == 0xa1 ? "mapped" : "other bytes");
}

static void try_mapped_shared(struct probe_run *run)
{
	try_mapped(run, LAB_SHMEM);
}

static void try_mapped_private(struct probe_run *run)
{
	try_mapped(run, LAB_SHMEM_PRIVATE);
}

static void try_mapped_hugetlb(struct probe_run *run)
{
	try_mapped(run, LAB_HUGETLB);
}

static void try_mapped_hugetlb_private(struct probe_run *run)
{
	try_mapped(run, LAB_HUGETLB_PRIVATE);
}

/* A store after CONTINUE: does it raise a message, and does it get into the file? */
static void try_store_after(struct probe_run *run, enum lab_backing backing)
{
	struct minor minor = minor_prepare(run, backing, 1, MISSING_MINOR);
	uint8_t *page = lab_page(&minor.memory, 0), in_file;
	struct lab_thread *writer;
	struct uffd_msg message;
	int r;

	lab_fill_file(run, &minor.memory, 0, 0xa1);
	r = minor_continue(&minor, 0, 0);
	probe_must(run, r == 0, "CONTINUE");
	writer = lab_start_write(run, page, 0x5e);
	if (lab_raised(run, minor.uffd, writer, &message)) {
		probe_answer(run, "a message, flags 0x%llx",
			     (unsigned long long)message.arg.pagefault.flags);
		return;
	}
	in_file = minor_file_byte(run, &minor, 0);
	probe_detail(run,
		     "stored 0x5e, read 0x%02x, the byte behind it 0x%02x, the file has 0x%02x",
		     page[0], page[1], in_file);
	if (page[0] != 0x5e || page[1] != 0xa1)
		probe_answer(run, "other bytes");
	else
		probe_answer(run, "%s", in_file == 0x5e ? "in the file" : "copied");
}

static void try_store_shared(struct probe_run *run)
{
	try_store_after(run, LAB_SHMEM);
}

static void try_store_private(struct probe_run *run)
{
	try_store_after(run, LAB_SHMEM_PRIVATE);
}

static void try_store_hugetlb_private(struct probe_run *run)
{
	try_store_after(run, LAB_HUGETLB_PRIVATE);
}

/* A private page whose first access is a store: messages until it has ended. */
static void try_private_store_first(struct probe_run *run)
{
	struct minor minor = minor_prepare(run, LAB_SHMEM_PRIVATE, 1, MISSING_MINOR);
	struct lab_thread *writer;
	struct uffd_msg message;
	unsigned int n = 0;
	uint64_t flags = 0;

	lab_fill_file(run, &minor.memory, 0, 0xa1);
	writer = lab_start_write(run, lab_page(&minor.memory, 0), 0x5e);
	while (n < 5 && lab_raised(run, minor.uffd, writer, &message)) {
		flags = message.arg.pagefault.flags;
		n++;
		probe_step(run, "flags 0x%llx, CONTINUE: %s", (unsigned long long)flags,
			   probe_errno(minor_continue(&minor, 0, 0)));
		lab_wake(minor.uffd, minor.memory.at, minor.memory.length_bytes);
	}
	probe_detail(run, "the last one had flags 0x%llx; the file has 0x%02x",
		     (unsigned long long)flags, minor_file_byte(run, &minor, 0));
	probe_answer(run, "%u %s", n, n == 1 ? "message" : "messages");
}

static void try_exists(struct probe_run *run)
{
	struct minor minor = minor_prepare(run, LAB_SHMEM, 1, MISSING_MINOR);
	int64_t field = 0;
	int r;

	lab_fill_file(run, &minor.memory, 0, 0xa1);
	r = minor_continue(&minor, 0, 0);
	probe_must(run, r == 0, "the first CONTINUE");
	r = lab_continue(minor.uffd, minor.memory.at, minor.memory.length_bytes, 0, &field);
	probe_detail(run, "the result field is %lld", (long long)field);
	probe_answer(run, "%s", probe_errno(r));
}

static void try_hole(struct probe_run *run, enum lab_backing backing)
{
	struct minor minor = minor_prepare(run, backing, 1, MISSING_MINOR);

	probe_answer(run, "%s", probe_errno(minor_continue(&minor, 0, 0)));
}

static void try_hole_shared(struct probe_run *run)
{
	try_hole(run, LAB_SHMEM);
}

static void try_hole_hugetlb(struct probe_run *run)
{
	try_hole(run, LAB_HUGETLB);
}

static void try_past_end(struct probe_run *run, enum lab_backing backing)
{
	struct minor minor = minor_prepare(run, backing, 2, MISSING_MINOR);
	int r;

	lab_fill_file(run, &minor.memory, 0, 0xa1);
	r = ftruncate(minor.memory.fd, (off_t)minor.memory.page_bytes);
	probe_must(run, r == 0, "cutting the file to one page");
	r = minor_continue(&minor, 0, 0);
	probe_must(run, r == 0, "CONTINUE of what is left of the file");
	probe_answer(run, "%s", probe_errno(minor_continue(&minor, 1, 0)));
}

static void try_past_end_shared(struct probe_run *run)
{
	try_past_end(run, LAB_SHMEM);
}

static void try_past_end_hugetlb(struct probe_run *run)
{
	try_past_end(run, LAB_HUGETLB);
}

static void try_unaligned_end(struct probe_run *run)
{
	struct minor minor = minor_prepare(run, LAB_SHMEM, 2, MISSING_MINOR);
	int r;

	lab_fill_file(run, &minor.memory, 1, 0xa1);
	r = ftruncate(minor.memory.fd, (off_t)minor.memory.page_bytes + 100);
	probe_must(run, r == 0, "cutting the file within its second page");
	r = minor_continue(&minor, 1, 0);
	if (r == 0)
		probe_detail(run, "byte 99 of it is 0x%02x, byte 100 0x%02x",
			     lab_page(&minor.memory, 1)[99], lab_page(&minor.memory, 1)[100]);
	probe_answer(run, "%s", probe_errno(r));
}

/* Four pages of which the third is a hole. */
static void try_partial(struct probe_run *run)
{
	struct minor minor = minor_prepare(run, LAB_SHMEM, 4, MISSING_MINOR);
	int64_t field = 0, again = 0;
	int r, error;

	for (size_t i = 0; i < 4; i++)
		if (i != 2)
			lab_fill_file(run, &minor.memory, i, 0xa1);
	r = lab_continue(minor.uffd, minor.memory.at, minor.memory.length_bytes, 0, &field);
	error = lab_continue(minor.uffd, lab_page(&minor.memory, 2), 2 * minor.memory.page_bytes, 0,
			     &again);
	probe_detail(run, "called again at the hole it says %s, and its field %lld",
		     probe_errno(error), (long long)again);
	probe_answer(run, "%lld pages, %s", (long long)field / (long long)minor.memory.page_bytes,
		     probe_errno(r));
}

static void try_missing_only(struct probe_run *run)
{
	struct minor minor = minor_prepare(run, LAB_SHMEM, 1, UFFDIO_REGISTER_MODE_MISSING);
	int r;

	lab_fill_file(run, &minor.memory, 0, 0xa1);
	r = minor_continue(&minor, 0, 0);
	if (r == 0)
		probe_detail(run, "the page reads 0x%02x", minor.memory.at[0]);
	probe_answer(run, "%s", probe_errno(r));
}

static void try_anon(struct probe_run *run)
{
	int uffd = lab_uffd(run, UFFD_FEATURE_MINOR_SHMEM);
	struct lab_memory memory = lab_map(run, LAB_ANON, 1);

	lab_register(run, uffd, &memory, UFFDIO_REGISTER_MODE_MISSING);
	probe_answer(run, "%s",
		     probe_errno(lab_continue(uffd, memory.at, memory.length_bytes, 0, NULL)));
}

/* A page that was only made room for: which fault, and what do COPY and CONTINUE say? */
static void try_fallocated(struct probe_run *run)
{
	struct minor minor = minor_prepare(run, LAB_SHMEM, 1, MISSING_MINOR);
	struct lab_thread *reader;
	struct uffd_msg message;
	int copy, r;

	r = fallocate(minor.memory.fd, 0, 0, (off_t)minor.memory.length_bytes);
	probe_must(run, r == 0, "fallocate");
	reader = lab_start_read(run, minor.memory.at);
	if (!lab_raised(run, minor.uffd, reader, &message)) {
		probe_answer(run, "no message");
		return;
	}
	copy = lab_copy_byte(minor.uffd, &minor.memory, 0, 0xa1, 0);
	r = minor_continue(&minor, 0, 0);
	probe_detail(run, "COPY says %s, CONTINUE %s and maps 0x%02x", probe_errno(copy),
		     probe_errno(r), (unsigned int)lab_join(run, reader));
	probe_answer(run, "%s",
		     message.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_MINOR ? "minor" : "missing");
}

static void try_minor_only_hole(struct probe_run *run)
{
	struct minor minor = minor_prepare(run, LAB_SHMEM, 1, UFFDIO_REGISTER_MODE_MINOR);
	struct lab_thread *reader = lab_start_read(run, minor.memory.at);
	struct uffd_msg message;

	if (lab_raised(run, minor.uffd, reader, &message))
		probe_answer(run, "message");
	else
		probe_answer(run, "0x%02x, no message", (unsigned int)lab_join(run, reader));
}

/* Neighbours are not mapped along with a page that was faulted in. */
static void try_each_page(struct probe_run *run)
{
	struct minor minor = minor_prepare(run, LAB_SHMEM, 16, MISSING_MINOR);
	const struct lab_faults *faults = lab_serve(run, minor.uffd, &minor.memory, 0);
	unsigned int n_right = 0, n_minor;

	for (size_t i = 0; i < 16; i++)
		lab_fill_file(run, &minor.memory, i, (uint8_t)(i + 1));
	for (size_t i = 0; i < 16; i++)
		n_right += *(volatile uint8_t *)lab_page(&minor.memory, i) == i + 1;
	n_minor = __atomic_load_n(&faults->n_minor, __ATOMIC_RELAXED);
	probe_detail(run, "%u of 16 pages had the right byte", n_right);
	probe_answer(run, "%u messages", n_minor);
}

static const struct probe_check checks[] = {
	{
		.id = "continue.shared",
		.group = PROBE_CONTINUE,
		.title = "CONTINUE maps a page that the shared file has",
		.wanted = "mapped",
		.is_needed = true,
		.consequence = "shared guests cannot be filled through their file",
		.run = try_mapped_shared,
	},
	{
		.id = "continue.private",
		.group = PROBE_CONTINUE,
		.title = "CONTINUE maps a page of the file into a private mapping",
		.wanted = "mapped",
		.consequence = "clones of a template file cannot share its pages by CONTINUE",
		.run = try_mapped_private,
	},
	{
		.id = "continue.hugetlb",
		.group = PROBE_CONTINUE,
		.title = "CONTINUE maps a huge page that the shared file has",
		.wanted = "mapped",
		.consequence = "guests in huge pages cannot be filled through their file",
		.run = try_mapped_hugetlb,
	},
	{
		.id = "continue.hugetlb-private",
		.group = PROBE_CONTINUE,
		.title = "CONTINUE maps a huge page of the file into a private mapping",
		.wanted = "mapped",
		.consequence = "clones of a template of huge pages cannot share them by CONTINUE",
		.run = try_mapped_hugetlb_private,
	},
	{
		.id = "continue.store-shared",
		.group = PROBE_CONTINUE,
		.title = "A shared page is writable after CONTINUE, and stores reach the file",
		.wanted = "in the file",
		.is_needed = true,
		.consequence = "what the guest writes is not in its file: saves would miss it",
		.run = try_store_shared,
	},
	{
		.id = "continue.store-private",
		.group = PROBE_CONTINUE,
		.title = "A private page is read-only after CONTINUE, and copied by a store",
		.wanted = "copied",
		.consequence = "a store of one clone would be seen by all",
		.run = try_store_private,
	},
	{
		.id = "continue.store-hugetlb-private",
		.group = PROBE_CONTINUE,
		.title = "A private huge page is copied by a store after CONTINUE",
		.wanted = "copied",
		.consequence = "a store of one clone would be seen by all",
		.run = try_store_hugetlb_private,
	},
	{
		.id = "continue.private-store-first",
		.group = PROBE_CONTINUE,
		.title = "A store to an unmapped private page raises one message, then is copied",
		.wanted = "1 message",
		.consequence = "each store to a clone's page waits for the pager more than once",
		.run = try_private_store_first,
	},
	{
		.id = "continue.exists",
		.group = PROBE_CONTINUE,
		.title = "CONTINUE of a mapped page says EEXIST",
		.wanted = "EEXIST",
		.consequence = "ufd cannot tell a page that came by another way",
		.run = try_exists,
	},
	{
		.id = "continue.hole",
		.group = PROBE_CONTINUE,
		.title = "CONTINUE of a hole says EFAULT",
		.wanted = "EFAULT",
		.consequence = "ufd cannot ask whether a file has a page",
		.run = try_hole_shared,
	},
	{
		.id = "continue.hole-hugetlb",
		.group = PROBE_CONTINUE,
		.title = "CONTINUE of a hole among huge pages says EFAULT",
		.wanted = "EFAULT",
		.consequence = "ufd cannot ask which huge pages a file has",
		.run = try_hole_hugetlb,
	},
	{
		.id = "continue.past-end",
		.group = PROBE_CONTINUE,
		.title = "CONTINUE past the file's end says EINVAL, not what a hole says",
		.wanted = "EINVAL",
		.consequence = "the end looks like a hole: ufd looks at the file's length first",
		.run = try_past_end_shared,
	},
	{
		.id = "continue.past-end-hugetlb",
		.group = PROBE_CONTINUE,
		.title = "CONTINUE past the end of a file of huge pages says EINVAL",
		.wanted = "EINVAL",
		.known = { { PROBE_KERNEL(6, 18), "EFAULT" } },
		.consequence = "the end looks like a hole: ufd looks at the file's length first",
		.run = try_past_end_hugetlb,
	},
	{
		.id = "continue.unaligned-end",
		.group = PROBE_CONTINUE,
		.title = "CONTINUE maps the page that holds an unaligned end of the file",
		.wanted = "ok",
		.consequence = "the last page of a file of odd length cannot be mapped",
		.run = try_unaligned_end,
	},
	{
		.id = "continue.partial",
		.group = PROBE_CONTINUE,
		.title = "CONTINUE stops at the first hole and tells how far it came",
		.wanted = "2 pages, EAGAIN",
		.consequence = "ufd cannot map several pages by one call",
		.run = try_partial,
	},
	{
		.id = "continue.missing-only",
		.group = PROBE_CONTINUE,
		.title = "CONTINUE works where only missing mode is registered",
		.wanted = "ok",
		.consequence = "a page that came into the file meanwhile cannot be mapped by ufd",
		.run = try_missing_only,
	},
	{
		.id = "continue.anon",
		.group = PROBE_CONTINUE,
		.title = "CONTINUE on anonymous memory says EINVAL",
		.wanted = "EINVAL",
		.consequence = "none: ufd never asks there",
		.run = try_anon,
	},
	{
		.id = "continue.fallocated",
		.group = PROBE_CONTINUE,
		.title = "A page that was only allocated faults as minor",
		.wanted = "minor",
		.consequence = "ufd may fill a page that the file has already",
		.run = try_fallocated,
	},
	{
		.id = "continue.minor-only-hole",
		.group = PROBE_CONTINUE,
		.title = "With minor mode alone an access to a hole raises a message",
		.wanted = "message",
		.known = { { PROBE_KERNEL(6, 18), "0x00, no message" } },
		.consequence =
			"holes read zero silently: ufd registers missing and minor mode together",
		.run = try_minor_only_hole,
	},
	{
		.id = "continue.each-page",
		.group = PROBE_CONTINUE,
		.title = "In minor mode each page is reported, its neighbours are not mapped along",
		.wanted = "16 messages",
		.consequence = "ufd does not see which pages of the file the guest uses",
		.run = try_each_page,
	},
};

const struct probe_family probe_family_continue = PROBE_FAMILY(checks);
