/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The memory that is paged: mapped and touched by this process, the VMM of the benchmark. */
#pragma once

#include <stdint.h>

struct image;

enum ram_kind { RAM_SHMEM, RAM_ANON, RAM_HUGETLB };

/* Readable. */
struct ram {
	enum ram_kind kind;
	uint64_t page_bytes;
	uint64_t length_bytes;
	int backing;	   /* owned; -EBADF for anonymous memory */
	unsigned char *at; /* NULL: not mapped */
};

uint64_t ram_page_bytes(enum ram_kind kind);

/* Empty, and mapped. */
void ram_new(struct ram *ram, enum ram_kind kind, uint64_t length_bytes);

/* Write the image into the backing; the memory is not mapped afterwards. */
void ram_fill(struct ram *ram, const struct image *image);

/* Another one on the same backing, newly mapped: no page of it is. */
void ram_share(struct ram *ram, const struct ram *other);

void ram_done(struct ram *ram);

/* Bytes that the backing has allocated. */
uint64_t ram_filled_bytes(const struct ram *ram);

/* Compare page @page with the image; the first difference ends the program. */
void ram_verify(const struct ram *ram, const struct image *image, uint64_t page, const char *arm);
