/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The laboratory's memory.
 *
 * Every mapping lies between two inaccessible pieces of its own reservation: no neighbour merges with
 * it, and nobody else's mapping comes to lie beside it while an experiment runs.
 */
#include "probe/lab.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"

#define HUGE_BYTES	((size_t)2 << 20)
#define MAX_HUGE_PAGES	8
#define MAX_SMALL_BYTES ((size_t)16 << 20)

#ifndef MFD_HUGE_2MB
#define MFD_HUGE_2MB (21U << 26)
#endif
#ifndef SYS_memfd_secret
#define SYS_memfd_secret 447
#endif
#ifndef XFS_SUPER_MAGIC
#define XFS_SUPER_MAGIC 0x58465342
#endif

static const char *const names[_LAB_BACKING_MAX] = {
	[LAB_ANON] = "anonymous",
	[LAB_ANON_THP] = "anonymous, THP",
	[LAB_ANON_SHARED] = "anonymous, shared",
	[LAB_SHMEM] = "shmem, shared",
	[LAB_SHMEM_PRIVATE] = "shmem, private",
	[LAB_SHMEM_THP] = "shmem, shared, THP",
	[LAB_HUGETLB] = "hugetlb, shared",
	[LAB_HUGETLB_PRIVATE] = "hugetlb, private",
	[LAB_FILE] = "disk file, shared",
	[LAB_FILE_PRIVATE] = "disk file, private",
	[LAB_SYSV] = "SysV",
	[LAB_SECRET] = "memfd_secret",
};

const char *lab_backing_name(enum lab_backing backing)
{
	return names[backing];
}

static bool is_hugetlb(enum lab_backing backing)
{
	return backing == LAB_HUGETLB || backing == LAB_HUGETLB_PRIVATE;
}

static bool is_thp(enum lab_backing backing)
{
	return backing == LAB_ANON_THP || backing == LAB_SHMEM_THP;
}

static bool is_private(enum lab_backing backing)
{
	return backing == LAB_ANON || backing == LAB_ANON_THP || backing == LAB_SHMEM_PRIVATE ||
	       backing == LAB_HUGETLB_PRIVATE || backing == LAB_FILE_PRIVATE;
}

/* Nameless, on a file system that keeps its pages on a disk; skips without one. */
static int open_disk_file(struct probe_run *run)
{
	const char *const places[] = { getenv("TMPDIR"), "/var/tmp", "/tmp", "/var/lib", "." };

	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		struct statfs fs;
		int fd;

		if (!places[i] || statfs(places[i], &fs) < 0)
			continue;
		if (fs.f_type != EXT4_SUPER_MAGIC && fs.f_type != XFS_SUPER_MAGIC &&
		    fs.f_type != BTRFS_SUPER_MAGIC && fs.f_type != F2FS_SUPER_MAGIC)
			continue;
		fd = open(places[i], O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
		if (fd >= 0)
			return fd;
	}
	probe_skip(run, "no writable directory on a disk file system (ext4, xfs, btrfs, f2fs)");
}

static int open_secret(struct probe_run *run)
{
	int fd = (int)syscall(SYS_memfd_secret, O_CLOEXEC);

	if (fd < 0)
		probe_skip(run, "memfd_secret() is not offered here: %s", strerror(errno));
	return fd;
}

static int open_hugetlb(struct probe_run *run)
{
	int fd = memfd_create("probe", MFD_CLOEXEC | MFD_HUGETLB | MFD_HUGE_2MB);

	if (fd < 0)
		probe_skip(run, "no huge pages of 2 MiB: %s", strerror(errno));
	return fd;
}

/* The file behind it, as long as it shall be; -EBADF if there is none. */
static int open_backing(struct probe_run *run, enum lab_backing backing, size_t length_bytes)
{
	int fd;

	switch (backing) {
	case LAB_SHMEM:
	case LAB_SHMEM_PRIVATE:
	case LAB_SHMEM_THP:
		fd = memfd_create("probe", MFD_CLOEXEC | MFD_ALLOW_SEALING);
		break;
	case LAB_HUGETLB:
	case LAB_HUGETLB_PRIVATE:
		fd = open_hugetlb(run);
		break;
	case LAB_FILE:
	case LAB_FILE_PRIVATE:
		fd = open_disk_file(run);
		break;
	case LAB_SECRET:
		fd = open_secret(run);
		break;
	default:
		return -EBADF;
	}
	probe_must(run, fd >= 0, "memfd_create()");
	probe_must(run, ftruncate(fd, (off_t)length_bytes) == 0, "ftruncate()");
	return fd;
}

