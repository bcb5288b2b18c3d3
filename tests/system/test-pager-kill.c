/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The engine is killed, again and again, and a successor adopts its guest: at random moments, at each
 * call of the kernel and each store that matters, and between reading a REMOVE and applying it.
 *
 * The functions that do so are wrapped by the linker; the wrapper may end the process.
 * UFD_TEST_SHORT=1 takes every fourth step and a quarter of the kills, UFD_TEST_LONG=1 five times as many.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/units.h"
#include "guest/ledger.h"
#include "guest/page-state.h"
#include "kernel/uffd.h"
#include "support/hugepages.h"
#include "support/mortal-pager.h"
#include "support/unit.h"

/* ---- what is wrapped ---- */

FATE_WRAP(int, uffd_zeropage, (int fd, struct hva_range range, unsigned int flags, uint64_t *done),
	  (fd, range, flags, done))
FATE_WRAP(int, uffd_continue, (int fd, struct hva_range range, unsigned int flags, uint64_t *done),
	  (fd, range, flags, done))
FATE_WRAP(int, uffd_wake, (int fd, struct hva_range range), (fd, range))
FATE_WRAP(int, uffd_register,
	  (int fd, struct hva_range range, unsigned int modes, uint64_t *ioctls),
	  (fd, range, modes, ioctls))
FATE_WRAP(int, uffd_unregister, (int fd, struct hva_range range), (fd, range))
FATE_WRAP(bool, page_states_move,
	  (struct page_states * states, uint64_t page, enum page_state from, enum page_state to),
	  (states, page, from, to))
FATE_WRAP(uint64_t, page_states_move_all,
	  (struct page_states * states, struct page_range range, enum page_state from,
	   enum page_state to),
	  (states, range, from, to))
FATE_WRAP(int, ledger_put_record,
	  (struct ledger * ledger, uint32_t tag, uint32_t id, const void *data, size_t n_bytes),
	  (ledger, tag, id, data, n_bytes))

int __real_uffd_copy(int fd, struct hva to, const void *from, uint64_t length, unsigned int flags,
		     uint64_t *done);
int __wrap_uffd_copy(int fd, struct hva to, const void *from, uint64_t length, unsigned int flags,
		     uint64_t *done);
int __wrap_uffd_copy(int fd, struct hva to, const void *from, uint64_t length, unsigned int flags,
		     uint64_t *done)
{
	int r;

	fate_point();
	r = __real_uffd_copy(fd, to, from, length, flags, done);
	fate_point();
	if (*done)
		fate_copied();
	return r;
}

int __real_uffd_read(int fd, struct uffd_msg *buffer, unsigned int n_buffer, unsigned int *ret_n);
int __wrap_uffd_read(int fd, struct uffd_msg *buffer, unsigned int n_buffer, unsigned int *ret_n);
int __wrap_uffd_read(int fd, struct uffd_msg *buffer, unsigned int n_buffer, unsigned int *ret_n)
{
	int r = __real_uffd_read(fd, buffer, n_buffer, ret_n);

	for (unsigned int i = 0; r == 0 && i < *ret_n; i++)
		if (buffer[i].event == UFFD_EVENT_REMOVE)
			fate_read();
	if (r == 0 && *ret_n)
		fate_point();
	return r;
}

/* ---- guests ---- */

static const struct {
	const char *what;
	enum child_memory kind;
	bool is_backing; /* the bytes are in the memory's own file */
	int advice;
	uint32_t no_background;
	uint64_t window_bytes;
} guests[] = {
	{ "shmem", CHILD_SHMEM, false, MADV_REMOVE, 1, UFD_NO_WINDOW },
	{ "shmem, window and background", CHILD_SHMEM, false, MADV_REMOVE, 0, 0 },
	{ "shmem from its own file", CHILD_SHMEM, true, MADV_REMOVE, 1, 0 },
	{ "huge pages", CHILD_HUGETLB, false, MADV_REMOVE, 1, UFD_NO_WINDOW },
	{ "huge pages from their own file", CHILD_HUGETLB, true, MADV_REMOVE, 1, UFD_NO_WINDOW },
	{ "anonymous", CHILD_ANON, false, MADV_DONTNEED, 1, UFD_NO_WINDOW },
	{ "anonymous, window and background", CHILD_ANON, false, MADV_DONTNEED, 0, 0 },
	{ "private file", CHILD_PRIVATE, false, MADV_DONTNEED, 0, 0 },
};
#define HUGE_PAGES 24

