/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Kernel accesses to absent pages: which of them send a message and wait, and which fail. */
#include "probe/accesses.h"
#include "probe/table.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_ACCESSES 6

/* "message", "silent", "EIO, silent". */
static void try_absent(struct probe_run *run, const struct access *access, enum lab_backing backing,
		       char *ret_text, size_t size)
{
	struct lab_memory memory = lab_map(run, backing, 1);
	int uffd = lab_uffd_kernel(run, 0), result;
	struct access_tools tools;
	unsigned int n_faults;

	access_prepare(run, access, &tools);
	lab_register(run, uffd, &memory, UFFDIO_REGISTER_MODE_MISSING);
	n_faults = access_try(run, access, &tools, &memory, uffd, 0x22, &result);
	snprintf(ret_text, size, "%s%s%s", result ? probe_errno(result) : "", result ? ", " : "",
		 n_faults ? "message" : "silent");
	probe_step(run, "%s, %s: %s (%u messages)", access->name, lab_backing_name(backing),
		   ret_text, n_faults);
}

/* All of them say the same, or the detail tells which does not. */
static void try_all(struct probe_run *run, const struct access *const accesses[MAX_ACCESSES])
{
	static const enum lab_backing backings[] = { LAB_ANON, LAB_SHMEM };
	char first[48] = "", text[48], names[128] = "";
	bool is_mixed = false;

	for (size_t i = 0; i < MAX_ACCESSES && accesses[i]; i++) {
		snprintf(names + strlen(names), sizeof(names) - strlen(names), "%s%s",
			 i ? ", " : "", accesses[i]->name);
		for (size_t j = 0; j < 2; j++) {
			try_absent(run, accesses[i], backings[j], text, sizeof(text));
			if (!first[0])
				memcpy(first, text, sizeof(first));
			if (!strcmp(first, text) || is_mixed)
				continue;
			is_mixed = true;
			probe_detail(run, "%s: %s; but %s (%s): %s", accesses[0]->name, first,
				     accesses[i]->name, lab_backing_name(backings[j]), text);
		}
	}
	if (!is_mixed)
		probe_detail(run, "%s, of anonymous and of shared memory", names);
	probe_answer(run, "%s", is_mixed ? "mixed" : first);
}

static void try_copies(struct probe_run *run)
{
	try_all(run, (const struct access *[MAX_ACCESSES]){ &access_write, &access_read,
							    &access_vmsplice });
}

static void try_process_vm(struct probe_run *run)
{
	try_all(run, (const struct access *[MAX_ACCESSES]){ &access_vm_readv, &access_vm_writev });
}

static void try_direct(struct probe_run *run)
{
	try_all(run,
		(const struct access *[MAX_ACCESSES]){ &access_direct_write, &access_direct_read });
}

static void try_pin(struct probe_run *run)
{
	try_all(run, (const struct access *[MAX_ACCESSES]){ &access_pin });
}

static void try_populate(struct probe_run *run)
{
	try_all(run, (const struct access *[MAX_ACCESSES]){
			     &access_populate_read, &access_populate_write, &access_mlock });
}

static void try_looks(struct probe_run *run)
{
	try_all(run, (const struct access *[MAX_ACCESSES]){ &access_mincore, &access_willneed });
}

static void try_futex(struct probe_run *run)
{
	try_all(run, (const struct access *[MAX_ACCESSES]){ &access_wake_op_private });
}

static void try_mem(struct probe_run *run)
{
	try_all(run, (const struct access *[MAX_ACCESSES]){ &access_mem_read, &access_mem_write });
}

/* ---- by ptrace ------------------------------------------------------------------------------- */

/* Who may not trace at all: no errno that a word of memory would give. */
#define NOT_ALLOWED 255

/* In a child, which traces us for a moment. */
static int peek_parent(void *at)
{
	pid_t parent = getppid();
	int status, error;

	if (ptrace(PTRACE_SEIZE, parent, NULL, NULL) < 0)
		return NOT_ALLOWED;
	if (ptrace(PTRACE_INTERRUPT, parent, NULL, NULL) < 0 ||
	    waitpid(parent, &status, __WALL) != parent)
		return NOT_ALLOWED;
	errno = 0;
	ptrace(PTRACE_PEEKDATA, parent, at, NULL);
	error = errno;
	ptrace(PTRACE_DETACH, parent, NULL, NULL);
	return error;
}

static void try_ptrace(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_ANON, 1);
	int uffd = lab_uffd_kernel(run, 0), error;

	lab_register(run, uffd, &memory, UFFDIO_REGISTER_MODE_MISSING);
	prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
	error = lab_fork(run, peek_parent, memory.at);
	if (error == NOT_ALLOWED)
		probe_skip(run, "our child may not trace us");
	probe_must(run, error >= 0, "tracing us");
	probe_answer(run, "%s%s%s", error ? probe_errno(error) : "", error ? ", " : "",
		     lab_is_silent(run, uffd) ? "silent" : "message");
	probe_detail(run, "PTRACE_PEEKDATA by a child of ours");
}

