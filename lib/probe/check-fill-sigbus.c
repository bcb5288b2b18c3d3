/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* UFFD_FEATURE_SIGBUS: nobody is told and nobody waits; accesses fail instead. */
#include <signal.h>

#include "probe/accesses.h"
#include "probe/lab.h"
#include "probe/table.h"

#define MISSING UFFDIO_REGISTER_MODE_MISSING
#define WP	UFFDIO_REGISTER_MODE_WP

static void say_signal(struct probe_run *run, int uffd, int number)
{
	bool is_silent = lab_is_silent(run, uffd);

	probe_answer(run, "%s%s",
		     number == SIGBUS	 ? "SIGBUS"
		     : number == SIGSEGV ? "SIGSEGV"
					 : "no signal",
		     is_silent ? "" : " and a message");
}

static void try_missing(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_ANON, 1);
	int uffd = lab_uffd(run, UFFD_FEATURE_SIGBUS);

	lab_register(run, uffd, &memory, MISSING);
	say_signal(run, uffd, lab_signal_of_read(memory.at, NULL));
}

static void try_wp(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_SHMEM, 1);
	int uffd = lab_uffd(run, UFFD_FEATURE_SIGBUS), r;

	lab_fill(&memory, 0, 1);
	lab_register(run, uffd, &memory, WP);
	r = lab_protect(uffd, memory.at, memory.length_bytes, UFFDIO_WRITEPROTECT_MODE_WP);
	errno = -r;
	probe_must(run, r == 0, "UFFDIO_WRITEPROTECT");
	probe_must(run, lab_signal_of_read(memory.at, NULL) == 0, "reading a protected page");
	say_signal(run, uffd, lab_signal_of_write(memory.at, 2, NULL));
}

static void try_filled(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_ANON, 2);
	int uffd = lab_uffd(run, UFFD_FEATURE_SIGBUS), r;

	lab_register(run, uffd, &memory, MISSING);
	r = lab_copy_byte(uffd, &memory, 1, 1, 0);
	errno = -r;
	probe_must(run, r == 0, "UFFDIO_COPY");
	probe_answer(run, "%s", lab_signal_of_read(lab_page(&memory, 1), NULL) ? "SIGBUS" : "ok");
}

static void try_kernel(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_ANON, 1);
	int uffd = lab_uffd_kernel(run, UFFD_FEATURE_SIGBUS);
	struct access_tools tools;

	lab_register(run, uffd, &memory, MISSING);
	access_prepare(run, &access_write, &tools);
	probe_answer(run, "%s", probe_errno(access_write.touch(&tools, memory.at)));
}

#define UNUSED "nothing: ufd refuses a userfaultfd that was made with this feature"

static const struct probe_check checks[] = {
	{
		.id = "fill.sigbus-missing",
		.group = PROBE_FILL,
		.title = "With the SIGBUS feature an absent page raises the signal, not a message",
		.wanted = "SIGBUS",
		.consequence = UNUSED,
		.run = try_missing,
	},
	{
		.id = "fill.sigbus-wp",
		.group = PROBE_FILL,
		.title = "With the SIGBUS feature a write to a protected page raises the signal",
		.wanted = "SIGBUS",
		.consequence = UNUSED,
		.run = try_wp,
	},
	{
		.id = "fill.sigbus-filled",
		.group = PROBE_FILL,
		.title = "With the SIGBUS feature a page that was filled is read as ever",
		.wanted = "ok",
		.consequence = UNUSED,
		.run = try_filled,
	},
	{
		.id = "fill.sigbus-kernel",
		.group = PROBE_FILL,
		.title = "With the SIGBUS feature a system call at an absent page fails",
		.wanted = "EFAULT",
		.consequence = UNUSED,
		.run = try_kernel,
	},
};

const struct probe_family probe_family_fill_sigbus = PROBE_FAMILY(checks);