static void write_pattern(int fd, uint64_t length, uint64_t page_bytes)
{
	static unsigned char page[2 * MIB];
	unsigned char *view = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	ck_assert_ptr_ne(view, MAP_FAILED);
	for (uint64_t at = 0; at < length; at += page_bytes) {
		child_page(at / page_bytes, page_bytes, page);
		memcpy(view + at, page, page_bytes);
	}
	munmap(view, length);
}

struct fixture {
	struct paged_child child;
	struct mortal mortal;
	struct mortal_guest guest;
	int source;
};

static void fixture_init(struct fixture *fixture, int row, uint64_t n_pages)
{
	enum child_memory kind = guests[row].kind;
	uint64_t length = n_pages * (kind == CHILD_HUGETLB ? HUGE_BYTES : 4096);
	int r;

	if (kind == CHILD_HUGETLB && !hugepages_are_reserved())
		unit_skip("no huge pages of 2 MiB to be had");
	r = child_start(&fixture->child, kind, length);
	/* the kernel takes the huge pages of who was killed back a little later */
	for (unsigned int tries = 0; r == -ENOMEM && tries < 5000; tries++) {
		struct timespec moment = { .tv_nsec = (long)NSEC_PER_MSEC };

		nanosleep(&moment, NULL);
		r = child_start(&fixture->child, kind, length);
	}
	if (r == -EPERM || r == -EACCES)
		unit_skip("no userfaultfd for kernel faults: %s", strerror(-r));
	ck_assert_int_eq(r, 0);
	mortal_init(&fixture->mortal);
	fixture->source = -1;
	if (guests[row].is_backing) {
		write_pattern(fixture->child.memfd, length, fixture->child.page_bytes);
	} else {
		fixture->source = open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
		ck_assert_int_ge(fixture->source, 0);
		ck_assert_int_eq(ftruncate(fixture->source, (off_t)length), 0);
		write_pattern(fixture->source, length, fixture->child.page_bytes);
	}
	fixture->guest = (struct mortal_guest){
		.child = &fixture->child,
		.kind = kind,
		.spec = guests[row].is_backing ? "backing" : "file:",
		.source_fd = fixture->source,
		.no_background = guests[row].no_background,
		.window_bytes = guests[row].window_bytes,
	};
}

static void fixture_done(struct fixture *fixture)
{
	mortal_done(&fixture->mortal);
	child_stop(&fixture->child);
	if (fixture->source >= 0)
		close(fixture->source);
}

/* The child's answer within 20 seconds, or it hangs. */
static uint64_t take_result(const struct paged_child *child)
{
	struct pollfd wait = { .fd = child->socket, .events = POLLIN };

	ck_assert_msg(poll(&wait, 1, 20000) == 1, "the guest hangs");
	return child_result(child);
}

static bool has_result(const struct paged_child *child, int timeout_ms)
{
	struct pollfd wait = { .fd = child->socket, .events = POLLIN };

	return poll(&wait, 1, timeout_ms) == 1;
}

/* ---- random moments ---- */

/* Between 20 us and 4 ms, the shorter the likelier. */
static void doze(unsigned int *seed)
{
	struct timespec time = { .tv_nsec = 20000L << rand_r(seed) % 8 };

	time.tv_nsec += rand_r(seed) % time.tv_nsec;
	nanosleep(&time, NULL);
}

#define N_KILLS 30

static unsigned int n_kills_wanted(void)
{
	if (getenv("UFD_TEST_SHORT"))
		return N_KILLS / 4;
	return getenv("UFD_TEST_LONG") ? N_KILLS * 5 : N_KILLS;
}

