/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* UFFDIO_WRITEPROTECT: what of a range it protects, what it answers, and whom it wakes. */
#include <sys/mman.h>
#include <unistd.h>

#include "probe/lab.h"
#include "probe/table.h"

#define MISSING UFFDIO_REGISTER_MODE_MISSING
#define WP	UFFDIO_REGISTER_MODE_WP
#define PROTECT UFFDIO_WRITEPROTECT_MODE_WP
#define BYTE	0x5a

/* Three populated pages, registered for write protection. */
static struct lab_memory map_registered(struct probe_run *run, enum lab_backing backing,
					int *ret_uffd)
{
	struct lab_memory memory = lab_map(run, backing, 3);

	for (size_t i = 0; i < 3; i++)
		lab_fill(&memory, i, BYTE);
	*ret_uffd = lab_uffd(run, 0);
	lab_register(run, *ret_uffd, &memory, WP);
	return memory;
}

/* One page, protected; what a write to it and another one after un-protecting raise. */
static void try_round(struct probe_run *run, enum lab_backing backing)
{
	int uffd, r;
	struct lab_memory memory = map_registered(run, backing, &uffd);
	struct lab_thread *writer;
	struct uffd_msg message;

	r = lab_protect(uffd, memory.at, memory.length_bytes, PROTECT);
	if (r < 0) {
		probe_answer(run, "%s", probe_errno(r));
		return;
	}
	writer = lab_start_write(run, lab_page(&memory, 1), 1);
	if (!lab_raised(run, uffd, writer, &message)) {
		probe_answer(run, "no message");
		return;
	}
	r = lab_protect(uffd, lab_page(&memory, 1), memory.page_bytes, 0);
	probe_step(run, "un-protected: %s", probe_errno(r));
	lab_join(run, writer);
	probe_answer(run, "%s",
		     *lab_page(&memory, 1) == 1 && lab_is_silent(run, uffd) ? "one message"
									    : "another");
}

static void try_round_anon(struct probe_run *run)
{
	try_round(run, LAB_ANON);
}

static void try_round_shmem(struct probe_run *run)
{
	try_round(run, LAB_SHMEM);
}

static void try_round_hugetlb(struct probe_run *run)
{
	try_round(run, LAB_HUGETLB);
}

/* ---- ranges ---- */

static void try_partial(struct probe_run *run)
{
	int uffd, r;
	struct lab_memory memory = map_registered(run, LAB_ANON, &uffd);

	lab_unregister(uffd, lab_page(&memory, 2), memory.page_bytes);
	r = lab_protect(uffd, memory.at, memory.length_bytes, PROTECT);
	probe_answer(run, "%s, %s", probe_errno(r),
		     lab_is_protected(run, memory.at) ? "some protected" : "none protected");
}

static void try_hole(struct probe_run *run)
{
	int uffd, r;
	struct lab_memory memory = map_registered(run, LAB_ANON, &uffd);

	munmap(lab_page(&memory, 1), memory.page_bytes);
	r = lab_protect(uffd, memory.at, memory.length_bytes, PROTECT);
	probe_answer(run, "%s, %s", probe_errno(r),
		     lab_is_protected(run, memory.at) && lab_is_protected(run, lab_page(&memory, 2))
			     ? "both sides protected"
			     : "not all protected");
}

static void try_unmapped(struct probe_run *run)
{
	int uffd;
	struct lab_memory memory = map_registered(run, LAB_ANON, &uffd);

	munmap(memory.at, memory.length_bytes);
	probe_answer(run, "%s",
		     probe_errno(lab_protect(uffd, memory.at, memory.length_bytes, PROTECT)));
}

static void try_missing_only(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_ANON, 1);
	int uffd = lab_uffd(run, 0);

	lab_register(run, uffd, &memory, MISSING);
	probe_answer(run, "%s",
		     probe_errno(lab_protect(uffd, memory.at, memory.length_bytes, PROTECT)));
}

static void try_huge_part(struct probe_run *run)
{
	struct lab_memory memory = lab_map_unused(run, LAB_HUGETLB, 1);
	int uffd = lab_uffd(run, 0);

	lab_register(run, uffd, &memory, WP);
	probe_answer(run, "%s", probe_errno(lab_protect(uffd, memory.at, 4096, PROTECT)));
}

static void try_mode(struct probe_run *run)
{
	int uffd;
	struct lab_memory memory = map_registered(run, LAB_ANON, &uffd);

	probe_answer(run, "%s",
		     probe_errno(lab_protect(uffd, memory.at, memory.length_bytes,
					     PROTECT | UFFDIO_WRITEPROTECT_MODE_DONTWAKE)));
}

