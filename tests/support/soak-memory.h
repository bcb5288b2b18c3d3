/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A memory of a soak guest: it knows what each of its pages must hold. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum soak_kind { SOAK_SHMEM, SOAK_ANON, SOAK_HUGETLB };

/* Readable. */
struct soak_memory {
	enum soak_kind kind;
	char *bytes;
	int backing; /* -EBADF for anonymous memory */
	int pagemap; /* of this process */
	uint64_t length_bytes;
	uint64_t page_bytes;
	uint64_t n_pages;
	uint64_t seed;
	uint64_t first_block;  /* of the image that it begins with; the pattern counts from there */
	uint16_t *generations; /* a page: how often it was rewritten, and SOAK_DISCARDED */
};

#define SOAK_DISCARDED 0x8000 /* since then it must be zero */

/* An empty memory. @has_bytes: its file holds generation 0 already. Ends the program on failure. */
void soak_memory_init(struct soak_memory *memory, enum soak_kind kind, uint64_t length_bytes,
		      uint64_t seed, uint64_t first_block, bool has_bytes);
void soak_memory_done(struct soak_memory *memory);

/* Where in the image file its first byte is. */
uint64_t soak_memory_image_offset(const struct soak_memory *memory);

/* Is the page in this process's page table? If not, touching it raises a fault. */
bool soak_memory_is_mapped(const struct soak_memory *memory, uint64_t page);

/* Is it zero in the image? Such pages are never filled before they are touched. */
bool soak_memory_is_hole(const struct soak_memory *memory, uint64_t page);

/* Compare a whole page; a wrong one is described on stderr. */
bool soak_memory_is_right(const struct soak_memory *memory, uint64_t page);

/* The same of a copy of the page. */
bool soak_memory_is_copy_right(const struct soak_memory *memory, uint64_t page, const char *copy);

/* Rewrite a page in its next generation. */
void soak_memory_write(struct soak_memory *memory, uint64_t page);

/* madvise() a page away; it must read zero from then on. Waits for the daemon to take note. */
void soak_memory_discard(struct soak_memory *memory, uint64_t page);

_Noreturn void soak_give_up(const char *what, int error);
