/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Causes on our side of a fault, but for the source (why-source.c) and the pager (why-pager.c).
 *
 * The pager may be stopped after a page got stuck, or a page may look stuck only because the pager
 * is stopped. The board tells what was so when it was last written; whether it still is, is asked
 * of the source, the pool and the cgroup themselves.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/units.h"
#include "kernel/procfs.h"
#include "why-cause.h"
#include "why.h"

#define LONG_VERDICT_US 1000000

/* ---- words ----------------------------------------------------------------------------------- */

bool why_is_pager_well(const struct why *why)
{
	return why->pager_state == PAGER_ANSWERS || why->pager_state == PAGER_WORKS;
}

const struct view_memory *why_memory(const struct why *why, const struct why_page *page)
{
	return &why->view->memories[page->memory];
}

void why_describe_page(const struct why *why, const struct why_page *page, char *ret, size_t n_ret)
{
	snprintf(ret, n_ret, "page %lu of memory %s (offset 0x%lx)", page->page,
		 why_memory(why, page)->name, page->page * why_memory(why, page)->page_bytes);
}

double why_seconds_since(const struct why *why, uint64_t us)
{
	return us && us < why->now_us ? (double)(why->now_us - us) / 1e6 : 0;
}

/* ---- memory ---------------------------------------------------------------------------------- */

static uint64_t read_pool(uint64_t page_bytes, const char *file)
{
	char path[128], text[32];

	snprintf(path, sizeof(path), "/sys/kernel/mm/hugepages/hugepages-%lukB/%s",
		 page_bytes / KIB, file);
	return procfs_read(path, text, sizeof(text), NULL) == 0 ? strtoull(text, NULL, 10) : 0;
}

/* Would a try of now succeed? */
static bool has_free_pages(const struct view_memory *memory)
{
	return read_pool(memory->page_bytes, "free_hugepages") >
	       read_pool(memory->page_bytes, "resv_hugepages");
}

static void add_empty_pool(struct why *why, const struct why_page *page)
{
	const struct view_memory *memory = why_memory(why, page);
	uint64_t n_all = read_pool(memory->page_bytes, "nr_hugepages");
	uint64_t n_wanted = memory->counts[PAGE_ABSENT] + memory->counts[PAGE_FILLING];
	bool has_free = has_free_pages(memory);
	struct why_cause *cause;
	char text[128];

	why_describe_page(why, page, text, sizeof(text));
	cause = why_add(
		why, "hugetlb_exhausted", has_free ? WHY_LIKELY : WHY_SURE,
		"No huge page %s free: all %lu of %lu KiB are taken or promised, and %s needs "
		"one, for %.1f s now.",
		has_free ? "was" : "is", n_all, memory->page_bytes / KIB, text,
		why_seconds_since(why, page->since_us));
	why_remedy(cause, "Room for all of this memory that is absent; ufdd goes on by itself.",
		   "echo %lu >/sys/kernel/mm/hugepages/hugepages-%lukB/nr_hugepages",
		   n_all + n_wanted, memory->page_bytes / KIB);
}

static void add_memory_limit(struct why *why)
{
	pid_t pid = why->processes[0].pid;
	struct cgroup cgroup = {};
	uint64_t more_bytes = 64 * MIB;
	struct why_cause *cause;
	bool is_found = cgroup_find_memory(pid, &cgroup);

	for (uint32_t i = 0; i < MAX_MEMORIES; i++)
		more_bytes += why->view->memories[i].page_bytes *
			      (why->view->memories[i].counts[PAGE_ABSENT] +
			       why->view->memories[i].counts[PAGE_FILLING]);
	cause = why_add(
		why, "memory_limit", is_found ? WHY_SURE : WHY_LIKELY,
		"Filling is held back for %.1f s, because the memory control group of process %d "
		"is near its limit (%lu of %lu MiB%s%s): at the limit the kernel would kill it.",
		why_seconds_since(why, why->view->board->held_since_us), pid,
		cgroup.used_bytes / MIB, cgroup.limit_bytes / MIB,
		is_found ? ", " : "; we do not see which", cgroup.folder);
	if (!cause || !is_found)
		return;
	why_remedy(cause, "", "%s", "");
	cgroup_memory_command(&cgroup, more_bytes, cause->remedy, sizeof(cause->remedy));
	snprintf(cause->after, sizeof(cause->after),
		 "Room for all that is absent, %lu MiB; ufdd goes on by itself.", more_bytes / MIB);
}

