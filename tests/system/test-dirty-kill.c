/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The engine is killed at each step of tracking: while it starts, protects, scans, between the scan and
 * the maps, while it takes an epoch, plugs memory, and stops. A successor adopts the guest each time, and
 * no write of the guest is lost to any consumer.
 *
 * The functions that do so are wrapped by the linker; the wrapper may end the process.
 * UFD_TEST_LONG=1 takes every step, otherwise every third one of each row.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "base/units.h"
#include "guest/dirty-map.h"
#include "guest/ledger.h"
#include "kernel/features.h"
#include "kernel/pagemap.h"
#include "kernel/uapi.h"
#include "kernel/uffd.h"
#include "support/hugepages.h"
#include "support/mortal-pager.h"
#include "support/unit.h"
#include "ufd/pager-dirty.h"

#define N_PAGES 12

/* ---- what is wrapped ---- */

FATE_WRAP(int, uffd_register,
	  (int fd, struct hva_range range, unsigned int modes, uint64_t *ioctls),
	  (fd, range, modes, ioctls))
FATE_WRAP(int, uffd_write_protect, (int fd, struct hva_range range, bool protect),
	  (fd, range, protect))
FATE_WRAP(int, pagemap_scan,
	  (int fd, struct hva_range range, uint64_t categories, uint64_t flags,
	   struct page_region *vector, uint64_t n_vector, uint64_t *ret_n,
	   struct hva *ret_walk_end),
	  (fd, range, categories, flags, vector, n_vector, ret_n, ret_walk_end))
FATE_WRAP(int, ledger_put_record,
	  (struct ledger * ledger, uint32_t tag, uint32_t id, const void *data, size_t n_bytes),
	  (ledger, tag, id, data, n_bytes))
FATE_WRAP_VOID(ledger_drop_record, (struct ledger * ledger, uint32_t tag, uint32_t id),
	       (ledger, tag, id))
FATE_WRAP_VOID(dirty_map_move, (_Atomic uint64_t *from, _Atomic uint64_t *to, uint64_t n_pages),
	       (from, to, n_pages))
FATE_WRAP(uint64_t, dirty_map_take,
	  (_Atomic uint64_t *from, _Atomic uint64_t *to, uint64_t n_pages, bool is_replacing),
	  (from, to, n_pages, is_replacing))
FATE_WRAP_VOID(dirty_maps_mark, (struct dirty_maps * maps, struct page_range pages), (maps, pages))

/* ---- in the pager ---- */

/* Shared with the pager's process. */
struct question {
	char consumer[8];
	uint64_t acknowledge;
	uint64_t epoch; /* the answer */
	uint64_t pages[2];
};

static int ask_start(struct ufd_pager_guest *guest, void *argument)
{
	struct question *question = argument;

	return ufd_pager_guest_dirty_start(guest, question->consumer);
}

static int ask_stop(struct ufd_pager_guest *guest, void *argument)
{
	struct question *question = argument;

	return ufd_pager_guest_dirty_stop(guest, question->consumer);
}

static int ask_read(struct ufd_pager_guest *guest, void *argument)
{
	struct question *question = argument;
	UFD_OPTS(ufd_dirty_epoch, epoch);
	int r = ufd_pager_guest_dirty_read(guest, question->consumer, question->acknowledge,
					   &epoch);

	for (uint32_t memory = 0; r == 0 && memory < 2; memory++) {
		question->pages[memory] = 0;
		/* the second one comes and goes */
		if (ufd_pager_guest_dirty_bitmap(guest, question->consumer, memory, 0,
						 &question->pages[memory], 1) < 0 &&
		    memory == 0)
			return -EIO;
	}
	question->epoch = epoch.epoch;
	return r;
}

/* ---- a guest, and what each consumer must be told ---- */

static const struct {
	const char *what;
	enum child_memory kind;
	uint32_t track;
	bool has_graduated; /* before it is tracked */
} guests[] = {
	{ "shmem, scan", CHILD_SHMEM, UFD_TRACK_SCAN, false },
	{ "shmem, wp", CHILD_SHMEM, UFD_TRACK_WP, false },
	{ "anonymous, scan, graduated", CHILD_ANON, UFD_TRACK_SCAN, true },
	{ "huge pages, wp, graduated", CHILD_HUGETLB, UFD_TRACK_WP, true },
};

struct watcher {
	const char *name;
	bool is_started;
	uint64_t epoch;	   /* got */
	uint64_t expected; /* pages of the first memory, written since */
};

struct fixture {
	struct paged_child child;
	struct mortal mortal;
	struct mortal_guest guest;
	struct question *question;
	struct watcher watchers[2];
	const char *what;
	uint64_t step;
	bool has_died;
};

static uint64_t page_bytes_of(int row)
{
	return guests[row].kind == CHILD_HUGETLB ? 2 * MIB : 4096;
}

