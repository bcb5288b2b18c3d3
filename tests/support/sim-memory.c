/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Guest memory of the simulator: anonymous, or a memfd as the fork of e2b has it. */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "support/sim-vm.h"

#ifndef UFFD_FEATURE_WP_ASYNC
#define UFFD_FEATURE_WP_ASYNC (1 << 15)
#endif
#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

#define HUGE_2MIB	   (21 << 26) /* of mmap() and memfd_create() alike */
#define PAGE_WORDS	   (SIM_BASE_BYTES / sizeof(uint64_t))
#define PAGEMAP_UFFD_WP	   (UINT64_C(1) << 57)
#define PAGEMAP_PRESENT	   (UINT64_C(1) << 63)
#define WAYS_WITH_DEVICE   5  /* the first that asks the device for its userfaultfd */
#define ALWAYS_WITH_EVENTS 12 /* the first that asks for REMOVE whether it needs it or not */

/* ---- the file ---- */

/* Every fourth page is a hole, and so are some of 2 MiB; the words of all others differ. */
void sim_write_file(const char *path, uint64_t mib)
{
	uint64_t words[PAGE_WORDS], n_pages = (mib << 20) / SIM_BASE_BYTES;
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	if (fd < 0 || ftruncate(fd, (off_t)(mib << 20)) < 0)
		sim_fail(SIM_FAILED, path, errno);
	for (uint64_t page = 0; page < n_pages; page++) {
		if (page % 4 == 3 || page / (SIM_HUGE_BYTES / SIM_BASE_BYTES) % 8 == 5)
			continue;
		for (uint64_t i = 0; i < PAGE_WORDS; i++)
			words[i] = (page * PAGE_WORDS + i + 1) * UINT64_C(0x9e3779b97f4a7c15);
		if (pwrite(fd, words, sizeof(words), (off_t)(page * SIM_BASE_BYTES)) !=
		    (ssize_t)sizeof(words))
			sim_fail(SIM_FAILED, path, errno);
	}
	close(fd);
}

static void map_file(struct sim *sim)
{
	int fd = open(sim->options.file, O_RDONLY | O_CLOEXEC);
	struct stat info;

	if (fd < 0 || fstat(fd, &info) < 0)
		sim_fail(SIM_FAILED, sim->options.file, errno);
	sim->file_bytes = (uint64_t)info.st_size;
	if (!sim->file_bytes || sim->file_bytes % SIM_HUGE_BYTES)
		sim_fail(SIM_FAILED, "the file is not whole MiB, two by two", EINVAL);
	sim->file = mmap(NULL, sim->file_bytes, PROT_READ, MAP_SHARED, fd, 0);
	if (sim->file == MAP_FAILED)
		sim_fail(SIM_FAILED, sim->options.file, errno);
	close(fd);
}

/* ---- memory ---- */

static int map_flags(const struct sim *sim)
{
	int flags = sim->memfd >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;

	if (sim->options.page_bytes == SIM_HUGE_BYTES && sim->memfd < 0)
		flags |= MAP_HUGETLB | HUGE_2MIB;
	return flags | MAP_NORESERVE;
}

