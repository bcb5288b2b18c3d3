/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The engine where things meet: several mappers, notes, deaths, hostile handles, extreme options. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "base/units.h"
#include "kernel/backing.h"
#include "kernel/features.h"
#include "kernel/pidfd.h"
#include "kernel/uffd.h"
#include "support/gate.h"
#include "support/hugepages.h"
#include "support/paged-child.h"
#include "support/unit.h"
#include "ufd/pager.h"

#define PATIENCE_S 20 /* for what takes no time at all, on a machine that is slow and busy */

/* ---- an engine, and this process as one of its mappers ---- */

struct edge {
	struct ufd_pager *pager;
	struct ufd_pager_guest *guest;
	struct gate gate;
	struct ufd_source *source;
	unsigned int n_events[32];
	int uffd, pidfd;
	int backings[4];
	unsigned int n_backings;
	uint32_t mapper;
};

static void on_event(struct ufd_pager_guest *guest, const struct ufd_event *event, void *userdata)
{
	struct edge *edge = userdata;

	edge->n_events[event->kind]++;
}

static void edge_init(struct edge *edge, const struct ufd_pager_guest_opts *guest_opts)
{
	const struct kernel_features *features = features_get();
	UFD_OPTS(ufd_pager_opts, opts, .on_event = on_event, .userdata = edge);
	int r;

	r = uffd_open(&edge->uffd, features->may_syscall ? UFFD_WAY_SYSCALL : UFFD_WAY_DEVICE,
		      features_wanted(false));
	if (r == -EPERM || r == -EACCES)
		unit_skip("no userfaultfd for kernel faults: %s", strerror(-r));
	ck_assert_int_eq(r, 0);
	ck_assert_int_eq(pidfd_open_pid(&edge->pidfd, getpid()), 0);
	edge->source = gate_source(&edge->gate, GIB);
	ck_assert_int_eq(ufd_pager_new(&edge->pager, &opts), 0);
	ck_assert_int_eq(ufd_pager_guest_new(edge->pager, &edge->guest, "guest", guest_opts), 0);
	ck_assert_int_eq(
		ufd_pager_guest_add_mapper(edge->guest, edge->uffd, edge->pidfd, -1, &edge->mapper),
		0);
}

static void edge_done(struct edge *edge)
{
	gate_open(&edge->gate);
	ufd_pager_free(edge->pager);
	ufd_source_unref(edge->source);
	for (unsigned int i = 0; i < edge->n_backings; i++)
		close(edge->backings[i]);
	close(edge->uffd);
	close(edge->pidfd);
}

static int make_backing(struct edge *edge, uint64_t length, uint64_t page_bytes)
{
	int fd;

	ck_assert_int_eq(backing_create(&fd, "edge", length, page_bytes), 0);
	edge->backings[edge->n_backings++] = fd;
	return fd;
}

static uint32_t add_memory(struct edge *edge, const char *name, uint32_t kind, int backing,
			   uint64_t length, struct ufd_source *source)
{
	UFD_OPTS(ufd_pager_memory_opts, memory, .name = name, .length = length, .source = source,
		 .backing = backing, .kind = kind);
	uint32_t id;

	ck_assert_int_eq(ufd_pager_guest_add_memory(edge->guest, &memory, &id), 0);
	return id;
}

static void *map_shared(int memfd, uint64_t length)
{
	void *view = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);

	ck_assert_ptr_ne(view, MAP_FAILED);
	return view;
}

static int add_view(struct edge *edge, uint32_t mapper, uint32_t memory, const void *view,
		    uint64_t length)
{
	return ufd_pager_guest_add_mapping(edge->guest, mapper, memory, (uintptr_t)view, length, 0,
					   NULL);
}

static void wait_event(struct edge *edge, uint32_t kind)
{
	struct pollfd wait = { .fd = ufd_pager_fd(edge->pager), .events = POLLIN };

	while (!edge->n_events[kind]) {
		ck_assert_msg(poll(&wait, 1, PATIENCE_S * 1000) == 1, "event %u never came", kind);
		ufd_pager_dispatch(edge->pager);
	}
}

/* ---- threads that touch a page each ---- */

struct toucher {
	pthread_t thread;
	volatile uint64_t *word;
	_Atomic bool is_done;
	uint64_t seen;
};

static void *toucher_main(void *userdata)
{
	struct toucher *toucher = userdata;

	toucher->seen = *toucher->word;
	toucher->is_done = true;
	return NULL;
}

