/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A guest of KVM uses our memory through page tables of its own. They must follow ours: its faults
 * arrive as ours do, and what we protect, punch or write back takes effect in them at once.
 */
#include "probe/lab-kvm.h"
#include "probe/table.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define N_PAGES	   64
#define N_ROUNDS   4
#define WORD(byte) (UINT64_C(0x0101010101010101) * (byte))

static const char *exit_name(intptr_t how)
{
	static const char *const names[] = {
		[LAB_EXIT_HALT] = "runs on",	 [LAB_EXIT_MMIO] = "MMIO",
		[LAB_EXIT_EFAULT] = "EFAULT",	 [LAB_EXIT_SIGNAL] = "EINTR",
		[LAB_EXIT_OTHER] = "other exit",
	};

	return names[how];
}

/* The guest halted, and thus did all it was told to. */
static void must_halt(struct probe_run *run, struct lab_thread *vcpu)
{
	intptr_t how = lab_join(run, vcpu);

	if (how != LAB_EXIT_HALT)
		probe_break(run, "the guest ended otherwise than by a halt: %s", exit_name(how));
}

static uint64_t first_word(const struct lab_memory *memory, size_t i)
{
	return *(volatile uint64_t *)lab_page(memory, i);
}

/* ---- faults ---------------------------------------------------------------------------------- */

/* One access that must fault with @flags. Return: NULL, or what was amiss. */
static const char *fault_amiss(struct probe_run *run, int uffd, const struct lab_thread *vcpu,
			       uint64_t flags)
{
	struct uffd_msg message = lab_fault(run, uffd);

	if (message.arg.pagefault.flags != flags)
		return "wrong flags";
	if (message.arg.pagefault.feat.ptid != (uint32_t)lab_thread_id(vcpu))
		return "not the vCPU's thread";
	return NULL;
}

static void try_missing(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_SHMEM, N_PAGES);
	int uffd = lab_uffd_kernel(run, UFFD_FEATURE_THREAD_ID);
	struct lab_vm *vm = lab_vm_new(run, &memory);
	struct lab_thread *vcpu;
	const char *amiss;

	lab_register(run, uffd, &memory, UFFDIO_REGISTER_MODE_MISSING);
	vcpu = lab_vm_load(run, vm, 3, 1, 1);
	amiss = fault_amiss(run, uffd, vcpu, 0);
	lab_copy_byte(uffd, &memory, 3, 0x5a, 0);
	must_halt(run, vcpu);
	if (!amiss && lab_vm_loaded(vm, 0) != WORD(0x5a))
		amiss = "wrong data";

	vcpu = lab_vm_store(run, vm, 4, 1, 1, WORD(0x77));
	if (!amiss)
		amiss = fault_amiss(run, uffd, vcpu, UFFD_PAGEFAULT_FLAG_WRITE);
	lab_copy_byte(uffd, &memory, 4, 0, 0);
	must_halt(run, vcpu);
	if (!amiss && first_word(&memory, 4) != WORD(0x77))
		amiss = "store lost";
	probe_answer(run, "%s", amiss ?: "served");
	probe_detail(run, "a load and a store of a guest, by the thread of its vCPU: %s",
		     amiss ?: "it goes on with what COPY gave it");
}

static void try_minor(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_SHMEM, N_PAGES);
	int uffd = lab_uffd_kernel(run, UFFD_FEATURE_THREAD_ID | UFFD_FEATURE_MINOR_SHMEM);
	struct lab_vm *vm = lab_vm_new(run, &memory);
	struct lab_thread *vcpu;
	const char *amiss;

	lab_register(run, uffd, &memory, UFFDIO_REGISTER_MODE_MINOR);
	lab_fill_file(run, &memory, 3, 0x5a);
	vcpu = lab_vm_load(run, vm, 3, 1, 1);
	amiss = fault_amiss(run, uffd, vcpu, UFFD_PAGEFAULT_FLAG_MINOR);
	lab_continue(uffd, lab_page(&memory, 3), memory.page_bytes, 0, NULL);
	must_halt(run, vcpu);
	if (!amiss && lab_vm_loaded(vm, 0) != WORD(0x5a))
		amiss = "wrong data";
	probe_answer(run, "%s", amiss ?: "served");
}