/* A place aligned to a huge page, with one of them to spare on either side. */
static uint8_t *reserve(struct probe_run *run, size_t length_bytes)
{
	uint8_t *at = mmap(NULL, length_bytes + 3 * HUGE_BYTES, PROT_NONE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	probe_must(run, at != MAP_FAILED, "mmap() of address space");
	return (uint8_t *)(((uintptr_t)at + 2 * HUGE_BYTES - 1) & ~(HUGE_BYTES - 1));
}

static void map_sysv(struct probe_run *run, struct lab_memory *memory)
{
	int id = shmget(IPC_PRIVATE, memory->length_bytes, IPC_CREAT | 0600);
	void *at;

	if (id < 0)
		probe_skip(run, "shmget() is refused here: %s", strerror(errno));
	at = shmat(id, memory->at, SHM_REMAP);
	shmctl(id, IPC_RMID, NULL);
	probe_must(run, at == memory->at, "shmat()");
}

static void map_memory(struct probe_run *run, struct lab_memory *memory, int flags)
{
	size_t n_huge = memory->length_bytes / HUGE_BYTES;
	void *at;

	flags |= MAP_FIXED | (is_private(memory->backing) ? MAP_PRIVATE : MAP_SHARED);
	if (memory->fd < 0)
		flags |= MAP_ANONYMOUS;
	at = mmap(memory->at, memory->length_bytes, PROT_READ | PROT_WRITE, flags,
		  memory->fd < 0 ? -1 : memory->fd, 0);
	if (at == MAP_FAILED && errno == ENOMEM && is_hugetlb(memory->backing))
		probe_skip(run, "the host has not %zu free huge page%s of 2 MiB", n_huge,
			   n_huge == 1 ? "" : "s");
	if (at == MAP_FAILED && errno == EAGAIN && memory->backing == LAB_SECRET)
		probe_skip(run, "memfd_secret() does not fit the limit of locked memory");
	probe_must(run, at != MAP_FAILED, "mmap()");
}

static struct lab_memory map_backing(struct probe_run *run, enum lab_backing backing,
				     size_t n_pages, int flags)
{
	size_t page_bytes = is_hugetlb(backing) ? HUGE_BYTES : (size_t)sysconf(_SC_PAGESIZE);
	struct lab_memory memory = {
		.backing = backing,
		.length_bytes = n_pages * page_bytes,
		.page_bytes = page_bytes,
	};

	errno = E2BIG;
	probe_must(run,
		   is_hugetlb(backing) ? n_pages <= MAX_HUGE_PAGES
				       : memory.length_bytes <= MAX_SMALL_BYTES,
		   "memory within the bounds of an experiment");
	memory.fd = open_backing(run, backing, memory.length_bytes);
	memory.at = reserve(run, memory.length_bytes);
	if (backing == LAB_SYSV)
		map_sysv(run, &memory);
	else
		map_memory(run, &memory, flags);

	/* A kernel without THP refuses either advice; then there is nothing to keep away. */
	if (!is_hugetlb(backing) &&
	    madvise(memory.at, memory.length_bytes,
		    is_thp(backing) ? MADV_HUGEPAGE : MADV_NOHUGEPAGE) < 0 &&
	    is_thp(backing))
		probe_skip(run, "the kernel has no transparent huge pages: %s", strerror(errno));
	return memory;
}

struct lab_memory lab_map(struct probe_run *run, enum lab_backing backing, size_t n_pages)
{
	return map_backing(run, backing, n_pages, 0);
}

struct lab_memory lab_map_unused(struct probe_run *run, enum lab_backing backing, size_t n_pages)
{
	return map_backing(run, backing, n_pages, MAP_NORESERVE);
}

void lab_fill(const struct lab_memory *memory, size_t i, uint8_t byte)
{
	memset(lab_page(memory, i), byte, memory->page_bytes);
}

/* hugetlbfs knows no write(2), so the file is mapped once more for it. */
static void fill_by_mapping(struct probe_run *run, const struct lab_memory *memory, size_t i,
			    uint8_t byte)
{
	void *alias = mmap(NULL, memory->page_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memory->fd,
			   (off_t)(i * memory->page_bytes));

	if (alias == MAP_FAILED && errno == ENOMEM)
		probe_skip(run, "somebody else took the huge pages that were free");
	probe_must(run, alias != MAP_FAILED, "mmap() of the file once more");
	memset(alias, byte, memory->page_bytes);
	munmap(alias, memory->page_bytes);
}

void lab_fill_file(struct probe_run *run, const struct lab_memory *memory, size_t i, uint8_t byte)
{
	_cleanup_(freep) uint8_t *bytes = NULL;
	ssize_t n;

	if (is_hugetlb(memory->backing)) {
		fill_by_mapping(run, memory, i, byte);
		return;
	}
	bytes = malloc(memory->page_bytes);
	probe_must(run, bytes, "malloc()");
	memset(bytes, byte, memory->page_bytes);
	n = pwrite(memory->fd, bytes, memory->page_bytes, (off_t)(i * memory->page_bytes));
	probe_must(run, n == (ssize_t)memory->page_bytes, "pwrite() to the file");
}

int lab_fork(struct probe_run *run, int (*work)(void *argument), void *argument)
{
	pid_t parent = getpid(), child;
	int status;

	child = fork();
	probe_must(run, child >= 0, "fork()");
	if (!child) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		_exit(getppid() == parent ? work(argument) : EXIT_FAILURE);
	}
	while (waitpid(child, &status, 0) < 0)
		probe_must(run, errno == EINTR, "waitpid()");
	return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}
