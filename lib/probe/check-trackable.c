/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which memory takes which mode of a userfaultfd: one row a backing.
 *
 * Each mode is tried alone and then all accepted ones together, in a context that tracks writes by
 * faults; what WP_ASYNC adds is told by the rows of check-trackable-async.c.
 */
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>

#include "probe/lab.h"
#include "probe/table.h"

#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 0x08 /* 6.11 */
#endif

static const struct {
	const char *name;
	uint64_t mode;
} modes[] = {
	{ "missing", UFFDIO_REGISTER_MODE_MISSING },
	{ "wp", UFFDIO_REGISTER_MODE_WP },
	{ "minor", UFFDIO_REGISTER_MODE_MINOR },
};

#define N_MODES (sizeof(modes) / sizeof(modes[0]))

static int try_mode(struct probe_run *run, int uffd, const struct lab_memory *memory, uint64_t mode)
{
	int r = lab_try_register(uffd, memory->at, memory->length_bytes, mode, NULL);

	probe_step(run, "registered with modes %#llx: %s", (unsigned long long)mode,
		   probe_errno(r));
	if (r == 0)
		lab_unregister(uffd, memory->at, memory->length_bytes);
	return r;
}

/* Answers with the accepted modes, or with why there is none. */
static void try_modes(struct probe_run *run, const struct lab_memory *memory)
{
	int uffd = lab_uffd(run, 0), r, refusal = 0;
	char accepted[64] = "", detail[128] = "";
	uint64_t all = 0;

	for (size_t i = 0; i < N_MODES; i++) {
		size_t n = strlen(detail), m = strlen(accepted);

		r = try_mode(run, uffd, memory, modes[i].mode);
		snprintf(detail + n, sizeof(detail) - n, "%s%s: %s", n ? ", " : "", modes[i].name,
			 probe_errno(r));
		if (r < 0) {
			refusal = r;
			continue;
		}
		snprintf(accepted + m, sizeof(accepted) - m, "%s%s", m ? " " : "", modes[i].name);
		all |= modes[i].mode;
	}
	r = all ? try_mode(run, uffd, memory, all) : 0;
	probe_detail(run, "%s%s", detail, r < 0 ? "; together refused" : "");
	if (r < 0)
		probe_answer(run, "%s, not together", accepted);
	else
		probe_answer(run, "%s", all ? accepted : probe_errno(refusal));
}

static void try_backing(struct probe_run *run, enum lab_backing backing)
{
	struct lab_memory memory = lab_map_unused(run, backing, 2);

	try_modes(run, &memory);
}

#define TRY_BACKING(name, backing)                    \
	static void try_##name(struct probe_run *run) \
	{                                             \
		try_backing(run, backing);            \
	}

TRY_BACKING(anon, LAB_ANON)
TRY_BACKING(anon_shared, LAB_ANON_SHARED)
TRY_BACKING(shmem, LAB_SHMEM)
TRY_BACKING(shmem_private, LAB_SHMEM_PRIVATE)
TRY_BACKING(hugetlb, LAB_HUGETLB)
TRY_BACKING(hugetlb_private, LAB_HUGETLB_PRIVATE)
TRY_BACKING(sysv, LAB_SYSV)
TRY_BACKING(file, LAB_FILE)
TRY_BACKING(file_private, LAB_FILE_PRIVATE)
TRY_BACKING(secret, LAB_SECRET)

static void try_inaccessible(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_ANON, 2);

	probe_must(run, mprotect(memory.at, memory.length_bytes, PROT_NONE) == 0, "mprotect()");
	try_modes(run, &memory);
}

/* Put a mapping of @fd for reading in the place of @memory. */
static void map_for_reading(struct probe_run *run, const struct lab_memory *memory, int fd)
{
	void *at = mmap(memory->at, memory->length_bytes, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0);

	probe_must(run, at == memory->at, "mmap() for reading");
}

static void try_read_only(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_SHMEM, 2);
	char path[32];
	int fd;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", memory.fd);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		probe_skip(run, "/proc/self/fd cannot be opened: %s", strerror(errno));
	map_for_reading(run, &memory, fd);
	try_modes(run, &memory);
}