static void try_punched(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_SHMEM, N_PAGES);
	int uffd = lab_uffd_kernel(run, 0);
	struct lab_vm *vm = lab_vm_new(run, &memory);
	struct lab_thread *vcpu;
	struct uffd_msg message;
	bool is_fetched;

	lab_fill(&memory, 3, 0x11);
	lab_register(run, uffd, &memory, UFFDIO_REGISTER_MODE_MISSING);
	must_halt(run, lab_vm_store(run, vm, 3, 1, 1, WORD(0x22)));
	probe_must(run,
		   fallocate(memory.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			     (off_t)(3 * memory.page_bytes), (off_t)memory.page_bytes) == 0,
		   "punching a hole");
	vcpu = lab_vm_load(run, vm, 3, 1, 1);
	is_fetched = lab_raised(run, uffd, vcpu, &message);
	if (is_fetched)
		lab_copy_byte(uffd, &memory, 3, 0x33, 0);
	must_halt(run, vcpu);
	is_fetched = is_fetched && lab_vm_loaded(vm, 0) == WORD(0x33);
	probe_answer(run, "%s", is_fetched ? "fetched anew" : "stale");
	probe_detail(run, "after the hole the guest reads %#llx",
		     (unsigned long long)lab_vm_loaded(vm, 0));
}

/* ---- protection ------------------------------------------------------------------------------ */

/* The guest uses a page, then we protect it: its next store must wait. */
static bool is_caught(struct probe_run *run, int uffd, const struct lab_memory *memory,
		      struct lab_vm *vm, uint64_t value)
{
	struct uffd_msg message;
	struct lab_thread *vcpu;
	bool is_frozen;

	must_halt(run, lab_vm_store(run, vm, 3, 1, 1, value));
	probe_must(run,
		   lab_protect(uffd, memory->at, memory->length_bytes,
			       UFFDIO_WRITEPROTECT_MODE_WP) == 0,
		   "UFFDIO_WRITEPROTECT");
	vcpu = lab_vm_store(run, vm, 3, 1, 1, value + 1);
	if (!lab_raised(run, uffd, vcpu, &message))
		return false;
	is_frozen = first_word(memory, 3) == value;
	lab_protect(uffd, memory->at, memory->length_bytes, 0);
	must_halt(run, vcpu);
	return is_frozen && message.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP &&
	       first_word(memory, 3) == value + 1;
}

static void try_protected(struct probe_run *run)
{
	static const enum lab_backing backings[] = { LAB_ANON, LAB_SHMEM };
	unsigned int n_caught = 0;

	for (size_t i = 0; i < 2; i++) {
		struct lab_memory memory = lab_map(run, backings[i], N_PAGES);
		int uffd = lab_uffd_kernel(run, UFFD_FEATURE_PAGEFAULT_FLAG_WP |
							UFFD_FEATURE_WP_HUGETLBFS_SHMEM);
		struct lab_vm *vm = lab_vm_new(run, &memory);

		lab_fill(&memory, 3, 0);
		lab_register(run, uffd, &memory, UFFDIO_REGISTER_MODE_WP);
		for (uint64_t round = 0; round < N_ROUNDS; round++)
			n_caught += is_caught(run, uffd, &memory, vm, 100 * round);
	}
	probe_answer(run, "%s", n_caught == 2 * N_ROUNDS ? "caught" : "missed");
	probe_detail(run, "%u of %u stores of a guest to a page just protected were caught",
		     n_caught, 2 * N_ROUNDS);
}

/* In each round the guest writes to other pages; a scan must report these and no others. */
static const char *round_amiss(struct probe_run *run, const struct lab_memory *memory,
			       struct lab_vm *vm, size_t round)
{
	size_t step = round + 1;
	int64_t n;