/* What all guests of a row begin with; huge pages take too long to be written again for each. */
static int make_source(int row)
{
	uint64_t page_bytes = page_bytes_of(row);
	char *content = malloc(page_bytes);
	int fd = open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	ck_assert_int_ge(fd, 0);
	for (uint64_t page = 0; page < N_PAGES; page++) {
		child_page(page, page_bytes, content);
		ck_assert_int_eq(write(fd, content, page_bytes), (ssize_t)page_bytes);
	}
	free(content);
	return fd;
}

static void fixture_init(struct fixture *fixture, int row, int source_fd, uint64_t step)
{
	int r;

	*fixture = (struct fixture){ .what = guests[row].what, .step = step };
	if (guests[row].kind == CHILD_HUGETLB && !hugepages_are_reserved())
		unit_skip("no huge pages of 2 MiB to be had");
	if (guests[row].track == UFD_TRACK_SCAN && !(features_get()->uffd & UFFD_FEATURE_WP_ASYNC))
		unit_skip("needs WP_ASYNC (Linux 6.7)");
	r = child_start_tracked(&fixture->child, guests[row].kind, N_PAGES * page_bytes_of(row),
				guests[row].track == UFD_TRACK_WP);
	if (r == -EPERM || r == -EACCES)
		unit_skip("no userfaultfd for kernel faults: %s", strerror(-r));
	ck_assert_int_eq(r, 0);
	mortal_init(&fixture->mortal);
	fixture->guest = (struct mortal_guest){
		.child = &fixture->child,
		.kind = guests[row].kind,
		.source_fd = source_fd,
		.spec = "file:",
		.no_background = 1,
		.window_bytes = UFD_NO_WINDOW,
		.track = guests[row].track,
		.is_split = true,
	};
	fixture->question = mmap(NULL, sizeof(*fixture->question), PROT_READ | PROT_WRITE,
				 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ck_assert_ptr_ne(fixture->question, MAP_FAILED);
	fixture->watchers[0].name = "a";
	fixture->watchers[1].name = "b";
}

static void fixture_done(struct fixture *fixture)
{
	mortal_done(&fixture->mortal);
	child_stop(&fixture->child);
	munmap(fixture->question, sizeof(*fixture->question));
}

/* It died, of what it was asked or of what the guest did: somebody else goes on. */
static void revive(struct fixture *fixture)
{
	int r;

	fixture->has_died = true;
	mortal_wait(&fixture->mortal);
	atomic_store(&fixture->mortal.fate->dies_at, 0);
	r = mortal_adopt(&fixture->mortal);
	ck_assert_msg(r == 0, "%s, step %llu: adoption: %s", fixture->what,
		      (unsigned long long)fixture->step, strerror(-r));
}

/* A write by the guest; with wp it may be the death of the pager, and waits for the next one. */
static void poke(struct fixture *fixture, uint64_t page)
{
	child_begin_poke(&fixture->child, page, page + 100);
	while (!child_has_result(&fixture->child, 1))
		if (!mortal_is_alive(&fixture->mortal))
			revive(fixture);
	(void)child_result(&fixture->child);
	for (int i = 0; i < 2; i++)
		if (fixture->watchers[i].is_started)
			fixture->watchers[i].expected |= UINT64_C(1) << page;
}

/* Ask until somebody lives to answer. @settled: what a former asking may have done already. */
static int ask(struct fixture *fixture, int watcher, mortal_work work, int settled)
{
	int r;

	strcpy(fixture->question->consumer, fixture->watchers[watcher].name);
	r = mortal_do(&fixture->mortal, work, fixture->question, UINT64_MAX);
	while (r == -ESRCH && !mortal_is_alive(&fixture->mortal)) {
		revive(fixture);
		r = mortal_do(&fixture->mortal, work, fixture->question, UINT64_MAX);
		if (r == settled)
			r = 0;
	}
	ck_assert_msg(r == 0, "%s, step %llu: %s: %s", fixture->what,
		      (unsigned long long)fixture->step, fixture->question->consumer, strerror(-r));
	return r;
}

static void start(struct fixture *fixture, int watcher)
{
	(void)ask(fixture, watcher, ask_start, -EEXIST);
	fixture->watchers[watcher].is_started = true;
	fixture->watchers[watcher].epoch = 0;
	fixture->watchers[watcher].expected = 0;
}

static void take(struct fixture *fixture, int i)
{
	struct watcher *watcher = &fixture->watchers[i];

	fixture->question->acknowledge = watcher->epoch;
	(void)ask(fixture, i, ask_read, 0);
	ck_assert_msg((fixture->question->pages[0] & watcher->expected) == watcher->expected,
		      "%s, step %llu: %s was told of %#llx, of %#llx", fixture->what,
		      (unsigned long long)fixture->step, watcher->name,
		      (unsigned long long)fixture->question->pages[0],
		      (unsigned long long)watcher->expected);
	if (!fixture->has_died)
		ck_assert_uint_eq(fixture->question->pages[0], watcher->expected);
	ck_assert_uint_eq(fixture->question->epoch, watcher->epoch + 1);
	watcher->epoch = fixture->question->epoch;
	watcher->expected = 0;
}

static void stop(struct fixture *fixture, int watcher)
{
	(void)ask(fixture, watcher, ask_stop, -ENOENT);
	fixture->watchers[watcher].is_started = false;
}

static void plug(struct fixture *fixture, bool is_in)
{
	int r = mortal_plug(&fixture->mortal, is_in);

	if (r == -ESRCH && !mortal_is_alive(&fixture->mortal)) {
		revive(fixture);
		r = mortal_plug(&fixture->mortal, is_in);
	}
	/* what was done before the death, or undone by the successor */
	ck_assert_msg(r == 0 || (fixture->has_died && (r == -EEXIST || r == -ENOENT)),
		      "%s, step %llu: plug: %s", fixture->what, (unsigned long long)fixture->step,
		      strerror(-r));
}

static int wait_graduated(struct ufd_pager_guest *guest, void *argument)
{
	struct timespec moment = { .tv_nsec = 1000000 };
	UFD_OPTS(ufd_guest_stats, stats);
	int r = ufd_pager_guest_finish(guest, 0);

	(void)argument;
	for (int i = 0; r == 0 && i < 20000; i++) {
		r = ufd_pager_guest_stats(guest, &stats);
		if (r == 0 && stats.is_graduated)
			return 0;
		nanosleep(&moment, NULL);
	}
	return r ? r : -ETIMEDOUT;
}

/* ---- a life of tracking; its pager dies at one step of it ---- */

static void live(struct fixture *fixture)
{
	start(fixture, 0);
	poke(fixture, 1);
	poke(fixture, 2);
	take(fixture, 0);
	poke(fixture, 2);
	start(fixture, 1);
	poke(fixture, 2);
	poke(fixture, 3);
	take(fixture, 1);
	plug(fixture, true);
	poke(fixture, 4);
	take(fixture, 0);
	stop(fixture, 0);
	poke(fixture, 5);
	take(fixture, 1);
	stop(fixture, 1);
	poke(fixture, 5);
}

/* Return: how many points there were. */
static uint64_t die_tracking(int row, int source_fd, uint64_t step, bool *ret_has_died)
{
	struct fixture fixture;
	uint64_t n_points;

	fixture_init(&fixture, row, source_fd, step);
	ck_assert_int_eq(mortal_start(&fixture.mortal, &fixture.guest), 0);
	for (uint64_t page = 0; page < N_PAGES / 2; page++)
		ck_assert_uint_eq(child_peek(&fixture.child, page), child_word(page, 0));
	if (guests[row].has_graduated)
		ck_assert_int_eq(mortal_do(&fixture.mortal, wait_graduated, NULL, UINT64_MAX), 0);
	atomic_store(&fixture.mortal.fate->n_points, 0);
	atomic_store(&fixture.mortal.fate->dies_at, step);
	live(&fixture);
	n_points = atomic_load(&fixture.mortal.fate->n_points);
	*ret_has_died = fixture.has_died;
	/* and all of it is served, whoever does it now */
	if (atomic_load(&fixture.mortal.fate->dies_at) == FATE_SEALED)
		ck_assert(fixture.has_died);
	atomic_store(&fixture.mortal.fate->dies_at, 0);
	ck_assert_uint_eq(child_peek(&fixture.child, 0), child_word(0, 0));
	ck_assert_uint_eq(child_peek(&fixture.child, 3), 103);
	fixture_done(&fixture);
	return n_points;
}

START_TEST(no_write_is_lost_by_a_death_at_any_step_of_tracking)
{
	uint64_t stride = getenv("UFD_TEST_LONG") ? 1 : 3, n_points;
	unsigned int n_died = 0, n_steps = 0;
	int source_fd = make_source(_i);
	bool has_died;

	n_points = die_tracking(_i, source_fd, 0, &has_died);
	ck_assert(!has_died);
	for (uint64_t step = 1 + (uint64_t)_i % stride; step <= n_points; step += stride) {
		(void)die_tracking(_i, source_fd, step, &has_died);
		n_died += has_died;
		n_steps++;
	}
	printf("# %s: %u deaths in %u steps of %llu\n", guests[_i].what, n_died, n_steps,
	       (unsigned long long)n_points);
	ck_assert_uint_ge(n_died, n_steps * 3 / 4);
	close(source_fd);
}
END_TEST

int main(void)
{
	hugepages_reserve(2 * N_PAGES);
	return unit_run(
		"dirty-kill",
		(struct unit_test[]){
			UNIT_TABLE(no_write_is_lost_by_a_death_at_any_step_of_tracking, guests),
			{},
		});
}
