/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Changes of a memory's file that pass by all page tables, as far as the file itself shows them.
 *
 *	what		| what it leaves on the file (shmem)		| hugetlbfs
 *	----------------+-----------------------------------------------+--------------------
 *	store, first	| time of change; the page has lost protection	| protection only
 *	punched, cut	| time of change; fewer blocks			| fewer blocks
 *	write(2)	| time of change				| cannot be done
 *	our fills	| blocks					| blocks
 *
 * So a file whose time has not moved was left alone. Else, blocks that went, beyond what the states
 * explain, are looked for; and a time that moved while no page was reported by anybody is a write
 * that came by another way. One beside stores of the guest cannot be told from them.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct memory;

/* In the ledger as it is here. Readable. */
struct file_look {
	uint64_t changed_ns;   /* st_mtime */
	int64_t surplus_pages; /* blocks that are neither present nor filling */
	uint64_t n_marked;     /* memory->n_marked then; of the process that looked */
	uint64_t n_discarded;
	uint32_t is_adopted; /* a former process looked: its counts say nothing to us */
	uint32_t reserved;
};

/* Bits. */
enum file_change {
	FILE_MAY_HAVE_HOLES = 1 << 0, /* present pages may be holes now */
	FILE_WAS_WRITTEN =
		1 << 1, /* and nobody has marked a page; ask again when holes were looked for */
};

/* As it is now. Context: bulk, after a harvest. Return: 0 or -errno. */
int file_look_take(const struct memory *memory, struct file_look *ret);

/* What has changed from @look to @now: bits of enum file_change. */
unsigned int file_look_compare(const struct memory *memory, const struct file_look *look,
			       const struct file_look *now);