static void add_no_memory(struct why *why, const struct why_page *page)
{
	struct why_cause *cause;
	char text[128];

	why_describe_page(why, page, text, sizeof(text));
	cause = why_add(why, "no_memory", WHY_LIKELY,
			"There is no memory to put %s into (%s), for %.1f s now.", text,
			page->error ? strerror(page->error) : "tried again and again",
			why_seconds_since(why, page->since_us));
	if (cause)
		why_remedy(cause,
			   "Shows what is short; when there is room, ufdd goes on by itself.",
			   "grep -E 'MemAvailable|SwapFree|Huge' /proc/meminfo; df -h /dev/shm");
}

/* ---- one page -------------------------------------------------------------------------------- */

static bool is_short_of_memory(const struct why_page *page)
{
	return page->error == ENOMEM || page->error == ENOSPC || page->error == EEXIST;
}

static bool find_memory_cause(struct why *why, const struct why_page *page)
{
	const struct view_memory *memory = why_memory(why, page);

	if (memory->kind != BACKING_HUGETLB) {
		add_no_memory(why, page);
		return true;
	}
	/* there is room by now, and nobody is there to see it */
	if (has_free_pages(memory) && !why_is_pager_well(why))
		return false;
	add_empty_pool(why, page);
	return true;
}

static void add_verdict(struct why *why, const struct why_page *page)
{
	struct why_cause *cause;
	char text[128];

	why_describe_page(why, page, text, sizeof(text));
	cause = why_add(
		why, "foreign_page", WHY_SURE,
		"Somebody else made %s appear in the file before it was filled; since %.1f s ufdd "
		"finds out whether its bytes may be restored (which processes map the memory).",
		text, why_seconds_since(why, page->since_us));
	if (cause)
		why_remedy(cause, "Shows who maps it; end those that are not of the guest.",
			   "grep -l '%s' /proc/[0-9]*/maps", why_memory(why, page)->name);
}

static bool find_page_cause(struct why *why, const struct why_page *page)
{
	switch (page->doing) {
	case PAGE_HELD:
		add_memory_limit(why);
		return true;
	case PAGE_STALLED:
		return is_short_of_memory(page) ? find_memory_cause(why, page)
						: why_find_failing_source(why, page);
	case PAGE_READING:
		return why_find_slow_source(why, page);
	case PAGE_TO_RETRY:
		return is_short_of_memory(page) && find_memory_cause(why, page);
	case PAGE_ASKING:
		if (why->now_us < page->since_us + LONG_VERDICT_US)
			return false;
		add_verdict(why, page);
		return true;
	default:
		return false;
	}
}

bool why_find_page_causes(struct why *why)
{
	const struct why_page *oldest = NULL;

	for (size_t i = 0; i < why->n_pages; i++) {
		const struct why_page *page = &why->pages[i];

		if (page->doing == PAGE_DONE || page->doing == PAGE_QUEUED)
			continue;
		if (!oldest || page->since_us < oldest->since_us)
			oldest = page;
	}
	if (oldest)
		return find_page_cause(why, oldest);
	if (why_is_filling_held(why)) {
		add_memory_limit(why);
		return true;
	}
	return false;
}

bool why_has_waiters(const struct why *why)
{
	for (size_t i = 0; i < why->n_threads; i++)
		if (why->threads[i].is_ours != WHY_UNKNOWN)
			return true;
	for (size_t i = 0; i < why->n_pages; i++)
		if (why->pages[i].doing != PAGE_DONE && !why->pages[i].is_poisoned)
			return true;
	return false;
}

bool why_is_filling_held(const struct why *why)
{
	return why->view->board->held_since_us && !ledger_view_is_complete(why->view);
}
