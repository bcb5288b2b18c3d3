/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Trackers: how writes are noticed. Both protect pages; what was written has lost its protection.
 *
 *	kind | who takes the protection off	| where that is seen
 *	-----+----------------------------------+------------------------------------------------
 *	scan | the kernel, at once		| PAGEMAP_SCAN finds such pages and protects them again
 *	wp   | the demand thread, at a fault	| it has marked the page before
 *
 * Invariant of both: a page that is not protected, and may be written, is in the pending map of
 * each consumer whose baseline is older (wp), or will be found by the next scan (scan).
 *
 * Absent pages are protected by their fill, so large runs of them are never looked at.
 *
 * Threads: the functions here belong to one thread at a time, who holds the guest's model still.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/units.h"

struct guest;
struct ledger;
struct mapping;
struct memory;

/* What a harvest met; added up. */
struct dirty_counts {
	uint64_t n_scans;    /* calls of PAGEMAP_SCAN */
	uint64_t n_reported; /* pages, through whichever mapping */
	uint64_t
		uncertain_bytes; /* of those: filled while the scan looked, or in a part that is unarmed */
	uint64_t unarmed_bytes; /* of those: the kernel does not track them (any more) */
};

enum {
	_TRACKER_OK,
	TRACKER_GONE, /* the process has ended: what it wrote last cannot be told any more */
};

/* Readable. */
struct tracker {
	const char *name;
	bool is_sync;
	/**
	 * @collect: mark what was written through @mapping in the pending maps, and protect it
	 *           again
	 *
	 * Return: 0, TRACKER_GONE, -EACCES (pagemap), -errno.
	 */
	int (*collect)(struct ledger *ledger, struct mapping *mapping, struct dirty_counts *counts);
	/**
	 * @protect_again: @pages of @mapping were taken out of the pending maps
	 *
	 * NULL: nothing is to be done. Return: 0, TRACKER_GONE, -EAGAIN, -errno.
	 */
	int (*protect_again)(struct mapping *mapping, struct page_range pages);
};

extern const struct tracker tracker_scan;
extern const struct tracker tracker_wp;

/*
 * A process that has ended, or runs another program, looks clean. Return: 0, TRACKER_GONE, -errno.
 */
int tracker_check_alive(const struct mapping *mapping);

/*
 * Protect @pages of @mapping, or take the protection off and wake; in steps of at most 64 MiB. What
 * the process has unmapped is left out.
 * Context: bulk, blocks while the process's address space changes. Return: 0, TRACKER_GONE, -EAGAIN
 * (for too long), -errno.
 */
int protect_pages(struct mapping *mapping, struct page_range pages, bool is_protected);

/* The same of all that exists (see protect_next_existing()). */
int protect_existing(struct mapping *mapping);

/*
 * The next run of @left that is not absent. Absent runs of less than 2 MiB are in it: to look at
 * them is cheaper than to step over them. Return: false if there is none.
 */
bool protect_next_existing(const struct memory *memory, struct page_range left,
			   struct page_range *ret_run);

/*
 * The regions of a scan that a former process had not marked yet: marked now, in the maps there
 * are.
 * Context: bulk, before the demand thread runs.
 */
void scan_recover(struct guest *guest);
