/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Kernel accesses to protected pages: reads must be silent, writes must be one fault.
 *
 * A read that breaks copy-on-write to get a page of its own, or that clears the mark on its way,
 * would make a page dirty that nobody wrote, or clean that somebody will write. Each access is tried
 * of anonymous, shared and privately copied pages, exclusive ones and such as a child shares.
 */
#include "probe/accesses.h"
#include "probe/table.h"

#include <stdio.h>

static const struct setting {
	const char *name;
	enum lab_backing backing;
	bool has_child;
} settings[] = {
	{ "anonymous", LAB_ANON, false },
	{ "anonymous beside a child", LAB_ANON, true },
	{ "shared", LAB_SHMEM, false },
	{ "shared beside a child", LAB_SHMEM, true },
	{ "private copy", LAB_SHMEM_PRIVATE, false },
	{ "private copy beside a child", LAB_SHMEM_PRIVATE, true },
};

/* "silent, kept"; "1 fault, lifted"; "EIO, silent, kept". */
static void describe(char *text, size_t size, int result, unsigned int n_faults, bool is_kept)
{
	char faults[32] = "silent";

	if (n_faults)
		snprintf(faults, sizeof(faults), "%u fault%s", n_faults, n_faults == 1 ? "" : "s");
	snprintf(text, size, "%s%s%s, %s", result ? probe_errno(result) : "", result ? ", " : "",
		 faults, is_kept ? "kept" : "lifted");
}

static void try_setting(struct probe_run *run, const struct access *access,
			const struct setting *setting, char *ret_text, size_t size)
{
	struct lab_memory memory = lab_map(run, setting->backing, 1);
	uint64_t features = UFFD_FEATURE_PAGEFAULT_FLAG_WP;
	struct access_tools tools;
	unsigned int n_faults;
	pid_t child = 0;
	int uffd, result;

	access_prepare(run, access, &tools);
	if (setting->backing != LAB_ANON)
		features |= UFFD_FEATURE_WP_HUGETLBFS_SHMEM;
	uffd = lab_uffd_kernel(run, features);
	lab_fill(&memory, 0, 0x11);
	lab_register(run, uffd, &memory, UFFDIO_REGISTER_MODE_WP);
	probe_must(run,
		   lab_protect(uffd, memory.at, memory.length_bytes, UFFDIO_WRITEPROTECT_MODE_WP) ==
			   0,
		   "UFFDIO_WRITEPROTECT");
	if (setting->has_child)
		child = access_share(run);
	probe_must(run, lab_is_protected(run, memory.at), "protecting a page");

	n_faults = access_try(run, access, &tools, &memory, uffd, 0, &result);
	describe(ret_text, size, result, n_faults, lab_is_protected(run, memory.at));
	probe_step(run, "%s, %s: %s", access->name, setting->name, ret_text);
	if (child)
		access_unshare(run, child);
}

static void try_settings(struct probe_run *run, const struct access *access, size_t n_settings)
{
	char first[48] = "", text[48];
	size_t n_others = 0;

	for (size_t i = 0; i < n_settings; i++) {
		try_setting(run, access, &settings[i], text, sizeof(text));
		if (i == 0)
			memcpy(first, text, sizeof(first));
		if (!strcmp(first, text))
			continue;
		if (n_others++ == 0)
			probe_detail(run, "%s: %s; but %s: %s", settings[0].name, first,
				     settings[i].name, text);
	}
	if (n_others) {
		probe_answer(run, "mixed");
		return;
	}
	probe_detail(run,
		     "of anonymous, shared and privately copied pages, alone and beside a child");
	probe_answer(run, "%s", first);
}

