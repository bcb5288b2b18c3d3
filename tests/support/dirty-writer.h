/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A guest that writes pages at random and keeps account of what each of them must hold.
 *
 * Its threads write only as much as they were granted: when every grant is done, nobody writes, and
 * the account is what the memory holds. Pages are owned: by one of its threads each, or by the test, which
 * writes and punches those through the file (writer_is_foreign()).
 */
#pragma once

#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "support/paged-child.h"

#define GRANT_PAGES   50
#define KVM_LIST_AT   UINT64_C(0x8000)	 /* guest-physical: the list of a batch */
#define KVM_MEMORY_AT UINT64_C(0x200000) /* guest-physical: the memory */

/* How it is made. */
struct writer_opts {
	enum child_memory kind;
	uint64_t n_pages;
	uint64_t seed;
	unsigned int n_threads;
	bool is_sync;	   /* a uffd for track=wp */
	bool is_populated; /* every page exists before it is attached; huge, where that is to be had */
	bool is_kvm;	   /* the threads are vCPUs */
	bool is_sealed;	   /* nobody may write the file any more */
	int advice;	   /* how its threads discard; 0: not at all */
};

/* What was done with a page last. */
enum touched { TOUCHED_NEVER, TOUCHED_READ, TOUCHED_WRITTEN, TOUCHED_DISCARDED, TOUCHED_BEHIND };

/* Shared by the guest, its pager and the test. Readable and writable. */
struct writer_board {
	sem_t grants, done;
	_Atomic uint64_t n_written; /* pages */
	_Atomic uint64_t n_wrong;   /* pages that did not hold what they must */
	_Atomic uint64_t wrong_page;
	_Atomic uint32_t percent; /* of the pages are in use; the others were never touched */
	_Atomic uint64_t n_open;  /* pages above are not mapped by the guest now, as it were */
};

/* Readable. */
struct writer {
	struct paged_child child;
	struct writer_opts opts;
	struct writer_board *board;
	unsigned char *account;	   /* shared: what the memory holds */
	_Atomic uint8_t *touched;  /* shared, by page: enum touched; before it is */
	_Atomic uint8_t *accessed; /* shared, by page: it was */
	uint64_t huge_bytes;	   /* of its memory, in huge pages, when it was handed over */
};

/*
 * A guest whose memory is what @source_fd holds: child_page() of each page. Return: 0, or -errno of its userfaultfd,
 * of huge pages or of KVM (skip). Ends with its parent.
 */
int writer_start(struct writer *ret, const struct writer_opts *opts);
void writer_stop(struct writer *writer);

/* Pages of the test: to be written through the file, punched and announced, punched. */
enum foreign { FOREIGN_NONE, FOREIGN_WRITE, FOREIGN_PUNCH, FOREIGN_SECRET };
enum foreign writer_foreign(const struct writer *writer, uint64_t page);

/* Is @page one of those in use? */
bool writer_is_used(const struct writer_board *board, uint64_t page);

void writer_grant(struct writer *writer);
/* A grant that was done. False if none is for @wait_ns. */
bool writer_take_done(struct writer *writer, uint64_t wait_ns);

/* Every page against the account, by the guest. Then child_result(): how many are wrong. */
void writer_begin_check(struct writer *writer);

/* The guest gives pages back that nobody pages now, and forgets that it touched them. */
void writer_forget(struct writer *writer, uint64_t first, uint64_t count);