	must_halt(run, lab_vm_store(run, vm, 0, N_PAGES, step, WORD(0x10 + round)));
	n = lab_scan(run, memory->at, memory->length_bytes,
		     PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC);
	probe_step(run, "round %zu: %zu pages written, %lld reported", round,
		   (N_PAGES + step - 1) / step, (long long)n);
	for (size_t i = 0; i < N_PAGES; i += step)
		if (first_word(memory, i) != WORD(0x10 + round))
			return "store lost";
	return n == (int64_t)((N_PAGES + step - 1) / step) ? NULL : "miscounted";
}

static struct lab_vm *track(struct probe_run *run, const struct lab_memory *memory)
{
	int uffd = lab_uffd_kernel(run, UFFD_FEATURE_WP_ASYNC);

	for (size_t i = 0; i < N_PAGES; i++)
		lab_fill(memory, i, 0);
	lab_register(run, uffd, memory, UFFDIO_REGISTER_MODE_WP);
	probe_must(run,
		   lab_scan(run, memory->at, memory->length_bytes,
			    PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC) >= 0,
		   "PAGEMAP_SCAN");
	return lab_vm_new(run, memory);
}

static void try_scanned(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_SHMEM, N_PAGES);
	struct lab_vm *vm = track(run, &memory);
	const char *amiss = NULL;

	for (size_t round = 0; round < N_ROUNDS && !amiss; round++)
		amiss = round_amiss(run, &memory, vm, round);
	probe_answer(run, "%s", amiss ?: "none lost");
}

/* ---- a file on a disk ------------------------------------------------------------------------ */

/* Is on the disk what the memory holds? Asked past the page cache. */
static const char *disk_amiss(struct probe_run *run, const struct lab_memory *memory, int disk)
{
	static uint8_t bytes[N_PAGES * 4096] __attribute__((aligned(4096)));
	ssize_t n = pread(disk, bytes, sizeof(bytes), 0);

	probe_must(run, n == (ssize_t)sizeof(bytes), "an O_DIRECT read of the disk");
	return memcmp(bytes, memory->at, sizeof(bytes)) ? "not on the disk" : NULL;
}

static void try_file(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_FILE, N_PAGES);
	struct lab_vm *vm = track(run, &memory);
	const char *amiss = NULL;
	int disk = fcntl(memory.fd, F_DUPFD_CLOEXEC, 0);

	if (disk < 0 || fcntl(disk, F_SETFL, O_DIRECT) < 0)
		probe_skip(run, "the disk's file system has no O_DIRECT: %s", strerror(errno));
	for (size_t round = 0; round < N_ROUNDS && !amiss; round++) {
		amiss = round_amiss(run, &memory, vm, round);
		probe_must(run, msync(memory.at, memory.length_bytes, MS_SYNC) == 0, "msync");
		if (!amiss)
			amiss = disk_amiss(run, &memory, disk);
	}
	probe_answer(run, "%s", amiss ?: "none lost");
	probe_detail(run,
		     "%u rounds of stores by a guest, a scan, msync and a look at the disk: %s",
		     N_ROUNDS, amiss ?: "each as it should be");
}

/* ---- what does not go well ------------------------------------------------------------------- */

/* Messages after which a thread goes round in circles, rather than once more. */
#define N_MANY 32
/* Silence after which it sleeps on. */
#define SILENCE_MS 100

static void ignore(int number)
{
}

