/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which memory can be dirty-tracked without a message: WP_ASYNC with write protection as the only
 * mode opens every ordinary mapping that may be written. One row a backing: armed, one page written,
 * scanned. Only then is the answer "tracked".
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "probe/lab.h"
#include "probe/table.h"

#define WP UFFDIO_REGISTER_MODE_WP

/* Pages of the memory's own size that a scan reports. */
static int64_t count_written(struct probe_run *run, const struct lab_memory *memory, uint8_t *at,
			     size_t n_pages, uint64_t flags)
{
	size_t base_bytes = (size_t)sysconf(_SC_PAGESIZE);
	int64_t n = lab_scan(run, at, n_pages * memory->page_bytes, flags | PM_SCAN_CHECK_WPASYNC);

	errno = n < 0 ? (int)-n : 0;
	probe_must(run, n >= 0, "PAGEMAP_SCAN");
	return n / (int64_t)(memory->page_bytes / base_bytes);
}

/* Registered and armed, or the answer says why not. */
static bool arm(struct probe_run *run, const struct lab_memory *memory, int uffd)
{
	int r = lab_try_register(uffd, memory->at, memory->length_bytes, WP, NULL);

	if (r < 0) {
		probe_answer(run, "%s", probe_errno(r));
		return false;
	}
	probe_step(run, "armed: %lld pages were written before",
		   (long long)count_written(run, memory, memory->at,
					    memory->length_bytes / memory->page_bytes,
					    PM_SCAN_WP_MATCHING));
	return true;
}

static void try_tracking(struct probe_run *run, enum lab_backing backing)
{
	struct lab_memory memory = lab_map(run, backing, 3);
	int uffd = lab_uffd(run, UFFD_FEATURE_WP_ASYNC);
	int64_t n_before, n_written, n_others;

	for (size_t i = 0; i < 3; i++)
		lab_fill(&memory, i, 1);
	if (!arm(run, &memory, uffd))
		return;
	n_before = count_written(run, &memory, memory.at, 3, 0);
	*lab_page(&memory, 1) = 2;
	n_written = count_written(run, &memory, lab_page(&memory, 1), 1, 0);
	n_others = count_written(run, &memory, memory.at, 3, 0) - n_written;
	probe_detail(run,
		     "of 3 armed pages one was written; reported: %lld before, then it %s, and "
		     "%lld others",
		     (long long)n_before, n_written ? "was" : "was not", (long long)n_others);
	if (n_before || n_others)
		probe_answer(run, "too many");
	else
		probe_answer(run, n_written ? "tracked" : "missed");
}

#define TRY_TRACKING(name, backing)                   \
	static void try_##name(struct probe_run *run) \
	{                                             \
		try_tracking(run, backing);           \
	}

TRY_TRACKING(anon, LAB_ANON)
TRY_TRACKING(anon_shared, LAB_ANON_SHARED)
TRY_TRACKING(shmem, LAB_SHMEM)
TRY_TRACKING(shmem_private, LAB_SHMEM_PRIVATE)
TRY_TRACKING(hugetlb, LAB_HUGETLB)
TRY_TRACKING(hugetlb_private, LAB_HUGETLB_PRIVATE)
TRY_TRACKING(sysv, LAB_SYSV)
TRY_TRACKING(file, LAB_FILE)
TRY_TRACKING(file_private, LAB_FILE_PRIVATE)
TRY_TRACKING(secret, LAB_SECRET)

/* Writing a page back cleans it for its file; for a tracker it stays what it was. */
static void try_writeback(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_FILE, 3);
	int uffd = lab_uffd(run, UFFD_FEATURE_WP_ASYNC);
	int64_t n_first, n_clean, n_second;

	for (size_t i = 0; i < 3; i++)
		lab_fill(&memory, i, 1);
	if (!arm(run, &memory, uffd))
		return;
	*lab_page(&memory, 1) = 2;
	probe_must(run, msync(memory.at, memory.length_bytes, MS_SYNC) == 0, "msync()");
	n_first = count_written(run, &memory, memory.at, 3, PM_SCAN_WP_MATCHING);
	probe_must(run, msync(memory.at, memory.length_bytes, MS_SYNC) == 0, "msync()");
	n_clean = count_written(run, &memory, memory.at, 3, 0);
	*lab_page(&memory, 0) = 3;
	*lab_page(&memory, 1) = 3;
	n_second = count_written(run, &memory, memory.at, 3, 0);
	probe_detail(run,
		     "one page written and written back: %lld reported; written back once "
		     "more: %lld; two written: %lld",
		     (long long)n_first, (long long)n_clean, (long long)n_second);
	probe_answer(run, n_first == 1 && n_clean == 0 && n_second == 2 ? "exact" : "inexact");
}

/* What is written privately is tracked, and the file keeps its bytes. */
static void try_private(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_FILE_PRIVATE, 2);
	int uffd = lab_uffd(run, UFFD_FEATURE_WP_ASYNC);
	uint8_t byte = 0;
	int64_t n;

	lab_fill_file(run, &memory, 0, 1);
	lab_fill_file(run, &memory, 1, 1);
	(void)*(volatile uint8_t *)lab_page(&memory, 1);
	if (!arm(run, &memory, uffd))
		return;
	*lab_page(&memory, 1) = 2;
	n = count_written(run, &memory, memory.at, 2, 0);
	probe_must(run, pread(memory.fd, &byte, 1, (off_t)memory.page_bytes) == 1, "pread()");
	probe_detail(run, "%lld pages were reported as written; the file holds %u", (long long)n,
		     byte);
	probe_answer(run, "%s, file %s", n == 1 ? "tracked" : "missed",
		     byte == 1 ? "unchanged" : "changed");
}

