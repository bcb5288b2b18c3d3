/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An image on disk (.ufdi), byte for byte: ufd-image(5) describes the same. All numbers are
 * little-endian.
 *
 *	header | frames ... | index | footer | frames ... | index | footer | ...
 *
 * A file only grows. What it holds is what its last whole footer says: whoever appends writes
 * frames, then an index of everything that counts now, then the footer, and syncs. A crash
 * meanwhile leaves the footer before as the last one. It is found from the end of the file: a mark
 * at every multiple of IMAGE_STRIDE says where the last footer before it is, so that the search
 * looks at no more than one stride however much a crash left behind.
 *
 * Memory is counted in blocks of 4 KiB, whatever the guest's pages are. A frame is 1 to 16 blocks
 * that follow each other within an aligned 64 KiB; a run of the index says which blocks of a memory
 * are taken from it. Blocks in no run are zero, or the parent's if there is a parent.
 */
#pragma once

#include <assert.h>
#include <stdint.h>

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "structs are read as they lie on disk");

#define IMAGE_MAGIC	   "ufdimage"
#define IMAGE_FOOTER_MAGIC "ufdi.end"
#define IMAGE_MARK_MAGIC   "ufdi.way"
#define IMAGE_LAYOUT	   1
#define IMAGE_BLOCK_BYTES  4096
#define IMAGE_FRAME_BLOCKS 16
#define IMAGE_FRAME_BYTES  (IMAGE_FRAME_BLOCKS * IMAGE_BLOCK_BYTES)
#define IMAGE_STRIDE	   (UINT64_C(16) << 20)
#define IMAGE_ALIGN	   128 /* of footers, which thus lie within a sector, and of indexes */
#define IMAGE_DIGEST_BYTES 16
#define IMAGE_NAME_BYTES   64
#define IMAGE_MAX_MEMORIES 64
#define IMAGE_MAX_HINT	   4096
#define IMAGE_MAX_INDEX	   (UINT64_C(4) << 30)
#define IMAGE_MAX_BLOCKS   (UINT64_C(1) << 40) /* of one memory: 4 PiB */

enum image_codec { IMAGE_RAW = 0, IMAGE_LZ4 = 1, IMAGE_ZSTD = 2 };

/* As enum ufd_memory_kind says it; for people and for whoever restores. */
enum image_kind { IMAGE_ANON = 0, IMAGE_SHMEM = 1, IMAGE_HUGETLB = 2, IMAGE_PRIVATE = 3 };

/* At 0, once. The rest of its 4 KiB is zero. */
struct image_header {
	char magic[8];
	uint32_t layout;     /* of the writer */
	uint32_t min_reader; /* the oldest layout whose reader understands it */
	uint8_t id[16];	     /* random; what follows repeats it */
	uint64_t created_s;
	uint64_t reserved[2];
	uint64_t checksum; /* XXH3-64 of all before */
};
static_assert(sizeof(struct image_header) == 64, "format");
#define IMAGE_HEADER_BYTES 4096

/*
 * At each multiple of IMAGE_STRIDE but 0. Nothing lies across one, but an index goes on behind it.
 */
struct image_mark {
	char magic[8];
	uint8_t id[16];
	uint64_t offset; /* of the mark itself */
	uint64_t footer; /* offset of the last footer before it; 0: there is none */
	uint64_t reserved[2];
	uint64_t checksum;
};
static_assert(sizeof(struct image_mark) == 64, "format");

struct image_footer {
	char magic[8];
	uint8_t id[16];
	uint64_t offset;     /* of the footer itself */
	uint64_t generation; /* 1, 2, ... */
	uint64_t previous;   /* offset of the footer before; 0: this is the first */
	uint64_t index_offset;
	uint64_t index_bytes;		    /* without the marks within */
	uint8_t digest[IMAGE_DIGEST_BYTES]; /* XXH3-128 of the index, canonical (big-endian) */
	uint64_t reserved[5];
	uint64_t checksum;
};
static_assert(sizeof(struct image_footer) == 128, "format");

/*
 * The index: this, the hint (padded with zeros to 8 bytes), memories, frames, checksums, runs. Its
 * digest is the digest of the image: it covers the checksum of every frame, and the digest of the
 * parent.
 */
struct image_index_head {
	uint8_t id[16];
	uint64_t generation;
	uint8_t parent[IMAGE_DIGEST_BYTES]; /* all zero: none */
	uint32_t n_memories;
	uint32_t n_frames;
	uint64_t n_checksums;
	uint64_t n_runs;
	uint32_t hint_bytes; /* where the parent was: a path, without a final NUL */
	uint32_t reserved0;
	uint64_t reserved[2];
};
static_assert(sizeof(struct image_index_head) == 88, "format");

struct image_memory_entry {
	char name[IMAGE_NAME_BYTES]; /* NUL-padded, never full */
	uint64_t length_bytes;	     /* a multiple of page_bytes */
	uint64_t page_bytes;	     /* the guest's; a power of two, 4 KiB at least */
	uint32_t kind;		     /* enum image_kind */
	uint32_t reserved;
	uint64_t first_run;
	uint64_t n_runs;
};
static_assert(sizeof(struct image_memory_entry) == 104, "format");

/*
 * A raw frame has a checksum for each of its blocks, so that a block can be read alone, and begins
 * at a multiple of 4 KiB; any other has one, of its stored bytes. XXH3-64.
 */
struct image_frame_entry {
	uint64_t offset;
	uint64_t first_block; /* of the memory */
	uint64_t first_checksum;
	uint32_t stored_bytes;
	uint16_t n_blocks;
	uint16_t codec;
};
static_assert(sizeof(struct image_frame_entry) == 32, "format");

/* Of each memory in the order of their blocks, none twice. */
struct image_run_entry {
	uint64_t first_block;
	uint32_t n_blocks;
	uint32_t frame; /* or IMAGE_ZERO_FRAME: they are zero, whatever the parent has */
};
static_assert(sizeof(struct image_run_entry) == 16, "format");
#define IMAGE_ZERO_FRAME UINT32_MAX
