/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Copy before write: what a page held at one moment is saved before its first write after it.
 *
 * Theory of operation. At that moment (the guest stands still) every page is write-protected by a
 * tracker of kind wp, and the hook is set. From then on a write waits for its own page only: the demand
 * thread claims the page, puts a copy of it into a ring, and un-protects it. Whoever saves all pages (a
 * bulk thread) reads a page first and claims it then: what it read before its claim held is what the page
 * held at the moment; if the claim fails, the bytes are, or will be, in the ring, and its own are void.
 * So each page is saved exactly once, and nobody waits for the other.
 *
 *	claimed | by		| the page
 *	--------+---------------+--------------------------------------------------------------
 *	no	| -		| is protected, or absent: it holds what it held
 *	yes	| demand	| its copy was put into the ring before it was un-protected
 *	yes	| bulk		| was read whole before; may be written
 *
 * The ring has a fixed number of places. While it is full, writes of pages that nobody has claimed are
 * parked: they fault again as soon as before_write_release() has made room. Nothing is allocated by the
 * demand thread. Absent pages are filled protected, so the source's bytes are what they held.
 *
 * Discards, and writes that pass by the page tables (note_write, note_discard, MADV_REMOVE), destroy what a page
 * held before anybody can save it. Of pages that nobody claimed they are counted in @n_lost: the copy is
 * not whole then. A claim of the bulk side waits while the demand thread reads events: the kernel lets a discard go on
 * as soon as it was read.
 *
 * A hole that is punched into the file goes before the word of it (QEMU's balloon punches, and then has the
 * mapping discarded, which the kernel tells). So a page that bulk read as zero, and that is told to be discarded
 * afterwards, may have been one: it is lost, too.
 *
 * After a crash there is no hook: the successor un-protects what is written, as its tracker does.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/cleanup.h"

struct before_write;
struct demand;
struct guest;
struct memory;

/* Readable. One page out of the ring. */
struct saved_page {
	uint32_t memory; /* id */
	uint64_t page;
	const void *bytes; /* of the memory's page size, valid until it is released */
};

/* Readable. */
struct before_write_stats {
	uint64_t n_copied; /* by the demand thread */
	uint64_t n_waits;  /* writes that found the ring full */
	uint64_t n_lost; /* pages that were destroyed before anybody saved them, or may have been */
	int error;	 /* positive errno: a copy could not be made, and its write went on; or 0 */
};

/**
 * before_write_new() - not set yet; nothing is claimed
 * @guest:	borrowed; its memories as they are now. A page of one that comes later needs no saving
 * @ring_bytes:	for copies; rounded up to hold 8 of the guest's largest pages
 *
 * Context: bulk. Return: 0, -ENOMEM, -EACCES (anonymous memory of a process that we may not read), -ESRCH, -errno.
 */
int before_write_new(struct before_write **ret, const struct guest *guest, uint64_t ring_bytes);

/* Not set any more. NULL is fine. Context: bulk. Return: NULL. */
struct before_write *before_write_free(struct before_write *hook);
DEFINE_CLEANUP(struct before_write, before_write_free)

/**
 * before_write_set() - from now on, or (NULL) no more
 *
 * The caller has the guest stand still and every page protected, or lets an incomplete copy go.
 * Taken off, parked writes go on without a copy.
 * Context: bulk; waits for one piece of work of the demand thread. Return: 0, -EBUSY (another one is set).
 */
int before_write_set(struct demand *demand, struct before_write *hook);

/*
 * This page has been read whole: does that copy count? Once true for each page. Also for pages that need
 * no saving (then its first write does not wait). @memory: id. Context: bulk.
 */
bool before_write_claim(struct before_write *hook, uint32_t memory, uint64_t page);
/*
 * Likewise, of a page of a file that read zero: a hole may do so that was punched after the moment.
 */
bool before_write_claim_zero(struct before_write *hook, uint32_t memory, uint64_t page);
/* A page was found to be such a hole. */
void before_write_found_hole(struct before_write *hook);
bool before_write_is_claimed(const struct before_write *hook, uint32_t memory, uint64_t page);

/*
 * The oldest copy in the ring, and, when its bytes are where they belong, its place back. One at a time.
 * Context: bulk, one thread. Return: false if there is none (now).
 */
bool before_write_take(struct before_write *hook, struct saved_page *ret);
void before_write_release(struct before_write *hook);

/* Context: any. */
void before_write_stats(const struct before_write *hook, struct before_write_stats *ret);
