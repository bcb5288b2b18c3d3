/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who needs to be told of writes, and what that costs.
 *
 * A mapping whose writes somebody must hear of is mapped for reading first: each page takes one more
 * fault at its first write, and neighbours are no longer mapped along. A long-term pin would write
 * without any of that, so the kernel refuses it where a file system wants to hear; private mappings
 * tell nobody.
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "probe/accesses.h"
#include "probe/lab.h"
#include "probe/table.h"

#define N_PAGES 32 /* twice what the kernel maps around a fault */

static long faults_of_thread(void)
{
	struct rusage usage = {};

	getrusage(RUSAGE_THREAD, &usage);
	return usage.ru_minflt;
}

static long faults_of_reads(const struct lab_memory *memory)
{
	long before = faults_of_thread();

	for (size_t i = 0; i < N_PAGES; i++)
		(void)*(volatile uint8_t *)lab_page(memory, i);
	return faults_of_thread() - before;
}

static long faults_of_writes(const struct lab_memory *memory)
{
	long before = faults_of_thread();

	for (size_t i = 0; i < N_PAGES; i++)
		*(volatile uint8_t *)lab_page(memory, i) = 1;
	return faults_of_thread() - before;
}

/* A memfd whose pages are in the file and not in the page table. */
static struct lab_memory map_cached(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_SHMEM, N_PAGES);

	for (size_t i = 0; i < N_PAGES; i++)
		lab_fill_file(run, &memory, i, 1);
	return memory;
}

/* What reading them takes in an unregistered mapping; skips if neighbours do not come along. */
static long plain_reads(struct probe_run *run)
{
	struct lab_memory memory = map_cached(run);
	long n = faults_of_reads(&memory);

	probe_step(run, "unregistered: %d pages were read with %ld faults", N_PAGES, n);
	if (n > N_PAGES / 2)
		probe_skip(run, "this host maps no pages around a fault");
	return n;
}

static void say_fault_around(struct probe_run *run, long n_plain, long n_registered)
{
	probe_detail(run, "%d pages were read with %ld faults, and with %ld when registered",
		     N_PAGES, n_plain, n_registered);
	probe_answer(run, "%s", n_registered >= N_PAGES ? "off" : "on");
}

static void try_fault_around(struct probe_run *run, uint64_t mode)
{
	long n_plain = plain_reads(run);
	struct lab_memory memory = map_cached(run);
	int uffd = lab_uffd(run, 0);

	lab_register(run, uffd, &memory, mode);
	say_fault_around(run, n_plain, faults_of_reads(&memory));
}

static void try_fault_around_missing(struct probe_run *run)
{
	try_fault_around(run, UFFDIO_REGISTER_MODE_MISSING);
}

static void try_fault_around_wp(struct probe_run *run)
{
	try_fault_around(run, UFFDIO_REGISTER_MODE_WP);
}

static void try_fault_around_minor(struct probe_run *run)
{
	long n_plain = plain_reads(run);
	struct lab_memory memory = map_cached(run);
	int uffd = lab_uffd(run, 0);
	const struct lab_faults *faults;

	lab_register(run, uffd, &memory, UFFDIO_REGISTER_MODE_MINOR);
	faults = lab_serve(run, uffd, &memory, 0);
	faults_of_reads(&memory);
	say_fault_around(run, n_plain, __atomic_load_n(&faults->n_minor, __ATOMIC_RELAXED));
}

static void try_notify(struct probe_run *run)
{
	struct lab_memory plain = map_cached(run), tracked = map_cached(run);
	int uffd = lab_uffd(run, 0);
	long n_plain, n_tracked;

	lab_register(run, uffd, &tracked, UFFDIO_REGISTER_MODE_WP);
	faults_of_reads(&plain);
	faults_of_reads(&tracked);
	n_plain = faults_of_writes(&plain);
	n_tracked = faults_of_writes(&tracked);
	probe_detail(run,
		     "writes to %d pages that were read before took %ld faults, and %ld in a "
		     "registered range where no page is protected",
		     N_PAGES, n_plain, n_tracked);
	probe_answer(run, "%s", n_tracked >= n_plain + N_PAGES ? "one more fault" : "no fault");
}

/* ---- pins and forced writes ---- */

static void try_pin(struct probe_run *run, enum lab_backing backing)
{
	struct lab_memory memory = lab_map(run, backing, 1);
	struct access_tools tools;
	int r;

	lab_fill(&memory, 0, 1);
	access_prepare(run, &access_pin, &tools);
	r = access_pin.touch(&tools, memory.at);
	probe_answer(run, "%s", probe_errno(r));
}

#define TRY_PIN(name, backing)                            \
	static void try_pin_##name(struct probe_run *run) \
	{                                                 \
		try_pin(run, backing);                    \
	}

TRY_PIN(file, LAB_FILE)
TRY_PIN(file_private, LAB_FILE_PRIVATE)
TRY_PIN(shmem, LAB_SHMEM)
TRY_PIN(secret, LAB_SECRET)