static void try_gone(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_ANON, 1);
	int uffd = lab_uffd_of_dead(run);

	probe_answer(run, "%s",
		     probe_errno(lab_protect(uffd, memory.at, memory.length_bytes, PROTECT)));
}

/* ---- pages that are not there ---- */

static void try_absent(struct probe_run *run, enum lab_backing backing, uint64_t features)
{
	struct lab_memory memory = lab_map(run, backing, 1);
	int uffd = lab_uffd(run, features), r;

	lab_register(run, uffd, &memory, WP);
	r = lab_protect(uffd, memory.at, memory.length_bytes, PROTECT);
	errno = -r;
	probe_must(run, r == 0, "UFFDIO_WRITEPROTECT");
	probe_answer(run, "%s", lab_is_protected(run, memory.at) ? "protected" : "skipped");
}

static void try_absent_anon(struct probe_run *run)
{
	try_absent(run, LAB_ANON, UFFD_FEATURE_WP_UNPOPULATED);
}

static void try_absent_plain(struct probe_run *run)
{
	try_absent(run, LAB_ANON, 0);
}

static void try_absent_shmem(struct probe_run *run)
{
	try_absent(run, LAB_SHMEM, 0);
}

/* Behind the end of the file, where no page can ever be. */
static void try_past_end(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_SHMEM, 2);
	int uffd = lab_uffd(run, 0), r;

	probe_must(run, ftruncate(memory.fd, (off_t)memory.page_bytes) == 0, "ftruncate()");
	lab_register(run, uffd, &memory, WP);
	r = lab_protect(uffd, memory.at, memory.length_bytes, PROTECT);
	if (r < 0)
		probe_answer(run, "%s", probe_errno(r));
	else
		probe_answer(run, "%s",
			     lab_is_protected(run, lab_page(&memory, 1)) ? "protected" : "skipped");
}

/* The zero page stands for what was read and never written. */
static void try_zero_page(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_ANON, 1);
	int uffd = lab_uffd(run, 0), r;
	struct lab_thread *writer;
	struct uffd_msg message;

	(void)*(volatile uint8_t *)memory.at;
	lab_register(run, uffd, &memory, WP);
	r = lab_protect(uffd, memory.at, memory.length_bytes, PROTECT);
	errno = -r;
	probe_must(run, r == 0, "UFFDIO_WRITEPROTECT");
	writer = lab_start_write(run, memory.at, 1);
	if (!lab_raised(run, uffd, writer, &message)) {
		probe_answer(run, "no message");
		return;
	}
	lab_protect(uffd, memory.at, memory.length_bytes, 0);
	lab_join(run, writer);
	probe_answer(run, "%s",
		     message.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP ? "told" : "missing");
}

/* ---- whom un-protecting wakes ---- */

static void try_unprotect_dontwake(struct probe_run *run)
{
	int uffd, r;
	struct lab_memory memory = map_registered(run, LAB_ANON, &uffd);
	struct lab_thread *writer;
	bool is_asleep;

	r = lab_protect(uffd, memory.at, memory.length_bytes, PROTECT);
	errno = -r;
	probe_must(run, r == 0, "UFFDIO_WRITEPROTECT");
	writer = lab_start_write(run, memory.at, 1);
	lab_fault(run, uffd);
	r = lab_protect(uffd, memory.at, memory.length_bytes, UFFDIO_WRITEPROTECT_MODE_DONTWAKE);
	errno = -r;
	probe_must(run, r == 0, "un-protecting");
	is_asleep = lab_is_asleep(run, uffd);
	lab_wake(uffd, memory.at, memory.length_bytes);
	lab_join(run, writer);
	probe_answer(run, "%s", is_asleep ? "asleep until UFFDIO_WAKE" : "woken");
}

#define NEEDED "memory of this kind cannot be tracked with track=wp"

