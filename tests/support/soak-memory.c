/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A memory of a soak guest.
 *
 * Every block of 4 KiB is a function of the image's seed, the block's number in the image, and how
 * often it was rewritten. So a wrong page says what went wrong: zeros in place of data, an old
 * generation of the right page (stale), another page's bytes (foreign), or a mixture.
 */
#include "support/soak-memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/units.h"
#include "support/pattern.h"

#define HUGE_BYTES	      (2 * MIB)
#define DESCRIBED_GENERATIONS 1000
#define FOREIGN_BLOCKS	      65536 /* how far a wrong block is looked for in the image */
#define POOL_LOOK_US	      10000
#define PAGEMAP_MAPPED	      (UINT64_C(3) << 62) /* present or swapped */
#define PAGEMAP_MARKER	      (UINT64_C(1) << 62 | UINT64_C(1) << 57)

_Noreturn void soak_give_up(const char *what, int error)
{
	fprintf(stderr, "soak-guest %d: %s: %s\n", getpid(), what, strerror(error));
	exit(2);
}

/* ---- life ------------------------------------------------------------------------------------ */

static void make_backing(struct soak_memory *memory, bool has_bytes)
{
	unsigned int flags = MFD_CLOEXEC | (memory->kind == SOAK_HUGETLB ? MFD_HUGETLB : 0);
	char *bytes;

	memory->backing = memfd_create("soak", flags);
	if (memory->backing < 0 || ftruncate(memory->backing, (off_t)memory->length_bytes) < 0)
		soak_give_up("memfd", errno);
	if (!has_bytes)
		return;
	bytes = mmap(NULL, memory->length_bytes, PROT_WRITE, MAP_SHARED, memory->backing, 0);
	if (bytes == MAP_FAILED)
		soak_give_up("cannot map the backing", errno);
	for (uint64_t i = 0; i < memory->length_bytes / PATTERN_BLOCK_BYTES; i++)
		pattern_write(bytes + i * PATTERN_BLOCK_BYTES, memory->seed,
			      memory->first_block + i, 0);
	munmap(bytes, memory->length_bytes);
}

void soak_memory_init(struct soak_memory *memory, enum soak_kind kind, uint64_t length_bytes,
		      uint64_t seed, uint64_t first_block, bool has_bytes)
{
	int flags = kind == SOAK_ANON ? MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE : MAP_SHARED;

	*memory = (struct soak_memory){
		.kind = kind,
		.backing = -EBADF,
		.length_bytes = length_bytes,
		.page_bytes = kind == SOAK_HUGETLB ? HUGE_BYTES : (uint64_t)sysconf(_SC_PAGESIZE),
		.seed = seed,
		.first_block = first_block,
	};
	memory->n_pages = length_bytes / memory->page_bytes;
	memory->generations = calloc(memory->n_pages, sizeof(*memory->generations));
	if (!memory->generations)
		soak_give_up("out of memory", ENOMEM);
	memory->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (memory->pagemap < 0)
		soak_give_up("/proc/self/pagemap", errno);
	if (kind != SOAK_ANON)
		make_backing(memory, has_bytes);
	for (;;) {
		memory->bytes = mmap(NULL, length_bytes, PROT_READ | PROT_WRITE, flags,
				     memory->backing, 0);
		if (memory->bytes != MAP_FAILED)
			break;
		/* the pool is everybody's; the controller sees to it that this comes to an end */
		if (errno != ENOMEM || kind != SOAK_HUGETLB)
			soak_give_up("mmap", errno);
		usleep(POOL_LOOK_US);
	}
}

void soak_memory_done(struct soak_memory *memory)
{
	munmap(memory->bytes, memory->length_bytes);
	closep(&memory->backing);
	closep(&memory->pagemap);
	free(memory->generations);
	*memory = (struct soak_memory){ .backing = -EBADF, .pagemap = -EBADF };
}

uint64_t soak_memory_image_offset(const struct soak_memory *memory)
{
	return memory->first_block * PATTERN_BLOCK_BYTES;
}

/* ---- pages ----------------------------------------------------------------------------------- */

static char *page_at(const struct soak_memory *memory, uint64_t page)
{
	return memory->bytes + page * memory->page_bytes;
}

static uint64_t blocks_of_page(const struct soak_memory *memory)
{
	return memory->page_bytes / PATTERN_BLOCK_BYTES;
}