/* A page of a shared file that this process may only read. */
static void try_pin_read_only(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_FILE, 1);
	struct access_tools tools;

	lab_fill_file(run, &memory, 0, 1);
	probe_must(run, mprotect(memory.at, memory.length_bytes, PROT_READ) == 0, "mprotect()");
	access_prepare(run, &access_pin, &tools);
	probe_answer(run, "%s", probe_errno(access_pin.touch(&tools, memory.at)));
}

/* A write by a debugger to a page that may only be read. */
static void try_force(struct probe_run *run, enum lab_backing backing)
{
	struct lab_memory memory = lab_map(run, backing, 1);
	struct access_tools tools;
	uint8_t byte = 0;
	int r;

	lab_fill_file(run, &memory, 0, 0x77);
	probe_must(run, mprotect(memory.at, memory.length_bytes, PROT_READ) == 0, "mprotect()");
	access_prepare(run, &access_mem_write, &tools);
	r = access_mem_write.touch(&tools, memory.at);
	probe_must(run, pread(memory.fd, &byte, 1, 0) == 1, "pread()");
	probe_detail(run, "the write to /proc/self/mem says %s; the file's byte is %#x",
		     probe_errno(r), byte);
	probe_answer(run, "%s%s", probe_errno(r), byte == 0x77 ? "" : ", file changed");
}

static void try_force_shared(struct probe_run *run)
{
	try_force(run, LAB_FILE);
}

static void try_force_private(struct probe_run *run)
{
	try_force(run, LAB_FILE_PRIVATE);
}

#define NOT_PAGED "nothing: ufd does not page such memory"

static const struct probe_check checks[] = {
	{
		.id = "trackable.fault-around",
		.group = PROBE_TRACKABLE,
		.title = "Cached neighbours are mapped along under missing mode",
		.wanted = "on",
		.consequence = "each cached page of a paged memfd takes a fault of its own",
		.run = try_fault_around_missing,
	},
	{
		.id = "trackable.fault-around-wp",
		.group = PROBE_TRACKABLE,
		.title = "Cached neighbours are mapped along under write-protect mode",
		.wanted = "on",
		.known = { { PROBE_KERNEL(5, 19), "off" } },
		.consequence = "ufd registers write-protect mode only when tracking starts",
		.run = try_fault_around_wp,
	},
	{
		.id = "trackable.fault-around-minor",
		.group = PROBE_TRACKABLE,
		.title = "Each cached page raises its own message under minor mode",
		.wanted = "off",
		.consequence = "pages would reach a guest without ufd's knowledge",
		.run = try_fault_around_minor,
	},
	{
		.id = "trackable.notify",
		.group = PROBE_TRACKABLE,
		.title = "A shared page that was read is written without a fault if not protected",
		.wanted = "no fault",
		.known = { { PROBE_KERNEL(5, 19), "one more fault" } },
		.consequence = "ufd registers write-protect mode only when tracking starts",
		.run = try_notify,
	},
	{
		.id = "trackable.pin-file",
		.group = PROBE_TRACKABLE,
		.title = "A shared disk file cannot be pinned for long: its writes must be told",
		.wanted = "EFAULT",
		.known = { { PROBE_KERNEL(5, 1), "EOPNOTSUPP" }, { PROBE_KERNEL(6, 5), "EFAULT" } },
		.consequence = NOT_PAGED,
		.run = try_pin_file,
	},
	{
		.id = "trackable.pin-file-private",
		.group = PROBE_TRACKABLE,
		.title = "A private mapping of a disk file can be pinned: nobody needs to be told",
		.wanted = "ok",
		.known = { { PROBE_KERNEL(5, 1), "EOPNOTSUPP" }, { PROBE_KERNEL(6, 5), "ok" } },
		.consequence = NOT_PAGED,
		.run = try_pin_file_private,
	},
	{
		.id = "trackable.pin-shmem",
		.group = PROBE_TRACKABLE,
		.title = "A shared memfd can be pinned for long",
		.wanted = "ok",
		.consequence = "guests on memfd cannot give buffers to io_uring or devices",
		.run = try_pin_shmem,
	},
	{
		.id = "trackable.pin-secret",
		.group = PROBE_TRACKABLE,
		.title = "memfd_secret cannot be pinned",
		.wanted = "EFAULT",
		.consequence = NOT_PAGED,
		.run = try_pin_secret,
	},
	{
		.id = "trackable.pin-read-only",
		.group = PROBE_TRACKABLE,
		.title = "A shared disk file that may only be read cannot be pinned for writing",
		.wanted = "EFAULT",
		.consequence = NOT_PAGED,
		.run = try_pin_read_only,
	},
	{
		.id = "trackable.force-shared",
		.group = PROBE_TRACKABLE,
		.title = "A forced write to a read-only shared file is refused",
		.wanted = "EIO",
		.consequence = NOT_PAGED,
		.run = try_force_shared,
	},
	{
		.id = "trackable.force-private",
		.group = PROBE_TRACKABLE,
		.title = "A forced write to a read-only private mapping leaves the file alone",
		.wanted = "ok",
		.consequence = "a debugger cannot set breakpoints, or changes the file",
		.run = try_force_private,
	},
};

const struct probe_family probe_family_trackable_notify = PROBE_FAMILY(checks);