static void touch(struct toucher *toucher, void *view, uint64_t page)
{
	toucher->word = (uint64_t *)((char *)view + page * 4096);
	toucher->is_done = false;
	ck_assert_int_eq(pthread_create(&toucher->thread, NULL, toucher_main, toucher), 0);
}

/* If it does not hang: a slow machine is no failure. */
static bool touch_ends(struct toucher *toucher)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += PATIENCE_S;
	return pthread_timedjoin_np(toucher->thread, NULL, &until) == 0;
}

/* ---- notes ---- */

START_TEST(a_written_page_wakes_who_waits_for_it)
{
	UFD_OPTS(ufd_pager_guest_opts, opts, .no_background = 1, .window_bytes = UFD_NO_WINDOW);
	struct edge edge = {};
	struct toucher toucher;
	uint64_t word = 4711;
	uint32_t memory;
	void *view;
	int memfd;

	edge_init(&edge, &opts);
	memfd = make_backing(&edge, MIB, 0);
	view = map_shared(memfd, MIB);
	memory = add_memory(&edge, "ram", UFD_MEMORY_SHMEM, memfd, MIB, edge.source);
	ck_assert_int_eq(add_view(&edge, edge.mapper, memory, view, MIB), 0);
	ck_assert_int_eq(ufd_pager_guest_start(edge.guest), 0);
	touch(&toucher, view, 3);
	gate_wait_held(&edge.gate, 1);
	ck_assert_int_eq(pwrite(memfd, &word, sizeof(word), 3 * 4096), sizeof(word));
	ck_assert_int_eq(ufd_pager_guest_note_write(edge.guest, memory, 3 * 4096, 4096), 0);
	gate_open(&edge.gate);
	ck_assert_msg(touch_ends(&toucher), "the waiter was never woken");
	ck_assert_uint_eq(toucher.seen, 4711);
	edge_done(&edge);
}
END_TEST

/* ---- several mappings ---- */

START_TEST(a_discard_in_one_mapping_wakes_who_waits_in_another)
{
	UFD_OPTS(ufd_pager_guest_opts, opts, .no_background = 1, .window_bytes = UFD_NO_WINDOW);
	struct edge edge = {};
	struct toucher toucher;
	void *first, *second;
	uint32_t memory;
	int memfd;

	edge_init(&edge, &opts);
	memfd = make_backing(&edge, MIB, 0);
	first = map_shared(memfd, MIB);
	second = map_shared(memfd, MIB);
	memory = add_memory(&edge, "ram", UFD_MEMORY_SHMEM, memfd, MIB, edge.source);
	ck_assert_int_eq(add_view(&edge, edge.mapper, memory, first, MIB), 0);
	ck_assert_int_eq(add_view(&edge, edge.mapper, memory, second, MIB), 0);
	ck_assert_int_eq(ufd_pager_guest_start(edge.guest), 0);
	touch(&toucher, second, 3);
	gate_wait_held(&edge.gate, 1);
	ck_assert_int_eq(madvise((char *)first + 3 * 4096, 4096, MADV_REMOVE), 0);
	gate_open(&edge.gate);
	ck_assert_msg(touch_ends(&toucher), "the waiter was never woken");
	ck_assert_uint_eq(toucher.seen, 0);
	edge_done(&edge);
}
END_TEST

