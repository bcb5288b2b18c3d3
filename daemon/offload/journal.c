/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What is known of one restore that is served page by page. */
#include "offload/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define MAGIC	UINT32_C(0x6a64666f)
#define VERSION 1

static uint64_t pages_of(const struct ch_layout *layout)
{
	uint64_t n = 0;

	for (size_t i = 0; i < layout->n_mappings; i++)
		n += layout->mappings[i].length_bytes / CH_PAGE_BYTES;
	return n;
}

static size_t size_of(uint64_t n_pages)
{
	return sizeof(struct journal) + (n_pages + 63) / 64 * sizeof(uint64_t);
}

static int map(struct journal **ret, int fd, size_t n_bytes)
{
	void *bytes = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (bytes == MAP_FAILED)
		return -errno;
	*ret = bytes;
	return 0;
}

int journal_new(struct journal **ret, int *ret_fd, const struct ch_layout *layout)
{
	_cleanup_(closep) int fd = memfd_create("ufd-offload", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	uint64_t n_pages = pages_of(layout);
	struct journal *journal = NULL;
	int r;

	if (fd < 0 || ftruncate(fd, (off_t)size_of(n_pages)) < 0 ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) < 0)
		return -errno;
	r = map(&journal, fd, size_of(n_pages));
	if (r < 0)
		return r;
	journal->magic = MAGIC;
	journal->version = VERSION;
	journal->layout = *layout;
	journal->n_pages = n_pages;
	*ret = journal;
	*ret_fd = TAKE_FD(fd);
	return 0;
}

int journal_map(struct journal **ret, int fd)
{
	struct journal *journal = NULL;
	struct stat info;
	bool is_sound;
	int r;

	if (fstat(fd, &info) < 0)
		return -errno;
	if ((size_t)info.st_size < sizeof(*journal))
		return -EBADMSG;
	r = map(&journal, fd, (size_t)info.st_size);
	if (r < 0)
		return r;
	is_sound = journal->magic == MAGIC && journal->version == VERSION &&
		   journal->layout.n_mappings <= CH_MAX_MAPPINGS &&
		   journal->n_pages == pages_of(&journal->layout) &&
		   size_of(journal->n_pages) == (size_t)info.st_size;
	if (!is_sound) {
		munmap(journal, (size_t)info.st_size);
		return -EBADMSG;
	}
	*ret = journal;
	return 0;
}

void journal_unmap(struct journal *journal)
{
	if (journal)
		munmap(journal, size_of(journal->n_pages));
}

int journal_claim(int fd)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

	while (fcntl(fd, F_SETLKW, &lock) < 0)
		if (errno != EINTR)
			return -errno;
	return 0;
}

pid_t journal_owner(int fd)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

	if (fcntl(fd, F_GETLK, &lock) < 0 || lock.l_type == F_UNLCK)
		return 0;
	return lock.l_pid;
}

static uint64_t first_page(const struct journal *journal, size_t index)
{
	uint64_t n = 0;

	for (size_t i = 0; i < index; i++)
		n += journal->layout.mappings[i].length_bytes / CH_PAGE_BYTES;
	return n;
}

bool journal_is_delivered(const struct journal *journal, size_t index, uint64_t offset_bytes)
{
	uint64_t page = first_page(journal, index) + offset_bytes / CH_PAGE_BYTES;

	return journal->bits[page / 64] >> (page % 64) & 1;
}

void journal_deliver(struct journal *journal, size_t index, uint64_t offset_bytes,
		     uint64_t length_bytes)
{
	uint64_t page = first_page(journal, index) + offset_bytes / CH_PAGE_BYTES;
	uint64_t n_new = 0;

	for (uint64_t end = page + length_bytes / CH_PAGE_BYTES; page < end; page++) {
		uint64_t bit = UINT64_C(1) << (page % 64);

		n_new += !(journal->bits[page / 64] & bit);
		journal->bits[page / 64] |= bit;
	}
	journal->n_delivered += n_new;
}