/* ---- a uffd of user mode only ---------------------------------------------------------------- */

static int user_mode_uffd(struct probe_run *run)
{
	struct uffdio_api api = { .api = UFFD_API };
	int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);

	if (uffd < 0)
		probe_skip(run, "the kernel refuses a uffd of user mode only: %s", strerror(errno));
	probe_must(run, ioctl(uffd, UFFDIO_API, &api) == 0, "UFFDIO_API");
	return uffd;
}

static void try_user_mode(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_ANON, 1);
	int uffd = user_mode_uffd(run), result;
	struct access_tools tools;
	unsigned int n_faults;

	access_prepare(run, &access_write, &tools);
	lab_register(run, uffd, &memory, UFFDIO_REGISTER_MODE_MISSING);
	n_faults = access_try(run, &access_write, &tools, &memory, uffd, 0x33, &result);
	probe_answer(run, "%s, %s", probe_errno(result), n_faults ? "message" : "silent");
	probe_detail(run, "write(2) from an absent page: %s, %u messages", probe_errno(result),
		     n_faults);
}

#define MESSAGE(access)                                                                      \
	.group = PROBE_ACCESS, .wanted = "message",                                          \
	.consequence = access " does not wait for absent pages: a VMM that does this reads " \
			      "zeros or fails"

static const struct probe_check checks[] = {
	{ .id = "access.missing-copy",
	  .title = "read(2), write(2) and vmsplice wait for an absent page",
	  MESSAGE("copying"),
	  .is_needed = true,
	  .run = try_copies },
	{ .id = "access.missing-process-vm",
	  .title = "process_vm_readv and process_vm_writev wait for an absent page",
	  MESSAGE("process_vm_readv"),
	  .run = try_process_vm },
	{ .id = "access.missing-direct-io",
	  .title = "O_DIRECT reads and writes wait for an absent page",
	  MESSAGE("a disk"),
	  .run = try_direct },
	{ .id = "access.missing-pin",
	  .group = PROBE_ACCESS,
	  .title = "Pinning a buffer of io_uring waits for an absent page",
	  .wanted = "message",
	  .known = { { PROBE_KERNEL(6, 1), "EFAULT, silent" }, { PROBE_KERNEL(6, 18), "message" } },
	  .consequence = "a VMM cannot register buffers of io_uring in absent memory: let it do so "
			 "before it attaches",
	  .run = try_pin },
	{ .id = "access.missing-populate",
	  .title = "MADV_POPULATE_READ, _WRITE and mlock wait for an absent page",
	  MESSAGE("populating"),
	  .run = try_populate },
	{ .id = "access.missing-look",
	  .group = PROBE_ACCESS,
	  .title = "mincore and MADV_WILLNEED do not ask for an absent page",
	  .wanted = "silent",
	  .consequence = "whoever looks at absent pages makes them present; nothing is lost",
	  .run = try_looks },
	{ .id = "access.missing-futex",
	  .group = PROBE_ACCESS,
	  .title = "FUTEX_WAKE_OP of a futex of one process waits for an absent page",
	  .wanted = "message",
	  .known = { { PROBE_KERNEL(6, 1), "EFAULT, silent" } },
	  .consequence = "a VMM that uses such futexes inside of absent guest memory fails",
	  .run = try_futex },
	{ .id = "access.missing-proc-mem",
	  .group = PROBE_ACCESS,
	  .title = "/proc/PID/mem waits for an absent page",
	  .wanted = "message",
	  .known = { { PROBE_KERNEL(6, 1), "EIO, silent" } },
	  .consequence = "debuggers fail at absent pages, but do not hang; ufd itself never "
			 "copies this way",
	  .run = try_mem },
	{ .id = "access.missing-ptrace",
	  .group = PROBE_ACCESS,
	  .title = "ptrace waits for an absent page",
	  .wanted = "message",
	  .known = { { PROBE_KERNEL(6, 1), "EIO, silent" } },
	  .consequence = "gdb sees \"cannot access memory\" at absent pages of a guest, and does "
			 "not hang",
	  .run = try_ptrace },
	{ .id = "access.user-mode-only",
	  .group = PROBE_ACCESS,
	  .title = "With a uffd of user mode only, kernel accesses fail with EFAULT",
	  .wanted = "EFAULT, silent",
	  .consequence = "ufd takes no such uffd for a guest, whatever it does",
	  .run = try_user_mode },
};

const struct probe_family probe_family_missing = PROBE_FAMILY(checks);
