/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The fake kernel's PAGEMAP_SCAN, and what else a harvest of written pages asks. Behaves as docs/kernel.md says.
 *
 * A harvest runs beside everybody else. So whenever it enters the kernel, others may go on before the
 * call and after it: threads of the guest and the engine itself, which may be anywhere in a round of its
 * (harvest_others()).
 */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "kernel/pagemap.h"
#include "kernel/pidfd.h"
#include "kernel/uffd.h"
#include "parties.h"

/* ---- others ---- */

static bool is_harvesting;

void harvest_begin(void)
{
	is_harvesting = true;
}

void harvest_end(void)
{
	midway_finish();
	is_harvesting = false;
}

/* Of a guest that stands still the kernel goes on with what was asked of it, but takes no page. */
static void run_thread(struct thread *thread)
{
	if (!world.is_still || thread->state == THREAD_EVENT_READ)
		thread_run(thread);
}

void harvest_others(void)
{
	if (midway_stop(false))
		return;
	if (!is_harvesting || world.is_calm || world.is_frozen || engine_has_ended())
		return;
	/* a dead engine's successor must not be met in the middle of its harvest */
	is_harvesting = false;
	for (uint64_t n = chance_below(chance_below(4) ? 2 : 8); n && !world.is_frozen; n--) {
		if (chance_below(3))
			run_thread(&world.threads[chance_below(world.n_threads)]);
		else
			midway_go_on();
	}
	is_harvesting = true;
}

int nanosleep(const struct timespec *time, struct timespec *ret_left)
{
	world.now_ns += (uint64_t)time->tv_nsec;
	midway_let_go();
	for (unsigned int i = 0; i < 4; i++)
		harvest_others();
	return 0;
}

/* ---- PAGEMAP_SCAN ---- */

struct walk {
	bool is_protecting;
	struct page_region *vector;
	uint64_t n, n_vector;
};

/* Is it written, as far as the kernel tells? */
static bool is_written(const struct area *area, uint64_t page)
{
	const struct pte *pte = &area->ptes[page];

	/* huge pages that nobody mapped are not looked at */
	if (pte->kind == PTE_NONE && area_memory(area)->kind == BACKING_HUGETLB)
		return false;
	return !pte->is_wp && pte->kind != PTE_POISON;
}

/* Return: false if there is no room. */
static bool report(struct walk *walk, uint64_t start, uint64_t end)
{
	struct page_region *last = walk->n ? &walk->vector[walk->n - 1] : NULL;

	if (last && last->end == start) {
		last->end = end;
		return true;
	}
	if (walk->n == walk->n_vector)
		return false;
	walk->vector[walk->n++] = (struct page_region){ start, end, PAGE_IS_WRITTEN };
	return true;
}

/* Return: PAGEMAP_UNARMED, or 0 with where it stopped. */
static int walk_pages(struct walk *walk, unsigned int process, uint64_t at, uint64_t end,
		      uint64_t *ret_at)
{
	while (at < end) {
		uint64_t page = 0, next = at + 4096;
		struct area *area = area_at(process, at, &page);

		if (area && area->is_mapped[page]) {
			next = area_address(area, page) + area_memory(area)->page_bytes;
			if (!area->is_armed || !world.processes[process].is_registered)
				return PAGEMAP_UNARMED;
			if (at != area_address(area, page) || next > end)
				model_fail("a scan of a part of the page at %#llx",
					   (unsigned long long)at);
			if (is_written(area, page)) {
				if (!report(walk, at, next))
					break;
				area->ptes[page].is_wp |= walk->is_protecting;
			}
		}
		at = next;
		if (chance_below(60) == 0) /* also when nothing else fails */
			break;
	}
	*ret_at = at;
	return 0;
}

int pagemap_scan(int fd, struct hva_range range, uint64_t categories, uint64_t flags,
		 struct page_region *vector, uint64_t n_vector, uint64_t *ret_n,
		 struct hva *ret_walk_end)
{
	unsigned int process = (unsigned int)(fd - FAKE_FD_FIRST) / 16;
	uint64_t end = range.start.v + range.length_bytes, at = end;
	struct walk walk = { .is_protecting = flags & PM_SCAN_WP_MATCHING,
			     .vector = vector,
			     .n_vector = n_vector };
	int r = 0;

	harvest_others();
	*ret_n = 0;
	*ret_walk_end = (struct hva){ end };
	if (categories != PAGE_IS_WRITTEN || !(flags & PM_SCAN_CHECK_WPASYNC) || !n_vector)
		model_fail("a scan that loses pages, or meets those it must not");
	for (uint64_t i = 0; i < n_vector; i++)
		if (!world.is_frozen && vector[i].end)
			model_fail("a scan over what was not marked yet");
	if (crash_point())
		return 0;
	/* one that has ended looks clean */
	if (world.processes[process].is_alive)
		r = walk_pages(&walk, process, range.start.v, end, &at);
	trace("  scan(%#llx, %llu bytes): %llu regions, to %#llx", range.start.v,
	      range.length_bytes, walk.n, at);
	(void)crash_point();
	harvest_others();
	*ret_n = walk.n;
	if (r == 0 && !world.is_frozen)
		*ret_walk_end = (struct hva){ at };
	return world.is_frozen ? 0 : r;
}

/* ---- processes ---- */

bool pidfd_is_alive(int pidfd)
{
	return world.processes[(pidfd - FAKE_FD_FIRST) / 16].is_alive;
}

int uffd_is_gone(int fd, struct hva at, bool *ret_is_gone)
{
	*ret_is_gone = !world.processes[(fd - FAKE_FD_FIRST) / 16].is_alive;
	return 0;
}
