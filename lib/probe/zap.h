/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Protected pages, and what is left of their protection after something was done to them.
 *
 * A cell is one thing done to one kind of memory: a function that protects a page, does it, and
 * says what is left. A row is one cell, or the same of several kinds of memory.
 *
 * Context of all: the experiment's process, any of its threads.
 */
#pragma once

#include "probe/lab.h"

/* Readable. */
struct zap {
	struct lab_memory memory;
	int uffd; /* protects all of @memory, by messages */
};

/*
 * @n_pages that were written through the mapping (0xa1; under a private one the file has 0xf1), then
 * protected. @features: beyond what protection needs.
 */
struct zap zap_prepare(struct probe_run *run, enum lab_backing backing, size_t n_pages,
		       uint64_t features);

/*
 * What page @i has: "kept" (the mark, and a store raises a fault) or "lost" (no mark, and a store
 * raises none); else both in words. The store is let through. Static.
 */
const char *zap_state(struct probe_run *run, const struct zap *zap, size_t i);

/* All of it was forgotten by its uffd: registered with a new one, and the old one closed. */
void zap_register_anew(struct probe_run *run, struct zap *zap);

/* The answer of one kind of memory, or the common one of several ("anonymous kept; ..." if none is). */
void zap_answer(struct probe_run *run, enum lab_backing backing,
		const char *(*cell)(struct probe_run *run, enum lab_backing backing));
/* Anonymous; shmem, shared; shmem, private. */
void zap_answer_small(struct probe_run *run,
		      const char *(*cell)(struct probe_run *run, enum lab_backing backing));
/* hugetlb, shared; hugetlb, private. */
void zap_answer_huge(struct probe_run *run,
		     const char *(*cell)(struct probe_run *run, enum lab_backing backing));

/* The experiments of a cell: of one kind of memory; of all small pages; of all huge ones. */
#define ZAP_ON(cell, kind, backing)                            \
	static void try_##cell##_##kind(struct probe_run *run) \
	{                                                      \
		zap_answer(run, backing, cell);                \
	}
#define ZAP_SMALL(cell)                                       \
	static void try_##cell##_small(struct probe_run *run) \
	{                                                     \
		zap_answer_small(run, cell);                  \
	}
#define ZAP_HUGE(cell)                                       \
	static void try_##cell##_huge(struct probe_run *run) \
	{                                                    \
		zap_answer_huge(run, cell);                  \
	}
