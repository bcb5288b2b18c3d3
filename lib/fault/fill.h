/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* From the claim of an absent page to its presence: fill.c, place.c, resolve.c. For this room only. */
#pragma once

#include "fault/engine.h"

/* ---- fill.c: claims, and what sources answer ---- */

/*
 * Claim what is absent at the start of @pages, and fill it.
 * Return: false if no slot is free; nothing was claimed then.
 */
bool fill_begin(struct demand *demand, struct memory *memory, struct page_range pages,
		enum slot_cause cause);
/* Ask the source (again), and put in what it says at once. */
void fill_read(struct demand *demand, struct slot *slot);
/* The source has answered. */
void fill_answer(struct demand *demand, struct slot *slot, int answer);
/* For sources that complete elsewhere; see struct source_request. Context: any. */
void fill_complete_elsewhere(struct source_request *request, int answer);
/* Give back what is still filling, as @state, and release the slot. */
void fill_give_back(struct demand *demand, struct slot *slot, enum page_state state);
/* The bytes cannot be had (positive errno): to policy, if somebody waits for them. */
void fill_fail(struct demand *demand, struct slot *slot, int error);
/* Release the slot, and its note in the ledger. */
void fill_end(struct demand *demand, struct slot *slot);
/* Try again then. @error: why, positive errno, 0: only for a moment. */
void fill_wait(struct demand *demand, struct slot *slot, uint64_t retry_at_ns, int error);
/* Data or zero at the start of @pages, and for how many; for backing sources the file's own holes. */
bool fill_is_zero(struct demand *demand, struct memory *memory, struct page_range pages,
		  uint64_t *ret_n_pages);

/* Flags of every fill: protected while a tracker is armed. */
unsigned int fill_flags(const struct memory *memory);
struct hva_range fill_range(const struct mapping *mapping, struct page_range pages);
void fill_wake(struct demand *demand, struct mapping *mapping, struct page_range pages);
/* In every mapping but @done (or NULL), which the kernel has woken already. */
void fill_wake_others(struct demand *demand, const struct memory *memory, struct page_range pages,
		      const struct mapping *done);
void fill_count(struct demand *demand, enum slot_cause cause, uint64_t n_pages,
		uint64_t page_bytes);
/* @pages are in place: the ledger says so from now on. */
void fill_present(struct demand *demand, struct memory *memory, struct page_range pages);

/* ---- place.c: bytes into pages ---- */

/* Bytes are in the buffer: put them in; releases the slot, or leaves it waiting. */
void fill_put(struct demand *demand, struct slot *slot);
/* Zeros, by the cheapest ioctl that is allowed there. As uffd_copy(). */
int fill_zeros(struct demand *demand, struct mapping *mapping, struct page_range pages,
	       uint64_t *ret_done_bytes);
/* Is there really a page at @page of this mapping? Return: 0, or -errno if that cannot be told. */
int fill_prove(struct mapping *mapping, uint64_t page, bool *ret_exists);

/* ---- resolve.c: pages resolved on the spot ---- */

/* Zeros: missing x removed, missing x absent in a backing source, and probes. */
void fill_zero(struct demand *demand, struct mapping *mapping, uint64_t page);
/* What the file holds: minor x present, and first touches of a backing source. */
void fill_map(struct demand *demand, struct mapping *mapping, struct page_range pages);
/* The page should be there: map it, or find that it was discarded. */
void fill_probe(struct demand *demand, struct mapping *mapping, uint64_t page);