static void seal(struct probe_run *run, int fd)
{
	probe_must(run, fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE) == 0, "F_SEAL_FUTURE_WRITE");
}

static void try_sealed(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_SHMEM, 2);

	seal(run, memory.fd);
	map_for_reading(run, &memory, memory.fd);
	try_modes(run, &memory);
}

static void try_sealed_later(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_SHMEM, 2);

	seal(run, memory.fd);
	try_modes(run, &memory);
}

static struct lab_memory map_droppable(struct probe_run *run)
{
	struct lab_memory memory = lab_map(run, LAB_ANON, 2);
	void *at;

	munmap(memory.at, memory.length_bytes);
	at = mmap(memory.at, memory.length_bytes, PROT_READ | PROT_WRITE,
		  MAP_DROPPABLE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	if (at == MAP_FAILED)
		probe_skip(run, "the kernel lacks MAP_DROPPABLE: %s", strerror(errno));
	return memory;
}

/* The clock's pages of the kernel, which no page of memory stands behind: VM_PFNMAP. */
static struct lab_memory find_vvar(struct probe_run *run)
{
	FILE *maps = fopen("/proc/self/maps", "re");
	struct lab_memory memory = {};
	unsigned long start, end;
	char line[256];

	probe_must(run, maps, "open() of our maps");
	while (!memory.at && fgets(line, sizeof(line), maps))
		if (strstr(line, "[vvar") && sscanf(line, "%lx-%lx", &start, &end) == 2) {
			memory.at = (uint8_t *)start;
			memory.length_bytes = end - start;
		}
	fclose(maps);
	if (!memory.at)
		probe_skip(run, "this process has no [vvar]");
	return memory;
}

static void try_droppable(struct probe_run *run)
{
	struct lab_memory memory = map_droppable(run);

	try_modes(run, &memory);
}

static void try_vvar(struct probe_run *run)
{
	struct lab_memory memory = find_vvar(run);

	try_modes(run, &memory);
}

/* The mode that opens all ordinary mappings. */
static void try_async(struct probe_run *run, const struct lab_memory *memory)
{
	int uffd = lab_uffd(run, UFFD_FEATURE_WP_ASYNC);

	probe_answer(run, "%s", probe_errno(try_mode(run, uffd, memory, UFFDIO_REGISTER_MODE_WP)));
}

static void try_async_droppable(struct probe_run *run)
{
	struct lab_memory memory = map_droppable(run);

	try_async(run, &memory);
}

static void try_async_vvar(struct probe_run *run)
{
	struct lab_memory memory = find_vvar(run);

	try_async(run, &memory);
}

#define ORDINARY                                                                            \
	"ufd refuses such memory by name: it pages anonymous memory, memfd and tmpfs, and " \
	"hugetlbfs"

static const struct probe_check checks[] = {
	{
		.id = "trackable.anon",
		.group = PROBE_TRACKABLE,
		.title = "Private anonymous memory takes missing and write-protect mode",
		.wanted = "missing wp",
		.is_needed = true,
		.is_for_start = true,
		.consequence = "anonymous guest memory cannot be paged or tracked",
		.remedy = "run a kernel with CONFIG_USERFAULTFD, 6.1 or newer",
		.run = try_anon,
	},
	{
		.id = "trackable.anon-shared",
		.group = PROBE_TRACKABLE,
		.title = "Shared anonymous memory takes all three modes",
		.wanted = "missing wp minor",
		.consequence = "such memory can only be paged as a memfd",
		.run = try_anon_shared,
	},
	{
		.id = "trackable.shmem",
		.group = PROBE_TRACKABLE,
		.title = "A shared mapping of a memfd takes all three modes",
		.wanted = "missing wp minor",
		.is_needed = true,
		.is_for_start = true,
		.consequence = "memfd guest memory cannot be paged or tracked",
		.remedy = "run a kernel with CONFIG_USERFAULTFD, 6.1 or newer",
		.run = try_shmem,
	},
	{
		.id = "trackable.shmem-private",
		.group = PROBE_TRACKABLE,
		.title = "A private mapping of a memfd takes all three modes",
		.wanted = "missing wp minor",
		.consequence = "guests on a shared template cannot be paged",
		.run = try_shmem_private,
	},
	{
		.id = "trackable.hugetlb",
		.group = PROBE_TRACKABLE,
		.title = "A shared mapping of hugetlbfs takes all three modes",
		.wanted = "missing wp minor",
		.consequence = "guests on huge pages cannot be paged or tracked",
		.run = try_hugetlb,
	},
	{
		.id = "trackable.hugetlb-private",
		.group = PROBE_TRACKABLE,
		.title = "A private mapping of hugetlbfs takes all three modes",
		.wanted = "missing wp minor",
		.consequence = "guests on private huge pages cannot be paged or tracked",
		.run = try_hugetlb_private,
	},
	{
		.id = "trackable.inaccessible",
		.group = PROBE_TRACKABLE,
		.title = "Memory without access rights takes the modes of its backing",
		.wanted = "missing wp",
		.consequence = "ranges that a guest protects must be registered before",
		.run = try_inaccessible,
	},
	{
		.id = "trackable.sysv",
		.group = PROBE_TRACKABLE,
		.title = "SysV shared memory takes no mode that raises faults",
		.wanted = "EINVAL",
		.consequence = ORDINARY,
		.run = try_sysv,
	},
	{
		.id = "trackable.file",
		.group = PROBE_TRACKABLE,
		.title = "A shared mapping of a disk file takes no mode that raises faults",
		.wanted = "EINVAL",
		.consequence = ORDINARY,
		.run = try_file,
	},
	{
		.id = "trackable.file-private",
		.group = PROBE_TRACKABLE,
		.title = "A private mapping of a disk file takes no mode that raises faults",
		.wanted = "EINVAL",
		.consequence = ORDINARY,
		.run = try_file_private,
	},
	{
		.id = "trackable.secret",
		.group = PROBE_TRACKABLE,
		.title = "memfd_secret takes no mode that raises faults",
		.wanted = "EINVAL",
		.consequence = ORDINARY,
		.run = try_secret,
	},
	{
		.id = "trackable.droppable",
		.group = PROBE_TRACKABLE,
		.title = "Memory that the kernel may drop (MAP_DROPPABLE) takes no mode",
		.wanted = "EINVAL",
		.consequence = "ufd would page memory whose content may vanish by itself",
		.run = try_droppable,
	},
	{
		.id = "trackable.vvar",
		.group = PROBE_TRACKABLE,
		.title = "A mapping without pages of memory behind it ([vvar]) takes no mode",
		.wanted = "EINVAL",
		.consequence = "ufd relies on the kernel's refusal for device memory",
		.run = try_vvar,
	},
	{
		.id = "trackable.async-droppable",
		.group = PROBE_TRACKABLE,
		.title = "Memory that the kernel may drop takes no asynchronous tracking either",
		.wanted = "EINVAL",
		.consequence = "nothing: ufd tracks only what it pages",
		.run = try_async_droppable,
	},
	{
		.id = "trackable.async-vvar",
		.group = PROBE_TRACKABLE,
		.title = "[vvar] takes no asynchronous tracking either",
		.wanted = "EINVAL",
		.consequence = "nothing: ufd tracks only what it pages",
		.run = try_async_vvar,
	},
	{
		.id = "trackable.read-only",
		.group = PROBE_TRACKABLE,
		.title = "A shared mapping of a read-only descriptor takes no mode",
		.wanted = "EPERM",
		.consequence = "ufd relies on this: who may not write a file must not fill it",
		.run = try_read_only,
	},
	{
		.id = "trackable.sealed",
		.group = PROBE_TRACKABLE,
		.title = "A mapping made after the memfd was sealed against writing takes no mode",
		.wanted = "EPERM",
		.consequence = "ufd relies on this: a sealed file must not change by a fill",
		.run = try_sealed,
	},
	{
		.id = "trackable.sealed-later",
		.group = PROBE_TRACKABLE,
		.title = "A writable mapping keeps its modes when the memfd is sealed later",
		.wanted = "missing wp minor",
		.consequence = "guests that seal their memfd cannot be paged",
		.run = try_sealed_later,
	},
};

const struct probe_family probe_family_trackable = PROBE_FAMILY(checks);
