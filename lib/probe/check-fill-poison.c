/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* UFFDIO_POISON: whom a page without bytes stops, and what takes it away again. */
#include <signal.h>
#include <sys/mman.h>

#include "probe/accesses.h"
#include "probe/lab.h"
#include "probe/table.h"

#define MISSING UFFDIO_REGISTER_MODE_MISSING
#define BYTE	0x5a

/* One page, registered in missing mode and poisoned. */
static int poison(struct probe_run *run, enum lab_backing backing, struct lab_memory *ret_memory)
{
	int uffd = lab_uffd(run, UFFD_FEATURE_POISON), r;

	*ret_memory = lab_map_unused(run, backing, 1);
	lab_register(run, uffd, ret_memory, MISSING);
	r = lab_poison(uffd, ret_memory->at, ret_memory->length_bytes, 0, NULL);
	errno = -r;
	probe_must(run, r == 0, "UFFDIO_POISON");
	return uffd;
}

static const char *signal_name(int number)
{
	return number == SIGBUS ? "SIGBUS" : number == SIGSEGV ? "SIGSEGV" : "no signal";
}

static void try_read(struct probe_run *run, enum lab_backing backing)
{
	struct lab_memory memory;
	int uffd = poison(run, backing, &memory), number;

	number = lab_signal_of_read(memory.at, NULL);
	probe_step(run, "the read raised %s",
		   lab_is_silent(run, uffd) ? "no message" : "a message");
	probe_answer(run, "%s", signal_name(number));
}

static void try_read_anon(struct probe_run *run)
{
	try_read(run, LAB_ANON);
}

static void try_read_shmem(struct probe_run *run)
{
	try_read(run, LAB_SHMEM);
}

static void try_read_hugetlb(struct probe_run *run)
{
	try_read(run, LAB_HUGETLB);
}

static void try_code(struct probe_run *run)
{
	struct lab_memory memory;
	int code = 0;

	poison(run, LAB_SHMEM, &memory);
	lab_signal_of_read(memory.at, &code);
	probe_detail(run,
		     "si_code is %d; without CONFIG_MEMORY_FAILURE it does not tell a "
		     "hardware error",
		     code);
	if (code == BUS_MCEERR_AR)
		probe_answer(run, "BUS_MCEERR_AR");
	else if (code == BUS_ADRERR)
		probe_answer(run, "BUS_ADRERR");
	else
		probe_answer(run, "%d", code);
}

/* Somebody who waits for the page when it is poisoned. */
static intptr_t read_signal(void *at)
{
	return lab_signal_of_read(at, NULL);
}

static void try_wakes(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_ANON, 1);
	int uffd = lab_uffd(run, UFFD_FEATURE_POISON), r;
	struct lab_thread *reader;

	lab_register(run, uffd, &memory, MISSING);
	reader = lab_start(run, read_signal, memory.at);
	lab_fault(run, uffd);
	r = lab_poison(uffd, memory.at, memory.length_bytes, 0, NULL);
	errno = -r;
	probe_must(run, r == 0, "UFFDIO_POISON");
	if (!lab_ended(reader, 1000))
		probe_answer(run, "asleep");
	else
		probe_answer(run, "%s", signal_name((int)lab_join(run, reader)));
}

static void try_kernel_read(struct probe_run *run)
{
	struct lab_memory memory;
	struct access_tools tools;

	poison(run, LAB_SHMEM, &memory);
	access_prepare(run, &access_write, &tools);
	probe_answer(run, "%s", probe_errno(access_write.touch(&tools, memory.at)));
}

static void try_over_page(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_ANON, 1);
	int uffd = lab_uffd(run, UFFD_FEATURE_POISON);

	lab_fill(&memory, 0, BYTE);
	lab_register(run, uffd, &memory, MISSING);
	probe_answer(run, "%s",
		     probe_errno(lab_poison(uffd, memory.at, memory.length_bytes, 0, NULL)));
}

static void try_copy(struct probe_run *run)
{
	struct lab_memory memory;
	int uffd = poison(run, LAB_SHMEM, &memory), r;

	r = lab_copy_byte(uffd, &memory, 0, BYTE, 0);
	if (r == 0)
		probe_answer(run, "%s",
			     lab_signal_of_read(memory.at, NULL) ? "still poisoned" : "replaced");
	else
		probe_answer(run, "%s", probe_errno(r));
}

static void try_zeropage(struct probe_run *run)
{
	struct lab_memory memory;
	int uffd = poison(run, LAB_ANON, &memory);

	probe_answer(run, "%s",
		     probe_errno(lab_zeropage(uffd, memory.at, memory.length_bytes, 0, NULL)));
}