/* The mode that opens ordinary mappings does so alone. */
static void try_together(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_FILE, 2);
	int uffd = lab_uffd(run, UFFD_FEATURE_WP_ASYNC);

	probe_answer(run, "%s",
		     probe_errno(lab_try_register(uffd, memory.at, memory.length_bytes,
						  WP | UFFDIO_REGISTER_MODE_MISSING, NULL)));
}

/* Not even this mode is for who may not write. */
static void try_read_only(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_SHMEM, 2);
	int uffd = lab_uffd(run, UFFD_FEATURE_WP_ASYNC);
	void *at;

	probe_must(run, fcntl(memory.fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE) == 0,
		   "F_SEAL_FUTURE_WRITE");
	at = mmap(memory.at, memory.length_bytes, PROT_READ, MAP_SHARED | MAP_FIXED, memory.fd, 0);
	probe_must(run, at == memory.at, "mmap() for reading");
	probe_answer(run, "%s",
		     probe_errno(lab_try_register(uffd, memory.at, memory.length_bytes, WP, NULL)));
}

#define UNTRACKED                                                                           \
	"ufd cannot track such memory with track=scan; track=wp asks for a message a page " \
	"instead"
#define ELSEWHERE "nothing: ufd does not page such memory, and tracks only what it pages"

static const struct probe_check checks[] = {
	{
		.id = "trackable.async-anon",
		.group = PROBE_TRACKABLE,
		.title = "Writes to anonymous memory are tracked without messages",
		.wanted = "tracked",
		.consequence = UNTRACKED,
		.run = try_anon,
	},
	{
		.id = "trackable.async-anon-shared",
		.group = PROBE_TRACKABLE,
		.title = "Writes to shared anonymous memory are tracked without messages",
		.wanted = "tracked",
		.consequence = UNTRACKED,
		.run = try_anon_shared,
	},
	{
		.id = "trackable.async-shmem",
		.group = PROBE_TRACKABLE,
		.title = "Writes to a shared memfd are tracked without messages",
		.wanted = "tracked",
		.consequence = UNTRACKED,
		.run = try_shmem,
	},
	{
		.id = "trackable.async-shmem-private",
		.group = PROBE_TRACKABLE,
		.title = "Writes to a private mapping of a memfd are tracked without messages",
		.wanted = "tracked",
		.consequence = UNTRACKED,
		.run = try_shmem_private,
	},
	{
		.id = "trackable.async-hugetlb",
		.group = PROBE_TRACKABLE,
		.title = "Writes to shared huge pages are tracked without messages",
		.wanted = "tracked",
		.consequence = UNTRACKED,
		.run = try_hugetlb,
	},
	{
		.id = "trackable.async-hugetlb-private",
		.group = PROBE_TRACKABLE,
		.title = "Writes to private huge pages are tracked without messages",
		.wanted = "tracked",
		.consequence = UNTRACKED,
		.run = try_hugetlb_private,
	},
	{
		.id = "trackable.async-sysv",
		.group = PROBE_TRACKABLE,
		.title = "Writes to SysV shared memory are tracked without messages",
		.wanted = "tracked",
		.consequence = ELSEWHERE,
		.run = try_sysv,
	},
	{
		.id = "trackable.async-file",
		.group = PROBE_TRACKABLE,
		.title = "Writes to a shared disk file are tracked without messages",
		.wanted = "tracked",
		.consequence = ELSEWHERE,
		.run = try_file,
	},
	{
		.id = "trackable.async-file-private",
		.group = PROBE_TRACKABLE,
		.title = "Writes to a private, written disk file are tracked without messages",
		.wanted = "tracked",
		.consequence = ELSEWHERE,
		.run = try_file_private,
	},
	{
		.id = "trackable.async-secret",
		.group = PROBE_TRACKABLE,
		.title = "Writes to memfd_secret are tracked without messages",
		.wanted = "tracked",
		.consequence = ELSEWHERE,
		.run = try_secret,
	},
	{
		.id = "trackable.writeback",
		.group = PROBE_TRACKABLE,
		.title = "Tracking of a shared disk file is exact across writeback",
		.wanted = "exact",
		.consequence = ELSEWHERE,
		.run = try_writeback,
	},
	{
		.id = "trackable.private",
		.group = PROBE_TRACKABLE,
		.title = "A private write to a disk file's page is tracked and stays private",
		.wanted = "tracked, file unchanged",
		.consequence = ELSEWHERE,
		.run = try_private,
	},
	{
		.id = "trackable.async-together",
		.group = PROBE_TRACKABLE,
		.title = "A disk file takes asynchronous tracking only as its single mode",
		.wanted = "EINVAL",
		.consequence = "ufd could page disk files in place, and does not",
		.run = try_together,
	},
	{
		.id = "trackable.async-sealed",
		.group = PROBE_TRACKABLE,
		.title = "A mapping that may never be written takes no tracking",
		.wanted = "EPERM",
		.consequence = "nothing: ufd asks for no tracking of such a mapping",
		.run = try_read_only,
	},
};

const struct probe_family probe_family_trackable_async = PROBE_FAMILY(checks);
