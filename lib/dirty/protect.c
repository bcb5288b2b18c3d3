/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Protection of existing pages, in steps; and whether there is anybody to protect them from. */
#include <errno.h>
#include <stdatomic.h>
#include <time.h>

#include "dirty/tracker.h"
#include "guest/mapping.h"
#include "guest/memory.h"
#include "kernel/pidfd.h"
#include "kernel/uffd.h"

#define STEP_BYTES   (64 * MIB) /* the target's address space is locked for reading meanwhile */
#define SMALL_BYTES  (2 * MIB)
#define CHANGE_TRIES 5000 /* a millisecond each */

int tracker_check_alive(const struct mapping *mapping)
{
	bool is_gone = false;
	int r;

	if (mapping->mapper->is_gone || !pidfd_is_alive(mapping->mapper->pidfd))
		return TRACKER_GONE;
	r = uffd_is_gone(mapping->mapper->uffd, mapping->range.start, &is_gone);
	return r < 0 ? r : is_gone ? TRACKER_GONE : 0;
}

/*
 * One step. While the process changes its address space the kernel asks to come again; the demand
 * thread reads what it waits for. Return: 0, UFFD_UNMAPPED, UFFD_GONE, -EAGAIN, -errno.
 */
static int protect_step(struct mapping *mapping, struct hva_range step, bool is_protected)
{
	struct timespec moment = { .tv_nsec = NSEC_PER_MSEC };
	int r = uffd_write_protect(mapping->mapper->uffd, step, is_protected);

	for (unsigned int tries = 0; r == UFFD_CHANGING && tries < CHANGE_TRIES; tries++) {
		nanosleep(&moment, NULL);
		r = uffd_write_protect(mapping->mapper->uffd, step, is_protected);
	}
	return r == UFFD_CHANGING ? -EAGAIN : r;
}

/*
 * A part of @step is not ours any more, and the rest may have been left out: by and by. Return: 0,
 * UFFD_GONE, -errno.
 */
static int protect_parts(struct mapping *mapping, struct hva_range step, bool is_protected)
{
	uint64_t small_bytes = max_u64(SMALL_BYTES, mapping->memory->page_bytes);
	uint64_t page_bytes = mapping->memory->page_bytes;
	int r = 0;

	for (uint64_t at = 0; r == 0 && at < step.length_bytes; at += small_bytes) {
		struct hva_range part = { hva_add(step.start, at),
					  min_u64(small_bytes, step.length_bytes - at) };

		r = protect_step(mapping, part, is_protected);
		if (r != UFFD_UNMAPPED)
			continue;
		r = 0;
		for (uint64_t page = 0; r == 0 && page < part.length_bytes; page += page_bytes) {
			r = protect_step(
				mapping,
				(struct hva_range){ hva_add(part.start, page), page_bytes },
				is_protected);
			if (r == UFFD_UNMAPPED)
				r = 0; /* a scan finds it unarmed */
		}
	}
	return r;
}

int protect_pages(struct mapping *mapping, struct page_range pages, bool is_protected)
{
	struct hva start = mapping_address(mapping, pages.first);
	uint64_t length_bytes = pages.count * mapping->memory->page_bytes;
	uint64_t step_bytes = max_u64(STEP_BYTES, mapping->memory->page_bytes);
	int r = 0;

	for (uint64_t at = 0; r == 0 && at < length_bytes; at += step_bytes) {
		struct hva_range step = { hva_add(start, at),
					  min_u64(step_bytes, length_bytes - at) };

		r = protect_step(mapping, step, is_protected);
		if (r == UFFD_UNMAPPED)
			r = protect_parts(mapping, step, is_protected);
	}
	return r == UFFD_GONE ? TRACKER_GONE : r;
}

bool protect_next_existing(const struct memory *memory, struct page_range left,
			   struct page_range *ret_run)
{
	uint64_t end = left.first + left.count, first = left.first;
	uint64_t gap_pages = max_u64(SMALL_BYTES / memory->page_bytes, 1);
	struct page_range absent;

	if (atomic_load_explicit(&memory->n_absent, memory_order_acquire) == 0) {
		*ret_run = left;
		return left.count > 0;
	}
	/* what is absent at the start is skipped, however little it is */
	if (page_states_find(&memory->states, left, PAGE_ABSENT, &absent) && absent.first == first)
		first += absent.count;
	if (first == end)
		return false;
	ret_run->first = first;
	for (uint64_t at = first; at < end; at = absent.first + absent.count) {
		if (!page_states_find(&memory->states, (struct page_range){ at, end - at },
				      PAGE_ABSENT, &absent)) {
			ret_run->count = end - first;
			return true;
		}
		if (absent.count >= gap_pages || absent.first + absent.count == end) {
			ret_run->count = absent.first - first;
			return true;
		}
	}
	ret_run->count = end - first;
	return true;
}

int protect_existing(struct mapping *mapping)
{
	struct page_range left = mapping_pages(mapping), run;
	uint64_t end = left.first + left.count;
	int r = 0;

	while (r == 0 && protect_next_existing(mapping->memory, left, &run)) {
		r = protect_pages(mapping, run, true);
		left.first = run.first + run.count;
		left.count = end - left.first;
	}
	return r;
}