/* At a multiple of 2 MiB, as the newest version has it; with a gap before the next one. */
static void map_region(struct sim *sim, struct sim_region *region)
{
	uint64_t n_bytes = region->length_bytes + 2 * SIM_HUGE_BYTES;
	unsigned char *room = mmap(NULL, n_bytes, PROT_NONE,
				   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uintptr_t at = ((uintptr_t)room + SIM_HUGE_BYTES) & ~(SIM_HUGE_BYTES - 1);

	if (room == MAP_FAILED)
		sim_fail(SIM_FAILED, "mmap", errno);
	region->address = mmap((void *)at, region->length_bytes, PROT_READ | PROT_WRITE,
			       map_flags(sim) | MAP_FIXED, sim->memfd,
			       sim->memfd >= 0 ? (off_t)region->offset_bytes : 0);
	if (region->address == MAP_FAILED)
		sim_fail(errno == ENOMEM ? SIM_SKIP : SIM_FAILED, "guest memory", errno);
	region->plugged_bytes = region->length_bytes;
	if (sim->options.has_virtio_mem && region == &sim->regions[sim->options.n_regions - 1]) {
		region->plugged_bytes = region->length_bytes / 2 & ~(SIM_HUGE_BYTES - 1);
		if (mprotect(region->address + region->plugged_bytes,
			     region->length_bytes - region->plugged_bytes, PROT_NONE) < 0)
			sim_fail(SIM_FAILED, "mprotect", errno);
	}
}

/* The pool of huge pages is the machine's: without enough of them nothing can be said. */
static void check_pool(const struct sim *sim)
{
	char path[] = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";
	unsigned long long n_free = 0;
	FILE *file;

	if (sim->options.page_bytes != SIM_HUGE_BYTES)
		return;
	file = fopen(path, "re");
	if (!file || fscanf(file, "%llu", &n_free) != 1 ||
	    n_free < sim->file_bytes / SIM_HUGE_BYTES)
		sim_fail(SIM_SKIP, "too few free huge pages", ENOMEM);
	fclose(file);
}

void sim_memory_make(struct sim *sim)
{
	uint64_t at = 0, unit;

	map_file(sim);
	check_pool(sim);
	sim->n_pages = sim->file_bytes / sim->options.page_bytes;
	sim->pages = calloc(sim->n_pages, sizeof(*sim->pages));
	sim->memfd = -1;
	if (sim->options.has_memfd) {
		sim->memfd = memfd_create("guest",
					  MFD_CLOEXEC | (sim->options.page_bytes == SIM_HUGE_BYTES
								 ? MFD_HUGETLB | HUGE_2MIB
								 : 0));
		if (sim->memfd < 0 || ftruncate(sim->memfd, (off_t)sim->file_bytes) < 0)
			sim_fail(SIM_FAILED, "memfd", errno);
	}
	/* the first regions are the smaller ones */
	unit = sim->file_bytes / sim->options.n_regions & ~(SIM_HUGE_BYTES - 1);
	if (!unit)
		sim_fail(SIM_FAILED, "more regions than MiB", EINVAL);
	for (unsigned int i = 0; i < sim->options.n_regions; i++) {
		struct sim_region *region = &sim->regions[i];

		region->offset_bytes = at;
		region->length_bytes = i + 1 < sim->options.n_regions ? unit : sim->file_bytes - at;
		at += region->length_bytes;
		map_region(sim, region);
	}
}

/* ---- the userfaultfd ---- */

static int uffd_new(const struct sim *sim)
{
	int flags = O_CLOEXEC | (sim->options.sin == SIM_BLOCKING_UFFD ? 0 : O_NONBLOCK);
	int device, fd;

	if (sim->options.minor < WAYS_WITH_DEVICE)
		return (int)syscall(SYS_userfaultfd, flags | UFFD_USER_MODE_ONLY);
	device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	if (device < 0)
		return errno == ENOENT ? (int)syscall(SYS_userfaultfd, flags) : -1;
	fd = ioctl(device, USERFAULTFD_IOC_NEW, flags);
	close(device);
	return fd;
}

static uint64_t features(const struct sim *sim)
{
	uint64_t features = 0;

	if (sim->options.is_e2b)
		features = UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_MISSING_HUGETLBFS |
			   (sim->options.is_sync_wp ? 0 : UFFD_FEATURE_WP_ASYNC);
	else if (sim->options.minor >= ALWAYS_WITH_EVENTS || sim->options.n_discards)
		features = UFFD_FEATURE_EVENT_REMOVE;
	return features;
}

static void protect(const struct sim *sim, const struct sim_region *region)
{
	struct uffdio_writeprotect wp = { .range = { (uintptr_t)region->address,
						     region->length_bytes },
					  .mode = UFFDIO_WRITEPROTECT_MODE_WP };

	if (ioctl(sim->uffd, UFFDIO_WRITEPROTECT, &wp) < 0)
		sim_fail(SIM_FAILED, "UFFDIO_WRITEPROTECT", errno);
}

void sim_uffd_make(struct sim *sim)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features(sim) };

	sim->uffd = uffd_new(sim);
	if (sim->uffd < 0)
		sim_fail(SIM_SKIP, "userfaultfd", errno);
	if (sim->options.sin == SIM_NO_HANDSHAKE)
		return;
	if (ioctl(sim->uffd, UFFDIO_API, &api) < 0)
		sim_fail(SIM_SKIP, "UFFDIO_API", errno);
	for (unsigned int i = 0; i < sim->options.n_regions; i++) {
		struct sim_region *region = &sim->regions[i];
		struct uffdio_register reg = {
			.range = { (uintptr_t)region->address, region->length_bytes },
			.mode = UFFDIO_REGISTER_MODE_MISSING |
				(sim->options.is_e2b ? UFFDIO_REGISTER_MODE_WP : 0)
		};

		if (ioctl(sim->uffd, UFFDIO_REGISTER, &reg) < 0)
			sim_fail(SIM_FAILED, "UFFDIO_REGISTER", errno);
		if (sim->options.is_e2b && sim->options.page_bytes == SIM_HUGE_BYTES)
			protect(sim, region);
	}
}

/* ---- pages ---- */