START_TEST(a_guest_goes_on_after_any_kill)
{
	unsigned int seed = (unsigned int)_i + 1, n_kills = 0, n_rounds = 0;

	for (; n_kills < n_kills_wanted(); n_rounds++) {
		struct fixture fixture;

		fixture_init(&fixture, _i, guests[_i].kind == CHILD_HUGETLB ? HUGE_PAGES : 2048);
		ck_assert_int_eq(mortal_start(&fixture.mortal, &fixture.guest), 0);
		child_begin_churn(&fixture.child, 4, guests[_i].kind == CHILD_HUGETLB ? 100 : 1500,
				  seed, guests[_i].advice);
		while (!has_result(&fixture.child, 0)) {
			int r;

			doze(&seed);
			mortal_kill(&fixture.mortal);
			n_kills++;
			r = mortal_adopt(&fixture.mortal);
			ck_assert_msg(r == 0, "%s: kill %u: %s", guests[_i].what, n_kills,
				      strerror(-r));
			/* while nobody kills, something must be done */
			(void)has_result(&fixture.child, n_kills % 8 ? 0 : 5);
		}
		ck_assert_uint_eq(take_result(&fixture.child), 0);
		fixture_done(&fixture);
	}
	printf("# %s: %u kills in %u guests\n", guests[_i].what, n_kills, n_rounds);
}
END_TEST

/* ---- every step ---- */

#define N_STEPS	   40
#define STEP_PAGES 12

/*
 * The same small guest each time; its pager dies a step later than before, and its successor (which
 * dies as many steps after its own start) is adopted, too.
 */
static void die_at_step(int row, uint64_t step, bool *ret_has_died)
{
	struct fixture fixture;
	int r;

	fixture_init(&fixture, row, STEP_PAGES);
	atomic_store(&fixture.mortal.fate->dies_at, step);
	r = mortal_start(&fixture.mortal, &fixture.guest);
	if (r == -ESRCH && fixture.mortal.kept.ledger >= 0) {
		atomic_store(&fixture.mortal.fate->n_points, 0);
		r = mortal_adopt(&fixture.mortal);
	}
	/* it died before it was served: nobody was told, and it is begun anew, or adopted */
	while (r == -ESRCH || r == -ENOENT) {
		mortal_kill(&fixture.mortal);
		atomic_store(&fixture.mortal.fate->dies_at, 0);
		r = fixture.mortal.kept.ledger >= 0 && r == -ESRCH
			    ? mortal_adopt(&fixture.mortal)
			    : mortal_start(&fixture.mortal, &fixture.guest);
	}
	ck_assert_msg(r == 0, "%s, step %llu: %s", guests[row].what, (unsigned long long)step,
		      strerror(-r));
	child_begin_churn(&fixture.child, 2, 40, step, guests[row].advice);
	while (!has_result(&fixture.child, 0)) {
		if (mortal_is_alive(&fixture.mortal)) {
			(void)has_result(&fixture.child, 1);
			continue;
		}
		mortal_wait(&fixture.mortal);
		atomic_store(&fixture.mortal.fate->dies_at, 0);
		ck_assert_int_eq(mortal_adopt(&fixture.mortal), 0);
	}
	ck_assert_msg(take_result(&fixture.child) == 0, "%s, step %llu: a page is wrong",
		      guests[row].what, (unsigned long long)step);
	*ret_has_died = atomic_load(&fixture.mortal.fate->has_died);
	fixture_done(&fixture);
}

static uint64_t step_size(void)
{
	return getenv("UFD_TEST_SHORT") ? 4 : 1;
}

START_TEST(a_guest_goes_on_after_a_death_at_any_step)
{
	unsigned int n_died = 0, n_steps = 0;

	for (uint64_t step = 1; step <= N_STEPS; step += step_size(), n_steps++) {
		bool has_died;

		die_at_step(_i, step, &has_died);
		n_died += has_died;
	}
	ck_assert_uint_ge(n_died, n_steps / 2);
}
END_TEST

/* ---- while memory comes and goes ---- */

#define PLUG_STEPS 44

/* The second half of the memory is taken out and comes again; the pager dies at some step of that. */
static void die_plugging(int row, uint64_t step, unsigned int *n_died)
{
	struct fixture fixture;
	int r = 0;

	fixture_init(&fixture, row, STEP_PAGES);
	fixture.guest.is_split = true;
	ck_assert_int_eq(mortal_start(&fixture.mortal, &fixture.guest), 0);
	atomic_store(&fixture.mortal.fate->n_points, 0);
	atomic_store(&fixture.mortal.fate->dies_at, step);
	for (int i = 0; r == 0 && i < 4; i++)
		r = mortal_plug(&fixture.mortal, i % 2 == 0);
	/* or of what it did after the last order */
	if (atomic_exchange(&fixture.mortal.fate->dies_at, 0) == FATE_SEALED) {
		++*n_died;
		mortal_wait(&fixture.mortal);
		r = mortal_adopt(&fixture.mortal);
	}
	ck_assert_msg(r == 0, "%s, step %llu: %s", guests[row].what, (unsigned long long)step,
		      strerror(-r));
	/* in, out, or never there: whoever touches it does not hang, and the rest is right */
	(void)child_peek(&fixture.child, STEP_PAGES - 1);
	for (uint64_t page = 0; page < STEP_PAGES / 2; page++)
		ck_assert_uint_eq(child_peek(&fixture.child, page), child_word(page, 0));
	fixture_done(&fixture);
}

