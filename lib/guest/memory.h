/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A memory: one backing and the states of its pages, indexed by offset, whoever maps it. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/cleanup.h"
#include "base/units.h"
#include "guest/dirty-map.h"
#include "guest/ledger.h"
#include "guest/page-state.h"
#include "kernel/backing.h"

#define NAME_BYTES   64
#define MAX_POISONED 64

struct source;

/* Fields are readable by the rooms above; changed here and by the demand thread only. */
struct memory {
	uint32_t id; /* index in its guest */
	char name[NAME_BYTES];
	enum backing_kind kind;
	uint64_t page_bytes;
	bool is_huge; /* pages of a pool: of hugetlbfs, or anonymous (MAP_HUGETLB) */
	uint64_t length_bytes;
	int backing;		 /* owned; -EBADF for anonymous memory */
	uint64_t backing_offset; /* of the memory's first byte */
	dev_t device;		 /* of the backing, to find its mappers */
	ino_t inode;
	struct source *source; /* borrowed from the owner of the guest */
	uint64_t source_offset;
	bool is_backing_source;	    /* the bytes are in the backing: CONTINUE */
	struct page_states states;  /* in the ledger */
	_Atomic uint64_t n_absent;  /* absent or filling pages; relaxed, by demand */
	_Atomic uint64_t n_stalled; /* pages that wait for bytes that cannot be had */
	struct dirty_maps dirty;    /* of those who track it */
	/* relaxed; so that a look at the file can be told what is known already */
	_Atomic uint64_t n_marked; /* times that pages were marked as written, or written by us */
	_Atomic uint64_t
		n_discarded; /* twice the times that pages were; odd: some are being told */
	_Atomic uint32_t n_mappings;
	_Atomic bool is_forgotten; /* its last mapping is gone; another may take its id */
	struct memory *next_forgotten;
	uint64_t states_offset;		 /* of the area in the ledger */
	uint64_t poisoned[MAX_POISONED]; /* pages, a short list */
	uint32_t n_poisoned;
};

/* Readable. */
struct memory_config {
	const char *name;
	enum backing_kind kind;
	uint64_t page_bytes;
	uint64_t length_bytes;
	int backing; /* duplicated */
	uint64_t backing_offset;
	struct source *source;
	uint64_t source_offset;
	bool is_backing_source;
};

/*
 * Adds the states' area and a record to the ledger. Every page is absent; no state is written, so
 * the size costs nothing. What the backing is (kind, length) is the caller's to check.
 * Return: 0, -EINVAL (alignment, name, no backing), -ENOSPC (records), -errno.
 */
int memory_new(struct memory **ret, uint32_t id, const struct memory_config *config,
	       struct ledger *ledger);

/**
 * memory_adopt() - the memory that a record of a former process describes
 *
 * Its filling pages stay filling: the demand thread takes them over (fault/put.c), and repeats their
 * COPY, where EEXIST means that the former process, and perhaps the guest after it, has written them.
 * As absent pages they would look like foreign touches. Nothing is written into the ledger.
 * The config gives what the ledger cannot hold (backing, source). Return: 0, LEDGER_DAMAGED,
 * -EINVAL (differs from the record), -errno.
 */
int memory_adopt(struct memory **ret, uint32_t id, const struct memory_config *config,
		 struct ledger *ledger);

/*
 * What the record of memory @id says; backing is -EBADF, source NULL, the name points into the
 * ledger. Return: 0, -ENOENT, LEDGER_DAMAGED.
 */
int memory_recorded(const struct ledger *ledger, uint32_t id, struct memory_config *ret);

/* The file that record names as its backing; 0 and 0 for anonymous memory. Return: as above. */
int memory_recorded_file(const struct ledger *ledger, uint32_t id, dev_t *ret_device,
			 ino_t *ret_inode);

/*
 * The states of its pages, for those who look: mapped as @ledger is, until it is freed. @ret_offset:
 * where they begin in it. Return: as above, or -errno.
 */
int memory_recorded_states(struct ledger *ledger, uint32_t id, struct page_states *ret,
			   uint64_t *ret_offset);

/* One that was forgotten before we came: it keeps its id from others until a new one takes it. */
int memory_new_forgotten(struct memory **ret, uint32_t id);

struct memory *memory_free(struct memory *memory);
DEFINE_CLEANUP(struct memory, memory_free)

static inline uint64_t memory_n_pages(const struct memory *memory)
{
	return memory->states.n_pages;
}

/* Somebody wants to know what is written: fills are write-protected. Context: any. */
static inline bool memory_is_tracked(const struct memory *memory)
{
	return __atomic_load_n((const uint32_t *)&memory->dirty.armed, __ATOMIC_ACQUIRE) != 0;
}

/*
 * Note pages as written, for all who track the memory: before the guest may write on. Context: any;
 * does not block.
 */
void memory_mark_dirty(struct memory *memory, struct page_range pages);

/* Maps for consumer @slot in the ledger, clean and not armed. Context: not demand. Return: 0, -ENOSPC, -errno. */
int memory_add_maps(struct memory *memory, struct ledger *ledger, uint32_t slot);
/* Those of a former process. Return: 0, LEDGER_DAMAGED, -errno. */
int memory_adopt_maps(struct memory *memory, struct ledger *ledger, uint32_t slot,
		      uint64_t area_offset);
/* They are not armed, and nobody marks there any more. None is fine. */
void memory_drop_maps(struct memory *memory, struct ledger *ledger, uint32_t slot);

/*
 * The poison list, also in the ledger. Context: demand.
 * Return: false when it, or the ledger, is full.
 */
bool memory_add_poisoned(struct memory *memory, struct ledger *ledger, uint64_t page);
bool memory_is_poisoned(const struct memory *memory, uint64_t page);
