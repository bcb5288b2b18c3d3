/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The memory that is paged. */
#include "ram.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/units.h"
#include "image.h"
#include "machine.h"

/* MFD_HUGE_2MB, which glibc 2.36 does not have */
#define HUGE_2MIB (21u << 26)

uint64_t ram_page_bytes(enum ram_kind kind)
{
	return kind == RAM_HUGETLB ? 2 * MIB : 4 * KIB;
}

static int new_backing(const struct ram *ram)
{
	unsigned int flags = ram->kind == RAM_HUGETLB ? MFD_HUGETLB | HUGE_2MIB : 0;
	int fd = memfd_create("bench-ram", MFD_CLOEXEC | flags);

	if (fd < 0 || ftruncate(fd, (off_t)ram->length_bytes) < 0)
		die("cannot make a memfd of %llu MiB",
		    (unsigned long long)(ram->length_bytes / MIB));
	return fd;
}

static void map(struct ram *ram)
{
	int flags = ram->kind == RAM_ANON ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;

	ram->at = mmap(NULL, ram->length_bytes, PROT_READ | PROT_WRITE, flags,
		       ram->kind == RAM_ANON ? -1 : ram->backing, 0);
	if (ram->at == MAP_FAILED)
		die("cannot map %llu MiB", (unsigned long long)(ram->length_bytes / MIB));
	/* Pages of 4 KiB whatever the host's policy is: the arms fill nothing else. */
	if (ram->kind != RAM_HUGETLB && madvise(ram->at, ram->length_bytes, MADV_NOHUGEPAGE) < 0 &&
	    errno != EINVAL)
		die("cannot refuse huge pages");
}

static void unmap(struct ram *ram)
{
	if (ram->at)
		munmap(ram->at, ram->length_bytes);
	ram->at = NULL;
}

void ram_new(struct ram *ram, enum ram_kind kind, uint64_t length_bytes)
{
	*ram = (struct ram){ .kind = kind, .length_bytes = length_bytes, .backing = -EBADF };
	ram->page_bytes = ram_page_bytes(kind);
	if (kind != RAM_ANON)
		ram->backing = new_backing(ram);
	map(ram);
}

void ram_fill(struct ram *ram, const struct image *image)
{
	memcpy(ram->at, image->bytes, ram->length_bytes);
	unmap(ram);
}

void ram_share(struct ram *ram, const struct ram *other)
{
	*ram = *other;
	ram->backing = fcntl(other->backing, F_DUPFD_CLOEXEC, 3);
	if (ram->backing < 0)
		die("cannot duplicate a memfd");
	map(ram);
}

void ram_done(struct ram *ram)
{
	unmap(ram);
	closep(&ram->backing);
	ram->backing = -EBADF;
}

uint64_t ram_filled_bytes(const struct ram *ram)
{
	struct stat stat;

	if (fstat(ram->backing, &stat) < 0)
		die("cannot look at the memfd");
	return (uint64_t)stat.st_blocks * 512;
}

void ram_verify(const struct ram *ram, const struct image *image, uint64_t page, const char *arm)
{
	uint64_t n_blocks = ram->page_bytes / BLOCK_BYTES;

	for (uint64_t i = page * n_blocks; i < (page + 1) * n_blocks; i++)
		if (!image_block_is_at(image, i, ram->at + i * BLOCK_BYTES)) {
			errno = EBADMSG;
			die("%s: WRONG BYTES at offset %#llx", arm,
			    (unsigned long long)(i * BLOCK_BYTES));
		}
}