START_TEST(a_guest_goes_on_after_a_death_while_it_is_plugged)
{
	unsigned int n_died = 0, n_steps = 0;

	for (uint64_t step = 1; step <= PLUG_STEPS; step += step_size(), n_steps++)
		die_plugging(_i, step, &n_died);
	ck_assert_uint_ge(n_died, n_steps / 2);
}
END_TEST

/* ---- between read and apply ---- */

START_TEST(a_discard_that_was_read_and_not_applied_is_not_forgotten)
{
	struct fixture fixture;

	fixture_init(&fixture, _i, STEP_PAGES);
	fixture.guest.no_background = 1;
	fixture.guest.window_bytes = UFD_NO_WINDOW;
	ck_assert_int_eq(mortal_start(&fixture.mortal, &fixture.guest), 0);
	for (uint64_t page = 1; page < STEP_PAGES; page += 3) {
		atomic_store(&fixture.mortal.fate->dies_unread, 1);
		atomic_store(&fixture.mortal.fate->has_died, 0);
		/* returns when the event was read: with the death of who read it */
		child_advise(&fixture.child, page, 1, guests[_i].advice);
		mortal_wait(&fixture.mortal);
		ck_assert_uint_eq(atomic_load(&fixture.mortal.fate->has_died), 1);
		atomic_store(&fixture.mortal.fate->dies_unread, 0);
		ck_assert_int_eq(mortal_adopt(&fixture.mortal), 0);
		ck_assert_uint_eq(child_peek(&fixture.child, page), 0);
		ck_assert_uint_eq(child_peek(&fixture.child, page + 1), child_word(page + 1, 0));
	}
	fixture_done(&fixture);
}
END_TEST

/* ---- between the bytes and the knowledge of them ---- */

static const int copied_rows[] = { 0, 3, 5, 7 }; /* of guests[]: those that are filled by COPY */

START_TEST(what_was_put_in_and_written_since_is_not_overwritten)
{
	const int row = copied_rows[_i];
	struct fixture fixture;

	fixture_init(&fixture, row, STEP_PAGES);
	fixture.guest.no_background = 1;
	fixture.guest.window_bytes = UFD_NO_WINDOW;
	ck_assert_int_eq(mortal_start(&fixture.mortal, &fixture.guest), 0);
	for (uint64_t page = 1; page < STEP_PAGES; page += 3) {
		atomic_store(&fixture.mortal.fate->dies_copied, 1);
		/* returns when the page is there, and who put it there is dead */
		child_poke(&fixture.child, page, 4711);
		mortal_wait(&fixture.mortal);
		atomic_store(&fixture.mortal.fate->dies_copied, 0);
		ck_assert_int_eq(mortal_adopt(&fixture.mortal), 0);
	}
	ck_assert_int_eq(mortal_finish(&fixture.mortal), 0);
	for (uint64_t page = 0; page < STEP_PAGES; page++)
		ck_assert_uint_eq(child_peek(&fixture.child, page),
				  page % 3 == 1 ? 4711 : child_word(page, 0));
	fixture_done(&fixture);
}
END_TEST

int main(void)
{
	hugepages_reserve(2 * HUGE_PAGES);
	return unit_run(
		"pager-kill",
		(struct unit_test[]){
			UNIT_TABLE(a_discard_that_was_read_and_not_applied_is_not_forgotten,
				   guests),
			UNIT_TABLE(what_was_put_in_and_written_since_is_not_overwritten,
				   copied_rows),
			UNIT_TABLE(a_guest_goes_on_after_a_death_at_any_step, guests),
			UNIT_TABLE(a_guest_goes_on_after_a_death_while_it_is_plugged, guests),
			UNIT_TABLE(a_guest_goes_on_after_any_kill, guests),
			{},
		});
}