static void try_signal(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_SHMEM, N_PAGES);
	int uffd = lab_uffd_kernel(run, 0);
	struct lab_vm *vm = lab_vm_new(run, &memory);
	struct sigaction action = { .sa_handler = ignore };
	struct lab_thread *vcpu;
	struct uffd_msg message;
	unsigned int n = 0;

	lab_register(run, uffd, &memory, UFFDIO_REGISTER_MODE_MISSING);
	sigaction(SIGUSR1, &action, NULL);
	vcpu = lab_vm_load(run, vm, 3, 1, 1);
	lab_fault(run, uffd);
	probe_must(run, syscall(SYS_tgkill, getpid(), lab_thread_id(vcpu), SIGUSR1) == 0,
		   "a signal");
	while (n < N_MANY && !lab_ended(vcpu, 0) && lab_message(run, uffd, SILENCE_MS, &message))
		n++;
	if (lab_ended(vcpu, 0)) {
		probe_answer(run, "%s", exit_name(lab_join(run, vcpu)));
		return;
	}
	probe_answer(run, "stays");
	probe_detail(run, "%u more messages of the same fault came, and KVM_RUN did not return", n);
	lab_copy_byte(uffd, &memory, 3, 0, 0);
}

/* A page that cannot be had: the page tables forbid it. */
static void try_host_fault(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_ANON, N_PAGES);
	struct lab_vm *vm = lab_vm_new(run, &memory);

	probe_must(run, mprotect(lab_page(&memory, 3), memory.page_bytes, PROT_NONE) == 0,
		   "mprotect");
	probe_answer(run, "%s", exit_name(lab_join(run, lab_vm_load(run, vm, 3, 1, 1))));
}

#define KVM .group = PROBE_MAPPER

static const struct probe_check checks[] = {
	{ .id = "mapper.kvm-missing",
	  KVM,
	  .title = "A guest's missing faults arrive with its vCPU's thread, and it goes on",
	  .wanted = "served",
	  .is_needed = true,
	  .consequence = "guests of KVM cannot be paged on this host",
	  .run = try_missing },
	{ .id = "mapper.kvm-minor",
	  KVM,
	  .title = "A guest's minor faults arrive, and it goes on with the file's data",
	  .wanted = "served",
	  .consequence = "guests of KVM cannot be paged from a file's page cache",
	  .run = try_minor },
	{ .id = "mapper.kvm-punched",
	  KVM,
	  .title = "A page of which a hole was punched is fetched anew by the guest",
	  .wanted = "fetched anew",
	  .consequence = "guests read discarded pages; do not use balloons on this host",
	  .run = try_punched },
	{ .id = "mapper.kvm-protected",
	  KVM,
	  .title = "Each store of a guest to a page just protected is caught",
	  .wanted = "caught",
	  .consequence = "the tracker wp loses writes of guests on this host",
	  .remedy = "track with scan, if mapper.kvm-scanned is ok",
	  .run = try_protected },
	{ .id = "mapper.kvm-scanned",
	  KVM,
	  .title = "Scans report each page that a guest wrote, and no other",
	  .wanted = "none lost",
	  .consequence = "the tracker scan loses writes of guests on this host",
	  .run = try_scanned },
	{ .id = "mapper.kvm-file",
	  KVM,
	  .title = "On a disk file, msync and scans lose no page that a guest wrote",
	  .wanted = "none lost",
	  .consequence = "guest memory on a disk file loses writes on this host",
	  .run = try_file },
	{ .id = "mapper.kvm-signal",
	  KVM,
	  .title = "A signal makes KVM_RUN return from a fault that waits",
	  .wanted = "EINTR",
	  .known = { { PROBE_KERNEL(6, 1), "stays" } },
	  .consequence =
		  "a guest cannot be paused while one of its pages is on its way; ufd drops the "
		  "duplicates",
	  .run = try_signal },
	{ .id = "mapper.kvm-host-fault",
	  KVM,
	  .title = "KVM_RUN says EFAULT for a page that cannot be had",
	  .wanted = "EFAULT",
	  .known = { { PROBE_KERNEL(6, 1), "MMIO" } },
	  .consequence =
		  "a guest whose page is poisoned reads what a device's register would hold, "
		  "instead of being stopped",
	  .run = try_host_fault },
};

const struct probe_family probe_family_kvm = PROBE_FAMILY(checks);