unsigned char *sim_page(const struct sim *sim, uint64_t page)
{
	uint64_t offset = page * sim->options.page_bytes;

	for (unsigned int i = 0; i < sim->options.n_regions; i++) {
		const struct sim_region *region = &sim->regions[i];

		if (offset >= region->offset_bytes &&
		    offset - region->offset_bytes < region->length_bytes)
			return offset - region->offset_bytes < region->plugged_bytes
				       ? region->address + (offset - region->offset_bytes)
				       : NULL;
	}
	return NULL;
}

uint64_t sim_mark(const struct sim *sim, uint64_t page)
{
	return ~(page ^ sim->options.seed);
}

static void note_wrong(struct sim *sim, uint64_t offset)
{
	uint64_t none = 0;

	sim->n_wrong++;
	atomic_compare_exchange_strong(&sim->first_wrong, &none, offset + 1);
}

void sim_judge(struct sim *sim, uint64_t page, const unsigned char *seen, unsigned char before)
{
	unsigned char after = sim->pages[page];
	uint64_t n_bytes = sim->options.page_bytes, mark = sim_mark(sim, page);
	const unsigned char *file = sim->file + page * n_bytes;
	bool is_sure = before == after && (before & 3) != SIM_PAGE_VANISHING;
	bool is_file = is_sure && (before & 3) == SIM_PAGE_FILE, is_zero = is_sure && !is_file;

	if (is_sure && (before & SIM_PAGE_WRITTEN)) {
		n_bytes -= sizeof(mark);
		if (memcmp(seen + n_bytes, &mark, sizeof(mark)) != 0)
			note_wrong(sim, page * sim->options.page_bytes + n_bytes);
	}
	if (is_file && memcmp(seen, file, n_bytes) == 0)
		return;
	sim->n_zero += is_zero;
	/* a discard in the middle: bytes of the file before, zeros from there on */
	for (uint64_t i = 0; i < n_bytes; i++)
		if ((seen[i] != 0 || is_file) && (seen[i] != file[i] || is_zero)) {
			note_wrong(sim, page * sim->options.page_bytes + i);
			return;
		}
}

/* What the versions did before: a new mapping in place of the old one, which nobody is told of. */
static void remap(struct sim *sim, unsigned char *address, uint64_t n_bytes)
{
	if (mmap(address, n_bytes, PROT_READ | PROT_WRITE, map_flags(sim) | MAP_FIXED, -1, 0) ==
	    MAP_FAILED)
		sim_fail(SIM_FAILED, "mmap in place of a discard", errno);
}

void sim_discard(struct sim *sim, uint64_t first, uint64_t n_pages)
{
	uint64_t n_bytes = n_pages * sim->options.page_bytes;
	unsigned char *address = sim_page(sim, first);
	int advice = sim->memfd >= 0 ? MADV_REMOVE : MADV_DONTNEED;

	for (uint64_t i = first; i < first + n_pages; i++)
		sim->pages[i] = SIM_PAGE_VANISHING;
	if (sim->options.minor < SIM_DISCARDS_TOLD)
		remap(sim, address, n_bytes);
	else if (madvise(address, n_bytes, advice) < 0)
		sim_fail(SIM_FAILED, "madvise", errno);
	for (uint64_t i = first; i < first + n_pages; i++)
		sim->pages[i] = SIM_PAGE_ZERO;
	sim->n_discarded += n_pages;
}

void sim_write(struct sim *sim, uint64_t page)
{
	uint64_t mark = sim_mark(sim, page);
	unsigned char *address = sim_page(sim, page);

	if (!address)
		return;
	memcpy(address + sim->options.page_bytes - sizeof(mark), &mark, sizeof(mark));
	sim->pages[page] |= SIM_PAGE_WRITTEN;
	sim->n_written++;
}

/* A slot that was unplugged: nothing was ever there, and the file has what the VM saved: often a hole. */
void sim_plug(struct sim *sim)
{
	struct sim_region *region = &sim->regions[sim->options.n_regions - 1];

	if (!sim->options.has_virtio_mem)
		return;
	if (mprotect(region->address, region->length_bytes, PROT_READ | PROT_WRITE) < 0)
		sim_fail(SIM_FAILED, "mprotect", errno);
	region->plugged_bytes = region->length_bytes;
}

/* As the fork of e2b finds its dirty pages: present, and not write-protected. */
void sim_count_dirty(struct sim *sim)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	for (uint64_t page = 0; fd >= 0 && page < sim->n_pages; page++) {
		uintptr_t address = (uintptr_t)sim_page(sim, page);
		uint64_t word = 0;

		if (address && pread(fd, &word, sizeof(word),
				     (off_t)(address / SIM_BASE_BYTES * sizeof(word))) ==
				       (ssize_t)sizeof(word))
			sim->n_shown_dirty += (word & PAGEMAP_PRESENT) && !(word & PAGEMAP_UFFD_WP);
	}
	if (fd >= 0)
		close(fd);
}
