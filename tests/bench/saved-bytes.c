/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The bytes of a memory that is saved. */
#include "saved-bytes.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/units.h"
#include "image/image-reader.h"
#include "machine.h"
#include "ram.h"

void saved_bytes_fill(const struct ram *ram)
{
	uint64_t n_words = ram->page_bytes / sizeof(uint64_t), state = 88172645463325252;

	for (uint64_t at = 0; at < ram->length_bytes; at += ram->page_bytes) {
		uint64_t *words = (uint64_t *)(ram->at + at);

		for (uint64_t i = 0; i < n_words / 2; i++) {
			state ^= state << 13;
			state ^= state >> 7;
			state ^= state << 17;
			words[i] = state;
		}
		for (uint64_t i = n_words / 2; i < n_words; i++)
			words[i] = UINT64_C(0xffff888000000000) + at + i * 64;
	}
}

static _Noreturn void die_of(const char *arm, uint64_t offset)
{
	errno = EBADMSG;
	die("%s: WRONG BYTES saved of offset %#llx", arm, (unsigned long long)offset);
}

void saved_bytes_check(const struct ram *ram, const void *copy, const char *arm)
{
	for (uint64_t at = 0; at < ram->length_bytes; at += ram->page_bytes)
		if (memcmp(ram->at + at, (const char *)copy + at, ram->page_bytes) != 0)
			die_of(arm, at);
}

void saved_bytes_check_image(const struct ram *ram, int file, const char *arm)
{
	_cleanup_(image_unrefp) struct image *image = NULL;
	_cleanup_(image_cursor_freep) struct image_cursor *cursor = NULL;
	_cleanup_(freep) char *piece = malloc(MIB);
	const char *error = "";

	if (!piece)
		die("no memory");
	if (image_open(&image, "the image", file, NULL, &error))
		die("%s: %s", arm, error);
	must(image_cursor_new(&cursor, image), "read an image");
	for (uint64_t at = 0; at < ram->length_bytes; at += MIB) {
		uint64_t n_bytes = min_u64(MIB, ram->length_bytes - at);

		if (image_read_pages(cursor, 0, at / ram->page_bytes, n_bytes / ram->page_bytes,
				     piece, &error))
			die("%s: %s", arm, error);
		if (memcmp(ram->at + at, piece, n_bytes) != 0)
			die_of(arm, at);
	}
}
