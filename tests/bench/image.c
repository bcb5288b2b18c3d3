/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The saved memory. */
#include "image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/units.h"
#include "machine.h"

/* Large enough that writing is fast, small enough for a static buffer. */
#define WRITE_BYTES (1 * MIB)

static void fill(uint64_t *words, uint64_t n_words, uint64_t *state)
{
	for (uint64_t i = 0; i < n_words; i++) {
		/* xorshift64: cheap, and no two blocks of any image we make are the same */
		*state ^= *state << 13;
		*state ^= *state >> 7;
		*state ^= *state << 17;
		words[i] = *state;
	}
}

void image_new(struct image *image, const char *folder, uint64_t length_bytes)
{
	static uint64_t buffer[WRITE_BYTES / sizeof(uint64_t)];
	uint64_t state = UINT64_C(0x9e3779b97f4a7c15);

	image->length_bytes = length_bytes;
	image->fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (image->fd < 0)
		die("cannot make a file in %s", folder);
	image->checksums = calloc(length_bytes / BLOCK_BYTES, sizeof(uint64_t));
	if (!image->checksums)
		die("no memory for checksums");

	for (uint64_t at = 0; at < length_bytes; at += WRITE_BYTES) {
		fill(buffer, WRITE_BYTES / sizeof(uint64_t), &state);
		for (uint64_t i = 0; i < WRITE_BYTES / BLOCK_BYTES; i++)
			image->checksums[at / BLOCK_BYTES + i] = XXH3_64bits(
				(const char *)buffer + i * BLOCK_BYTES, BLOCK_BYTES);
		if (pwrite(image->fd, buffer, WRITE_BYTES, (off_t)at) != (ssize_t)WRITE_BYTES)
			die("cannot write the saved memory to %s", folder);
	}
	/* Written back now, so that no write-back disturbs the rounds. */
	if (fdatasync(image->fd) < 0)
		die("cannot write the saved memory to %s", folder);
	image->bytes = mmap(NULL, length_bytes, PROT_READ, MAP_SHARED | MAP_POPULATE, image->fd, 0);
	if (image->bytes == MAP_FAILED)
		die("cannot map the saved memory");
}

bool image_block_is_at(const struct image *image, uint64_t block, const void *at)
{
	return XXH3_64bits(at, BLOCK_BYTES) == image->checksums[block];
}