static void try_discard(struct probe_run *run)
{
	struct lab_memory memory;
	int uffd = poison(run, LAB_ANON, &memory);
	struct lab_thread *reader;
	struct uffd_msg message;

	probe_must(run, madvise(memory.at, memory.length_bytes, MADV_DONTNEED) == 0,
		   "MADV_DONTNEED");
	reader = lab_start(run, read_signal, memory.at);
	if (lab_raised(run, uffd, reader, &message))
		probe_answer(run, "absent again");
	else
		probe_answer(run, "%s", lab_join(run, reader) ? "still poisoned" : "zero");
}

/* The same marker as those of swap, so nothing may take it for a page. */
static void try_pagemap(struct probe_run *run)
{
	struct lab_memory memory;
	uint64_t word;

	poison(run, LAB_ANON, &memory);
	word = lab_pagemap(run, memory.at);
	probe_detail(run, "the word of /proc/self/pagemap is %#llx", (unsigned long long)word);
	probe_answer(run, "%s",
		     word & UINT64_C(1) << 63	? "present"
		     : word & UINT64_C(1) << 62 ? "swapped"
						: "empty");
}

#define UNUSED "policy `poison` does not stop a guest at a page that cannot be had"

static const struct probe_check checks[] = {
	{
		.id = "fill.poison-anon",
		.group = PROBE_FILL,
		.title = "Reading a poisoned anonymous page raises SIGBUS",
		.wanted = "SIGBUS",
		.consequence = UNUSED,
		.run = try_read_anon,
	},
	{
		.id = "fill.poison-shmem",
		.group = PROBE_FILL,
		.title = "Reading a poisoned page of a memfd raises SIGBUS",
		.wanted = "SIGBUS",
		.consequence = UNUSED,
		.run = try_read_shmem,
	},
	{
		.id = "fill.poison-hugetlb",
		.group = PROBE_FILL,
		.title = "Reading a poisoned huge page raises SIGBUS",
		.wanted = "SIGBUS",
		.consequence = UNUSED,
		.run = try_read_hugetlb,
	},
	{
		.id = "fill.poison-code",
		.group = PROBE_FILL,
		.title = "What the SIGBUS of a poisoned page says of its cause (si_code)",
		.consequence = "nothing: whoever handles the signal must look at its address",
		.run = try_code,
	},
	{
		.id = "fill.poison-wakes",
		.group = PROBE_FILL,
		.title = "UFFDIO_POISON wakes who waits for the page, to its SIGBUS",
		.wanted = "SIGBUS",
		.consequence = "nothing: ufd wakes the page after poisoning it",
		.run = try_wakes,
	},
	{
		.id = "fill.poison-kernel",
		.group = PROBE_FILL,
		.title = "A system call that reads a poisoned page fails with EFAULT",
		.wanted = "EFAULT",
		.consequence = UNUSED,
		.run = try_kernel_read,
	},
	{
		.id = "fill.poison-over-page",
		.group = PROBE_FILL,
		.title = "UFFDIO_POISON does not replace a page",
		.wanted = "EEXIST",
		.consequence = "a page of the guest could be lost to policy `poison`",
		.run = try_over_page,
	},
	{
		.id = "fill.copy-over-poison",
		.group = PROBE_FILL,
		.title = "UFFDIO_COPY replaces a poisoned page",
		.wanted = "replaced",
		.consequence = "nothing: ufd fills no page that it has poisoned",
		.run = try_copy,
	},
	{
		.id = "fill.zeropage-over-poison",
		.group = PROBE_FILL,
		.title = "UFFDIO_ZEROPAGE does not replace a poisoned page",
		.wanted = "EEXIST",
		.consequence = "nothing: ufd fills no page that it has poisoned",
		.run = try_zeropage,
	},
	{
		.id = "fill.poison-discarded",
		.group = PROBE_FILL,
		.title = "A discard (MADV_DONTNEED) takes the poison away",
		.wanted = "absent again",
		.consequence = "a page stays poisoned until it is filled",
		.run = try_discard,
	},
	{
		.id = "fill.poison-pagemap",
		.group = PROBE_FILL,
		.title = "/proc/PID/pagemap shows a poisoned page as swapped",
		.wanted = "swapped",
		.consequence = "ufd could take a poisoned page for an absent one",
		.run = try_pagemap,
	},
};

const struct probe_family probe_family_fill_poison = PROBE_FAMILY(checks);
