/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Dying at any instruction that matters: each call of the kernel, and each store into the ledger,
 * which are seen by wrapping the functions that store (the linker's --wrap).
 *
 * The moves of page states are checked here against a table written for this test.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest/ledger.h"
#include "guest/page-state.h"
#include "parties.h"

static int watched_fd = -EBADF;
static unsigned char *ledger, *kept;
static size_t n_bytes, n_kept;

/* It grows when a consumer comes. */
static void map_ledger(void)
{
	struct stat stat;

	if (fstat(watched_fd, &stat) < 0)
		model_fail("the ledger is no file");
	if ((size_t)stat.st_size == n_bytes)
		return;
	if (ledger)
		munmap(ledger, n_bytes);
	n_bytes = (size_t)stat.st_size;
	ledger = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, watched_fd, 0);
	kept = realloc(kept, n_bytes);
	if (ledger == MAP_FAILED || !kept)
		model_fail("no memory for a ledger");
}

void crash_watch(int ledger_fd)
{
	world.crash_in = 0;
	world.is_frozen = false;
	watched_fd = ledger_fd;
	if (ledger_fd >= 0) {
		map_ledger();
		return;
	}
	if (ledger)
		munmap(ledger, n_bytes);
	free(kept);
	ledger = kept = NULL;
	n_bytes = 0;
}

void crash_arm(uint64_t n_points)
{
	if (!world.is_frozen)
		world.crash_in = n_points;
}

bool crash_point(void)
{
	if (world.is_frozen)
		return true;
	if (!world.crash_in || --world.crash_in)
		return false;
	trace("  the engine dies", 0, 0, 0, 0);
	map_ledger();
	n_kept = n_bytes;
	memcpy(kept, ledger, n_kept);
	world.is_frozen = true;
	return true;
}

void crash_restore(void)
{
	memcpy(ledger, kept, n_kept);
	world.is_frozen = false;
}

/* ---- stores into the ledger ---- */

void store_point(void)
{
	(void)crash_point();
	if (chance_below(3) == 0)
		harvest_others();
}

static void check_move(enum page_state from, enum page_state to)
{
	static const char *const may_become[PAGE_STATES] = {
		[PAGE_ABSENT] = "FR",
		[PAGE_FILLING] = "APR",
		[PAGE_PRESENT] = "R",
		[PAGE_REMOVED] = "P",
	};

	if (!strchr(may_become[from], "AFPR"[to]))
		model_fail("a page goes from %s to %s", page_state_name(from), page_state_name(to));
}

bool __real_page_states_move(struct page_states *states, uint64_t page, enum page_state from,
			     enum page_state to);
bool __wrap_page_states_move(struct page_states *states, uint64_t page, enum page_state from,
			     enum page_state to);
bool __wrap_page_states_move(struct page_states *states, uint64_t page, enum page_state from,
			     enum page_state to)
{
	bool has_moved;

	check_move(from, to);
	store_point();
	has_moved = __real_page_states_move(states, page, from, to);
	if (has_moved)
		trace("  page %llu of %llu pages: state %llu to %llu", page, states->n_pages, from,
		      to);
	store_point();
	return has_moved;
}

uint64_t __real_page_states_move_all(struct page_states *states, struct page_range range,
				     enum page_state from, enum page_state to);
uint64_t __wrap_page_states_move_all(struct page_states *states, struct page_range range,
				     enum page_state from, enum page_state to);
uint64_t __wrap_page_states_move_all(struct page_states *states, struct page_range range,
				     enum page_state from, enum page_state to)
{
	uint64_t n_moved;

	check_move(from, to);
	store_point();
	n_moved = __real_page_states_move_all(states, range, from, to);
	if (n_moved)
		trace("  pages %llu+%llu: state %llu to %llu", range.first, range.count, from, to);
	store_point();
	return n_moved;
}

int __real_ledger_put_record(struct ledger *to, uint32_t tag, uint32_t id, const void *data,
			     size_t n_data);
int __wrap_ledger_put_record(struct ledger *to, uint32_t tag, uint32_t id, const void *data,
			     size_t n_data);
int __wrap_ledger_put_record(struct ledger *to, uint32_t tag, uint32_t id, const void *data,
			     size_t n_data)
{
	int r;

	store_point();
	r = __real_ledger_put_record(to, tag, id, data, n_data);
	store_point();
	return r;
}

void __real_ledger_drop_record(struct ledger *to, uint32_t tag, uint32_t id);
void __wrap_ledger_drop_record(struct ledger *to, uint32_t tag, uint32_t id);
void __wrap_ledger_drop_record(struct ledger *to, uint32_t tag, uint32_t id)
{
	store_point();
	__real_ledger_drop_record(to, tag, id);
	store_point();
}
