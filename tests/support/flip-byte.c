/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Damages one saved page of the demo guest, so that its own check can be seen to notice. */

/*
 *	flip-byte FILE NONCE
 *
 * Stamped pages begin with the run's nonce. The page in the middle of all of them gets one bit of
 *one byte flipped, in place; its offset in FILE goes to stdout.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/cleanup.h"

#define PAGE_BYTES  4096
#define BYTE_OFFSET 2000

static uint64_t find_page(const char *bytes, uint64_t n_pages, const char *nonce, uint64_t skip)
{
	for (uint64_t page = 0; page < n_pages; page++)
		if (!memcmp(bytes + page * PAGE_BYTES, nonce, strlen(nonce)) && skip-- == 0)
			return page;
	return n_pages;
}

static uint64_t count_pages(const char *bytes, uint64_t n_pages, const char *nonce)
{
	uint64_t n = 0;

	for (uint64_t page = 0; page < n_pages; page++)
		n += !memcmp(bytes + page * PAGE_BYTES, nonce, strlen(nonce));
	return n;
}

int main(int argc, char **argv)
{
	_cleanup_(closep) int fd = -EBADF;
	uint64_t n_pages, n_stamped, offset;
	struct stat file;
	char *bytes;

	if (argc != 3 || strlen(argv[2]) != 16) {
		fprintf(stderr, "usage: flip-byte FILE NONCE\n");
		return 2;
	}
	fd = open(argv[1], O_RDWR | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &file) < 0) {
		perror(argv[1]);
		return 2;
	}
	bytes = mmap(NULL, file.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (bytes == MAP_FAILED) {
		perror(argv[1]);
		return 2;
	}

	n_pages = file.st_size / PAGE_BYTES;
	n_stamped = count_pages(bytes, n_pages, argv[2]);
	if (n_stamped == 0) {
		fprintf(stderr, "flip-byte: no stamped page in %s\n", argv[1]);
		return 1;
	}
	offset = find_page(bytes, n_pages, argv[2], n_stamped / 2) * PAGE_BYTES + BYTE_OFFSET;
	bytes[offset] ^= 1;
	printf("%llu\n", (unsigned long long)offset);
	return 0;
}