static const struct probe_check checks[] = {
	{
		.id = "fill.protect-anon",
		.group = PROBE_FILL,
		.title = "A write to a protected anonymous page waits and raises one message",
		.wanted = "one message",
		.is_needed = true,
		.is_for_start = true,
		.consequence = NEEDED,
		.remedy = "run a kernel with CONFIG_USERFAULTFD, 6.1 or newer",
		.run = try_round_anon,
	},
	{
		.id = "fill.protect-shmem",
		.group = PROBE_FILL,
		.title = "A write to a protected page of a memfd waits and raises one message",
		.wanted = "one message",
		.is_needed = true,
		.consequence = NEEDED,
		.remedy = "run a kernel with CONFIG_USERFAULTFD, 6.1 or newer",
		.run = try_round_shmem,
	},
	{
		.id = "fill.protect-hugetlb",
		.group = PROBE_FILL,
		.title = "A write to a protected huge page waits and raises one message",
		.wanted = "one message",
		.consequence = NEEDED,
		.run = try_round_hugetlb,
	},
	{
		.id = "fill.protect-partial",
		.group = PROBE_FILL,
		.title = "Protecting a range with an unregistered part changes nothing",
		.wanted = "ENOENT, none protected",
		.known = { { PROBE_KERNEL(6, 1), "ENOENT, none protected" },
			   { PROBE_KERNEL(6, 4), "ENOENT, some protected" } },
		.consequence = "ufd goes over such a range once more in small parts",
		.run = try_partial,
	},
	{
		.id = "fill.protect-hole",
		.group = PROBE_FILL,
		.title = "Protecting a range with a hole passes over the hole",
		.wanted = "ok, both sides protected",
		.known = { { PROBE_KERNEL(6, 1), "ENOENT, not all protected" },
			   { PROBE_KERNEL(6, 4), "ok, both sides protected" } },
		.consequence = "ufd goes over such a range once more in small parts",
		.run = try_hole,
	},
	{
		.id = "fill.protect-unmapped",
		.group = PROBE_FILL,
		.title = "Protecting what is not mapped says so",
		.wanted = "ENOENT",
		.consequence = "nothing: what is not mapped needs no protection",
		.run = try_unmapped,
	},
	{
		.id = "fill.protect-missing-only",
		.group = PROBE_FILL,
		.title = "Protecting a range without write-protect mode is refused",
		.wanted = "ENOENT",
		.consequence = "ufd could take memory for tracked that is not",
		.run = try_missing_only,
	},
	{
		.id = "fill.protect-huge-part",
		.group = PROBE_FILL,
		.title = "A part of a huge page cannot be protected",
		.wanted = "EINVAL",
		.consequence = "nothing: ufd protects whole pages of a mapping",
		.run = try_huge_part,
	},
	{
		.id = "fill.protect-mode",
		.group = PROBE_FILL,
		.title = "Protecting with DONTWAKE, which wakes nobody anyway, is refused",
		.wanted = "EINVAL",
		.consequence = "nothing: ufd does not ask for it",
		.run = try_mode,
	},
	{
		.id = "fill.protect-gone",
		.group = PROBE_FILL,
		.title = "Protecting memory of a process that has ended says so",
		.wanted = "ESRCH",
		.consequence = "ufd learns of the end by the process's pidfd",
		.run = try_gone,
	},
	{
		.id = "fill.protect-absent-anon",
		.group = PROBE_FILL,
		.title = "Absent anonymous pages can be protected (WP_UNPOPULATED)",
		.wanted = "protected",
		.consequence = "the first write to an empty page raises no message of protection",
		.run = try_absent_anon,
	},
	{
		.id = "fill.protect-absent-plain",
		.group = PROBE_FILL,
		.title = "Absent anonymous pages are protected without asking for it",
		.wanted = "protected",
		.known = { { PROBE_KERNEL(5, 7), "skipped" } },
		.consequence = "ufd asks for UFFD_FEATURE_WP_UNPOPULATED",
		.run = try_absent_plain,
	},
	{
		.id = "fill.protect-absent-shmem",
		.group = PROBE_FILL,
		.title = "Absent pages of a memfd can be protected",
		.wanted = "protected",
		.consequence = "the first write to an empty page raises no message of protection",
		.run = try_absent_shmem,
	},
	{
		.id = "fill.protect-past-end",
		.group = PROBE_FILL,
		.title = "Protecting passes over what lies behind the end of the file",
		.wanted = "skipped",
		.known = { { PROBE_KERNEL(5, 19), "protected" } },
		.consequence = "nothing: a mark where no page is costs a page table at most",
		.run = try_past_end,
	},
	{
		.id = "fill.protect-zero-page",
		.group = PROBE_FILL,
		.title = "The zero page can be protected: its first write is told",
		.wanted = "told",
		.consequence = "the first write to a page that was only read raises no message",
		.run = try_zero_page,
	},
	{
		.id = "fill.unprotect-dontwake",
		.group = PROBE_FILL,
		.title = "Un-protecting with DONTWAKE leaves waking to UFFDIO_WAKE",
		.wanted = "asleep until UFFDIO_WAKE",
		.consequence = "nothing is lost: who is woken early finds his page",
		.run = try_unprotect_dontwake,
	},
};

const struct probe_family probe_family_fill_protect = PROBE_FAMILY(checks);