static uint64_t first_block(const struct soak_memory *memory, uint64_t page)
{
	return memory->first_block + page * blocks_of_page(memory);
}

bool soak_memory_is_mapped(const struct soak_memory *memory, uint64_t page)
{
	uint64_t entry, at = (uintptr_t)page_at(memory, page) / (uint64_t)sysconf(_SC_PAGESIZE);

	if (pread(memory->pagemap, &entry, sizeof(entry), (off_t)(at * sizeof(entry))) !=
	    sizeof(entry))
		soak_give_up("cannot read /proc/self/pagemap", errno);
	/* what is protected before it is there looks swapped */
	return entry & PAGEMAP_MAPPED && (entry & PAGEMAP_MARKER) != PAGEMAP_MARKER;
}

bool soak_memory_is_hole(const struct soak_memory *memory, uint64_t page)
{
	uint64_t block = first_block(memory, page);

	for (uint64_t i = 0; i < blocks_of_page(memory); i++)
		if (!pattern_is_zero(memory->seed, block + i))
			return false;
	return true;
}

/* What a wrong block holds, in words. */
static void describe(const struct soak_memory *memory, const char *block, uint64_t number,
		     char *text, size_t n_text)
{
	if (pattern_is_all_zero(block)) {
		snprintf(text, n_text, "zeros");
		return;
	}
	for (uint32_t generation = 0; generation <= DESCRIBED_GENERATIONS; generation++)
		if (pattern_is_right(block, memory->seed, number, generation)) {
			snprintf(text, n_text, "its generation %u", generation);
			return;
		}
	for (uint64_t other = 0; other < FOREIGN_BLOCKS; other++)
		for (uint32_t generation = 0; generation < 4; generation++)
			if (!pattern_is_zero(memory->seed, other) &&
			    pattern_is_right(block, memory->seed, other, generation)) {
				snprintf(text, n_text, "block %llu of the image, generation %u",
					 (unsigned long long)other, generation);
				return;
			}
	snprintf(text, n_text, "no page's bytes");
}

static bool block_is_right(const struct soak_memory *memory, const char *block, uint64_t number,
			   uint16_t generation)
{
	return generation & SOAK_DISCARDED
		       ? pattern_is_all_zero(block)
		       : pattern_is_right(block, memory->seed, number, generation);
}

static bool is_right(const struct soak_memory *memory, uint64_t page, const char *block,
		     const char *what)
{
	uint16_t generation = memory->generations[page];
	uint64_t number = first_block(memory, page);
	char text[80];

	for (uint64_t i = 0; i < blocks_of_page(memory); i++, block += PATTERN_BLOCK_BYTES) {
		if (block_is_right(memory, block, number + i, generation))
			continue;
		describe(memory, block, number + i, text, sizeof(text));
		fprintf(stderr,
			"soak-guest %d: %s %llu at %p is wrong: it must hold %s %d of block %llu, "
			"and holds %s\n",
			getpid(), what, (unsigned long long)page, (const void *)block,
			generation & SOAK_DISCARDED ? "zeros after generation" : "generation",
			generation & ~SOAK_DISCARDED, (unsigned long long)(number + i), text);
		return false;
	}
	return true;
}

bool soak_memory_is_right(const struct soak_memory *memory, uint64_t page)
{
	return is_right(memory, page, page_at(memory, page), "page");
}

bool soak_memory_is_copy_right(const struct soak_memory *memory, uint64_t page, const char *copy)
{
	return is_right(memory, page, copy, "the consumer's copy of page");
}
void soak_memory_write(struct soak_memory *memory, uint64_t page)
{
	uint16_t generation = (memory->generations[page] & ~SOAK_DISCARDED) + 1;
	uint64_t number = first_block(memory, page);

	for (uint64_t i = 0; i < blocks_of_page(memory); i++)
		pattern_write(page_at(memory, page) + i * PATTERN_BLOCK_BYTES, memory->seed,
			      number + i, generation);
	memory->generations[page] = generation;
}

void soak_memory_discard(struct soak_memory *memory, uint64_t page)
{
	int advice = memory->kind == SOAK_ANON ? MADV_DONTNEED : MADV_REMOVE;

	if (madvise(page_at(memory, page), memory->page_bytes, advice) < 0)
		soak_give_up("madvise", errno);
	memory->generations[page] |= SOAK_DISCARDED;
}