#define TRY(name)                                                                          \
	static void try_##name(struct probe_run *run)                                      \
	{                                                                                  \
		try_settings(run, &access_##name, sizeof(settings) / sizeof(settings[0])); \
	}

TRY(vm_readv)
TRY(write)
TRY(direct_write)
TRY(vmsplice)
TRY(mem_read)
TRY(populate_read)
TRY(vm_writev)
TRY(read)
TRY(direct_read)
TRY(pin)
TRY(populate_write)
TRY(wake_op)
TRY(wake_op_private)
TRY(mem_write)

/* Of private memory it is a write, of shared memory a read. */
static void try_mlock(struct probe_run *run)
{
	char private[48], shared[48];

	try_setting(run, &access_mlock, &settings[0], private, sizeof(private));
	try_setting(run, &access_mlock, &settings[2], shared, sizeof(shared));
	probe_answer(run, "%s; %s", private, shared);
}

#define SILENT                                           \
	.group = PROBE_ACCESS, .wanted = "silent, kept", \
	.consequence = "a page that is only read counts as written: ufd saves it again, in vain"
#define ONE_FAULT                                                                              \
	.group = PROBE_ACCESS, .wanted = "1 fault, lifted",                                    \
	.consequence = "what the kernel writes there is no dirty page: ufd cannot see it, an " \
		       "image may miss it"

static const struct probe_check checks[] = {
	{ .id = "access.read-process-vm",
	  .title = "process_vm_readv of a protected page is silent and keeps the mark",
	  SILENT,
	  .run = try_vm_readv },
	{ .id = "access.read-copy",
	  .title = "write(2) from a protected page is silent and keeps the mark",
	  SILENT,
	  .run = try_write },
	{ .id = "access.read-direct-io",
	  .title = "An O_DIRECT write from a protected page is silent, keeps the mark",
	  SILENT,
	  .run = try_direct_write },
	{ .id = "access.read-vmsplice",
	  .title = "vmsplice of a protected page is silent and keeps the mark",
	  SILENT,
	  .run = try_vmsplice },
	{ .id = "access.read-proc-mem",
	  .title = "A read of /proc/self/mem is silent and keeps the mark",
	  SILENT,
	  .run = try_mem_read },
	{ .id = "access.read-populate",
	  .title = "MADV_POPULATE_READ of a protected page is silent, keeps the mark",
	  SILENT,
	  .run = try_populate_read },
	{ .id = "access.write-process-vm",
	  .title = "process_vm_writev to a protected page is exactly one fault",
	  ONE_FAULT,
	  .run = try_vm_writev },
	{ .id = "access.write-copy",
	  .title = "read(2) into a protected page is exactly one fault",
	  ONE_FAULT,
	  .run = try_read },
	{ .id = "access.write-direct-io",
	  .title = "An O_DIRECT read into a protected page is exactly one fault",
	  ONE_FAULT,
	  .run = try_direct_read },
	{ .id = "access.write-pin",
	  .group = PROBE_ACCESS,
	  .title = "A protected page that io_uring pins is exactly one fault",
	  .wanted = "1 fault, lifted",
	  .known = { { PROBE_KERNEL(6, 1), "EFAULT, silent, kept" },
		     { PROBE_KERNEL(6, 18), "1 fault, lifted" } },
	  .consequence = "a VMM cannot register buffers of io_uring in memory that the tracker wp "
			 "protects",
	  .run = try_pin },
	{ .id = "access.write-populate",
	  .title = "MADV_POPULATE_WRITE of a protected page is exactly one fault",
	  ONE_FAULT,
	  .run = try_populate_write },
	{ .id = "access.write-futex",
	  .title = "FUTEX_WAKE_OP on a protected page is exactly one fault",
	  ONE_FAULT,
	  .run = try_wake_op },
	{ .id = "access.write-futex-private",
	  .group = PROBE_ACCESS,
	  .title = "FUTEX_WAKE_OP of a futex of one process is exactly one fault",
	  .wanted = "1 fault, lifted",
	  .known = { { PROBE_KERNEL(6, 1), "EFAULT, silent, kept" } },
	  .consequence = "a VMM that uses such futexes inside of guest memory fails under the "
			 "tracker wp; with scan it works",
	  .run = try_wake_op_private },
	{ .id = "access.write-proc-mem",
	  .group = PROBE_ACCESS,
	  .title = "A write of /proc/self/mem to a protected page is exactly one fault",
	  .wanted = "1 fault, lifted",
	  .known = { { PROBE_KERNEL(6, 1), "EIO, silent, kept" } },
	  .consequence = "a debugger cannot write to pages that the tracker wp protects; with the "
			 "tracker scan it can",
	  .run = try_mem_write },
	{ .id = "access.mlock",
	  .group = PROBE_ACCESS,
	  .title = "mlock writes to private memory, and reads shared memory",
	  .wanted = "1 fault, lifted; silent, kept",
	  .consequence = "memory that is locked counts as written, or not, by its backing",
	  .run = try_mlock },
};

const struct probe_family probe_family_access = PROBE_FAMILY(checks);