START_TEST(memory_of_one_process_is_not_shown_twice)
{
	UFD_OPTS(ufd_pager_guest_opts, opts, .no_background = 1, .window_bytes = UFD_NO_WINDOW);
	struct edge edge = {};
	uint32_t memory;
	char *view;
	int r;

	edge_init(&edge, &opts);
	view = mmap(NULL, 2 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memory = add_memory(&edge, "ram", UFD_MEMORY_ANON, -1, MIB, edge.source);
	gate_open(&edge.gate);
	ck_assert_int_eq(add_view(&edge, edge.mapper, memory, view, MIB), 0);
	ck_assert_int_eq(ufd_pager_guest_start(edge.guest), 0);
	ck_assert_uint_eq(*(volatile uint64_t *)view, child_word(0, 0));
	r = add_view(&edge, edge.mapper, memory, view + MIB, MIB);
	if (r == 0)
		ck_assert_uint_eq(*(volatile uint64_t *)(view + MIB), child_word(0, 0));
	ck_assert_int_eq(r, -EEXIST);
	edge_done(&edge);
}
END_TEST

START_TEST(what_only_the_dead_mapped_does_not_hold_up_the_living)
{
	UFD_OPTS(ufd_pager_guest_opts, opts);
	struct paged_child child;
	struct edge edge = {};
	uint32_t own, theirs, mapper;
	uint64_t n_reads;
	void *view;
	int memfd;

	edge_init(&edge, &opts);
	ck_assert_int_eq(child_start(&child, CHILD_ANON, 64 * MIB), 0);
	ck_assert_int_eq(
		ufd_pager_guest_add_mapper(edge.guest, child.uffd, child.pidfd, -1, &mapper), 0);
	memfd = make_backing(&edge, MIB, 0);
	view = map_shared(memfd, MIB);
	own = add_memory(&edge, "own", UFD_MEMORY_SHMEM, memfd, MIB, edge.source);
	theirs = add_memory(&edge, "theirs", UFD_MEMORY_ANON, -1, child.length, edge.source);
	ck_assert_int_eq(add_view(&edge, edge.mapper, own, view, MIB), 0);
	ck_assert_int_eq(add_view(&edge, mapper, theirs, (void *)child.address, child.length), 0);
	ck_assert_int_eq(ufd_pager_guest_start(edge.guest), 0);
	gate_wait_held(&edge.gate, 8);
	child_stop(&child);
	wait_event(&edge, UFD_EVENT_MAPPER_ENDED);
	gate_open(&edge.gate);
	ck_assert_int_eq(ufd_pager_guest_finish(edge.guest, PATIENCE_S * NSEC_PER_SEC), 0);
	wait_event(&edge, UFD_EVENT_COMPLETED);
	wait_event(&edge, UFD_EVENT_GRADUATED);
	n_reads = edge.gate.n_reads;
	usleep(700 * 1000);
	ck_assert_uint_eq(edge.gate.n_reads, n_reads);
	edge_done(&edge);
}
END_TEST

START_TEST(a_hot_plug_that_failed_does_not_hold_up_completion)
{
	UFD_OPTS(ufd_pager_guest_opts, opts);
	struct edge edge = {};
	uint32_t ram, dimm;
	void *view;
	int memfd, other;

	edge_init(&edge, &opts);
	memfd = make_backing(&edge, MIB, 0);
	other = make_backing(&edge, MIB, 0);
	view = map_shared(memfd, MIB);
	ram = add_memory(&edge, "ram", UFD_MEMORY_SHMEM, memfd, MIB, edge.source);
	ck_assert_int_eq(add_view(&edge, edge.mapper, ram, view, MIB), 0);
	ck_assert_int_eq(ufd_pager_guest_start(edge.guest), 0);
	dimm = add_memory(&edge, "dimm", UFD_MEMORY_SHMEM, other, MIB, edge.source);
	view = map_shared(other, MIB);
	munmap(view, MIB);
	ck_assert_int_lt(add_view(&edge, edge.mapper, dimm, view, MIB), 0);
	gate_open(&edge.gate);
	ck_assert_int_eq(ufd_pager_guest_finish(edge.guest, PATIENCE_S * NSEC_PER_SEC), 0);
	wait_event(&edge, UFD_EVENT_GRADUATED);
	edge_done(&edge);
}
END_TEST

/* ---- events ---- */

START_TEST(the_end_is_told_however_many_events_were_not_taken)
{
	UFD_OPTS(ufd_pager_guest_opts, opts, .no_background = 1);
	UFD_OPTS(ufd_pager_memory_opts, memory, .name = "ram", .length = 4 * MIB,
		 .kind = UFD_MEMORY_SHMEM);
	struct edge edge = {};
	struct paged_child child;
	uint32_t id, mapper;

	edge_init(&edge, &opts);
	gate_open(&edge.gate);
	ck_assert_int_eq(ufd_pager_guest_new(edge.pager, &edge.guest, "other", &opts), 0);
	ck_assert_int_eq(child_start(&child, CHILD_SHMEM, 4 * MIB), 0);
	ck_assert_int_eq(
		ufd_pager_guest_add_mapper(edge.guest, child.uffd, child.pidfd, -1, &mapper), 0);
	memory.source = edge.source;
	memory.backing = child.memfd;
	ck_assert_int_eq(ufd_pager_guest_add_memory(edge.guest, &memory, &id), 0);
	ck_assert_int_eq(add_view(&edge, mapper, id, (void *)child.address, child.length), 0);
	ck_assert_int_eq(ufd_pager_guest_start(edge.guest), 0);
	for (unsigned int i = 0; i < 400; i++) {
		(void)child_peek(&child, i);
		ck_assert_int_eq(backing_punch(child.memfd, i * 4096, 4096), 0);
		ck_assert_uint_eq(child_peek(&child, i), 0);
	}
	child_stop(&child);
	wait_event(&edge, UFD_EVENT_LOST);
	wait_event(&edge, UFD_EVENT_ENDED);
	edge_done(&edge);
}
END_TEST

/* ---- hostile mappers ---- */

START_TEST(half_a_huge_page_removed_is_no_disaster)
{
	UFD_OPTS(ufd_pager_guest_opts, opts, .no_background = 1);
	UFD_OPTS(ufd_pager_memory_opts, memory, .name = "ram", .length = 4 * MIB,
		 .kind = UFD_MEMORY_HUGETLB, .page_bytes = 2 * MIB);
	struct edge edge = {};
	uint32_t id;
	char *view;

	if (!hugepages_are_reserved())
		unit_skip("no huge pages of 2 MiB to be had");
	edge_init(&edge, &opts);
	gate_open(&edge.gate);
	memory.backing = make_backing(&edge, 4 * MIB, 2 * MIB);
	view = map_shared(memory.backing, 4 * MIB);
	memory.source = edge.source;
	ck_assert_int_eq(ufd_pager_guest_add_memory(edge.guest, &memory, &id), 0);
	ck_assert_int_eq(add_view(&edge, edge.mapper, id, view, 4 * MIB), 0);
	ck_assert_int_eq(ufd_pager_guest_start(edge.guest), 0);
	ck_assert_int_eq(madvise(view + 2 * MIB + 4096, 4096, MADV_REMOVE), 0);
	ck_assert_uint_eq(*(volatile uint64_t *)view, child_word(0, 0));
	edge_done(&edge);
}
END_TEST

static void *prefetch_main(void *userdata)
{
	struct edge *edge = userdata;

	(void)ufd_pager_guest_prefetch(edge->guest, 0, 0, 4096);
	return NULL;
}

START_TEST(a_uffd_made_blocking_does_not_block_us)
{
	UFD_OPTS(ufd_pager_guest_opts, opts, .window_bytes = UFD_NO_WINDOW);
	struct edge edge = {};
	struct toucher toucher = {};
	uint32_t memory;
	void *view;
	int memfd;

	edge_init(&edge, &opts);
	gate_open(&edge.gate);
	memfd = make_backing(&edge, MIB, 0);
	view = map_shared(memfd, MIB);
	memory = add_memory(&edge, "ram", UFD_MEMORY_SHMEM, memfd, MIB, edge.source);
	ck_assert_int_eq(add_view(&edge, edge.mapper, memory, view, MIB), 0);
	ck_assert_int_eq(fcntl(edge.uffd, F_SETFL, 0), 0);
	ck_assert_int_eq(ufd_pager_guest_start(edge.guest), 0);
	ck_assert_int_eq(pthread_create(&toucher.thread, NULL, prefetch_main, &edge), 0);
	ck_assert_msg(touch_ends(&toucher), "a command never came back");
	touch(&toucher, view, 200);
	ck_assert_msg(touch_ends(&toucher), "a fault was never answered");
	ck_assert_uint_eq(toucher.seen, child_word(200, 0));
	edge_done(&edge);
}
END_TEST

/* ---- options at their ends ---- */

START_TEST(a_deadline_that_never_comes_does_not_spin)
{
	UFD_OPTS(ufd_pager_guest_opts, opts, .no_background = 1, .window_bytes = UFD_NO_WINDOW,
		 .policy = UFD_POLICY_KILL, .deadline_ns = UINT64_MAX);
	struct edge edge = {};
	struct toucher toucher;
	uint64_t n_reads;
	uint32_t memory;
	void *view;
	int memfd;

	edge_init(&edge, &opts);
	memfd = make_backing(&edge, MIB, 0);
	view = map_shared(memfd, MIB);
	memory = add_memory(&edge, "ram", UFD_MEMORY_SHMEM, memfd, MIB, edge.source);
	ck_assert_int_eq(add_view(&edge, edge.mapper, memory, view, MIB), 0);
	edge.gate.error = -EIO;
	ck_assert_int_eq(ufd_pager_guest_start(edge.guest), 0);
	touch(&toucher, view, 3);
	wait_event(&edge, UFD_EVENT_STALLED);
	usleep(300 * 1000);
	n_reads = edge.gate.n_reads;
	ck_assert_msg(n_reads < 20, "%lu reads in 300 ms", n_reads);
	edge.gate.error = 0;
	gate_open(&edge.gate);
	ck_assert(touch_ends(&toucher));
	ck_assert_uint_eq(toucher.seen, child_word(3, 0));
	ck_assert_int_eq(ufd_pager_guest_finish(edge.guest, UINT64_MAX), 0);
	edge_done(&edge);
}
END_TEST

START_TEST(pages_larger_than_any_are_refused)
{
	UFD_OPTS(ufd_pager_guest_opts, opts);
	UFD_OPTS(ufd_pager_memory_opts, memory, .name = "ram", .length = 8 * GIB,
		 .kind = UFD_MEMORY_ANON, .page_bytes = 8 * GIB, .backing = -1);
	struct edge edge = {};
	uint32_t id;

	edge_init(&edge, &opts);
	ck_assert_int_eq(ufd_source_open(&memory.source, "zero", -1, NULL), 0);
	ck_assert_int_eq(ufd_pager_guest_add_memory(edge.guest, &memory, &id), -EINVAL);
	ufd_source_unref(memory.source);
	edge_done(&edge);
}
END_TEST

START_TEST(a_uffd_with_events_that_we_do_not_follow_is_refused)
{
	static const uint64_t foreign[] = { UFFD_FEATURE_EVENT_REMAP, UFFD_FEATURE_EVENT_UNMAP,
					    UFFD_FEATURE_SIGBUS };
	UFD_OPTS(ufd_pager_guest_opts, opts);
	struct edge edge = {};
	uint32_t mapper;

	edge_init(&edge, &opts);
	for (size_t i = 0; i < sizeof(foreign) / sizeof(foreign[0]); i++) {
		int uffd;

		ck_assert_int_eq(uffd_open(&uffd, UFFD_WAY_USER_MODE, foreign[i]), 0);
		ck_assert_int_eq(
			ufd_pager_guest_add_mapper(edge.guest, uffd, edge.pidfd, -1, &mapper),
			-EOPNOTSUPP);
		close(uffd);
	}
	edge_done(&edge);
}
END_TEST

/*
 * The engine tries again every millisecond, 5,000 times. Here it does so without a pause, and after a
 * few of them the fill that it waits for may end.
 */
enum { ENDS_AFTER = 20 };

static struct gate *_Atomic waited_for;
static atomic_uint n_pauses;
static const bool fills_end[] = { false, true };
static bool may_end;

int __real_nanosleep(const struct timespec *time, struct timespec *left);
int __wrap_nanosleep(const struct timespec *time, struct timespec *left);
int __wrap_nanosleep(const struct timespec *time, struct timespec *left)
{
	if (!waited_for)
		return __real_nanosleep(time, left);
	if (atomic_fetch_add(&n_pauses, 1) + 1 == ENDS_AFTER && may_end)
		gate_open(atomic_exchange(&waited_for, NULL));
	return 0;
}

START_TEST(larger_pages_come_when_fills_have_ended)
{
	UFD_OPTS(ufd_pager_guest_opts, opts);
	UFD_OPTS(ufd_pager_memory_opts, large, .name = "large", .length = 8 * MIB,
		 .kind = UFD_MEMORY_ANON, .page_bytes = 4 * MIB, .backing = -1);
	struct edge edge = {};
	struct toucher toucher;
	uint32_t memory, id;
	uint64_t address;
	void *view;
	int memfd, r;

	edge_init(&edge, &opts);
	memfd = make_backing(&edge, 16 * KIB, 0);
	view = map_shared(memfd, 16 * KIB);
	memory = add_memory(&edge, "ram", UFD_MEMORY_SHMEM, memfd, 16 * KIB, edge.source);
	ck_assert_int_eq(add_view(&edge, edge.mapper, memory, view, 16 * KIB), 0);
	ck_assert_int_eq(ufd_pager_guest_start(edge.guest), 0);
	touch(&toucher, view, 3);
	gate_wait_held(&edge.gate, 1);

	address = (uintptr_t)mmap(NULL, 16 * MIB, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	address = align_up(address, 4 * MIB);
	large.source = edge.source;
	ck_assert_int_eq(ufd_pager_guest_add_memory(edge.guest, &large, &id), 0);
	may_end = fills_end[_i];
	waited_for = &edge.gate;
	r = add_view(&edge, edge.mapper, id, (void *)address, 8 * MIB);
	waited_for = NULL;
	ck_assert_msg(r == (may_end ? 0 : -EBUSY), "%s", strerror(-r));
	ck_assert_uint_ge(n_pauses, ENDS_AFTER);
	gate_open(&edge.gate);
	ck_assert(touch_ends(&toucher));
	ck_assert_uint_eq(toucher.seen, child_word(3, 0));
	ck_assert_int_eq(ufd_pager_guest_finish(edge.guest, PATIENCE_S * NSEC_PER_SEC), 0);
	edge_done(&edge);
}
END_TEST

START_TEST(holes_cost_nothing_of_the_rate)
{
	UFD_OPTS(ufd_pager_guest_opts, opts, .background_rate = MIB);
	struct edge edge = {};
	uint32_t memory;
	void *view;
	int memfd;

	edge_init(&edge, &opts);
	edge.gate.extent = UFD_SOURCE_ZERO;
	memfd = make_backing(&edge, GIB, 0);
	view = map_shared(memfd, GIB);
	memory = add_memory(&edge, "ram", UFD_MEMORY_SHMEM, memfd, GIB, edge.source);
	ck_assert_int_eq(add_view(&edge, edge.mapper, memory, view, GIB), 0);
	ck_assert_int_eq(ufd_pager_guest_start(edge.guest), 0);
	wait_event(&edge, UFD_EVENT_COMPLETED);
	edge_done(&edge);
}
END_TEST

/* ---- stalls ---- */

START_TEST(a_stalled_page_that_turns_out_to_be_a_hole_wakes_its_waiter)
{
	UFD_OPTS(ufd_pager_guest_opts, opts, .window_bytes = UFD_NO_WINDOW);
	struct edge edge = {};
	struct toucher toucher;
	uint32_t memory;
	void *view;
	int memfd;

	edge_init(&edge, &opts);
	memfd = make_backing(&edge, MIB, 0);
	view = map_shared(memfd, MIB);
	memory = add_memory(&edge, "ram", UFD_MEMORY_SHMEM, memfd, MIB, edge.source);
	ck_assert_int_eq(add_view(&edge, edge.mapper, memory, view, MIB), 0);
	edge.gate.error = -EIO;
	ck_assert_int_eq(ufd_pager_guest_start(edge.guest), 0);
	touch(&toucher, view, 3);
	wait_event(&edge, UFD_EVENT_STALLED);
	edge.gate.extent = UFD_SOURCE_ZERO;
	ck_assert_int_eq(ufd_pager_guest_prefetch(edge.guest, memory, 0, MIB), 0);
	ck_assert_msg(touch_ends(&toucher), "the waiter was never woken");
	ck_assert_uint_eq(toucher.seen, 0);
	wait_event(&edge, UFD_EVENT_RECOVERED);
	edge_done(&edge);
}
END_TEST

int main(void)
{
	(void)hugepages_reserve(8);
	return unit_run("pager-edge",
			(struct unit_test[]){
				UNIT(a_written_page_wakes_who_waits_for_it),
				UNIT(a_discard_in_one_mapping_wakes_who_waits_in_another),
				UNIT(memory_of_one_process_is_not_shown_twice),
				UNIT(what_only_the_dead_mapped_does_not_hold_up_the_living),
				UNIT(a_hot_plug_that_failed_does_not_hold_up_completion),
				UNIT(the_end_is_told_however_many_events_were_not_taken),
				UNIT(half_a_huge_page_removed_is_no_disaster),
				UNIT(a_uffd_made_blocking_does_not_block_us),
				UNIT(a_deadline_that_never_comes_does_not_spin),
				UNIT(pages_larger_than_any_are_refused),
				UNIT(a_uffd_with_events_that_we_do_not_follow_is_refused),
				UNIT_TABLE(larger_pages_come_when_fills_have_ended, fills_end),
				UNIT(holes_cost_nothing_of_the_rate),
				UNIT(a_stalled_page_that_turns_out_to_be_a_hole_wakes_its_waiter),
				{},
			});
}
