/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A guest's memory, copied while it is being filled: the bytes that the guest would see, and no page made for it. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/units.h"
#include "pager/view.h"
#include "snapshot/view.h"
#include "support/hugepages.h"
#include "support/paged-child.h"
#include "support/unit.h"
#include "ufd/pager.h"

#define N_PAGES	    64
#define WORD	    UINT64_C(0xfeedface)
#define WRITTEN	    3
#define READ	    5
#define DISCARDED   7
#define ON_ITS_WAY  9
#define ZERO	    11 /* of the source */
#define MAX_PAGE    (2 * MIB)
#define DEADLINE_MS 20000
#define N_EVENTS    64

/* A source that keeps a request for one page to itself for a while. */
struct slow_source {
	uint64_t page_bytes;
	struct ufd_read *held; /* under @lock */
	void *held_buffer;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool is_armed; /* the next one is kept */
};

/* Bytes of it, from anywhere within a page on. */
static void fill(const struct slow_source *source, uint64_t offset, void *buffer, uint64_t length)
{
	_cleanup_(freep) char *page = malloc(source->page_bytes);
	char *to = buffer;

	while (length > 0) {
		uint64_t number = offset / source->page_bytes;
		uint64_t within = offset % source->page_bytes;
		uint64_t n = min_u64(length, source->page_bytes - within);

		memset(page, 0, source->page_bytes);
		if (number != ZERO)
			child_page(number, source->page_bytes, page);
		memcpy(to, page + within, n);
		to += n;
		offset += n;
		length -= n;
	}
}

static int slow_read(void *userdata, uint64_t offset, void *buffer, uint64_t length,
		     struct ufd_read *read)
{
	struct slow_source *source = userdata;
	int r = UFD_SOURCE_DATA;

	pthread_mutex_lock(&source->lock);
	if (offset / source->page_bytes == ON_ITS_WAY && source->is_armed) {
		source->is_armed = false;
		source->held = read;
		source->held_buffer = buffer;
		pthread_cond_signal(&source->changed);
		r = UFD_SOURCE_PENDING;
	}
	pthread_mutex_unlock(&source->lock);
	if (r == UFD_SOURCE_DATA)
		fill(source, offset, buffer, length);
	return r;
}

static int slow_extent(void *userdata, uint64_t offset, uint64_t length, uint64_t *ret_length)
{
	const struct slow_source *source = userdata;
	uint64_t zero = ZERO * source->page_bytes;

	if (offset >= zero && offset < zero + source->page_bytes) {
		*ret_length = min_u64(length, zero + source->page_bytes - offset);
		return UFD_SOURCE_ZERO;
	}
	*ret_length = offset < zero ? min_u64(length, zero - offset) : length;
	return UFD_SOURCE_DATA;
}

struct fixture {
	struct paged_child child;
	struct slow_source slow;
	struct ufd_pager *pager;
	struct ufd_pager_guest *guest;
	struct ufd_source *source;
	unsigned int n_events[N_EVENTS];
};

static void on_event(struct ufd_pager_guest *guest, const struct ufd_event *event, void *userdata)
{
	struct fixture *fixture = userdata;

	fixture->n_events[event->kind % N_EVENTS]++;
}

static void start(struct fixture *fixture, enum child_memory kind)
{
	UFD_OPTS(ufd_pager_opts, opts, .on_event = on_event, .userdata = fixture);
	UFD_OPTS(ufd_pager_guest_opts, guest_opts, .no_background = 1,
		 .window_bytes = UFD_NO_WINDOW);
	UFD_OPTS(ufd_source_ops, ops, .read = slow_read, .extent = slow_extent);
	UFD_OPTS(ufd_pager_memory_opts, memory, .name = "ram", .kind = kind);
	uint64_t page_bytes = kind == CHILD_HUGETLB ? 2 * MIB : (uint64_t)sysconf(_SC_PAGESIZE);
	uint32_t mapper, number;
	int r;

	if (kind == CHILD_HUGETLB && !hugepages_are_reserved())
		unit_skip("no huge pages of 2 MiB to be had");
	r = child_start(&fixture->child, kind,
			kind == CHILD_HUGETLB ? 16 * page_bytes : N_PAGES * page_bytes);
	if (r == -EPERM || r == -EACCES)
		unit_skip("no userfaultfd for kernel faults: %s", strerror(-r));
	ck_assert_int_eq(r, 0);
	fixture->slow.page_bytes = fixture->child.page_bytes;
	pthread_mutex_init(&fixture->slow.lock, NULL);
	pthread_cond_init(&fixture->slow.changed, NULL);
	ops.length = fixture->child.length;
	ck_assert_int_eq(ufd_source_new(&fixture->source, &ops, &fixture->slow), 0);
	memory.length = fixture->child.length;
	memory.page_bytes = fixture->child.page_bytes;
	memory.source = fixture->source;
	memory.backing = fixture->child.memfd;
	ck_assert_int_eq(ufd_pager_new(&fixture->pager, &opts), 0);
	ck_assert_int_eq(ufd_pager_guest_new(fixture->pager, &fixture->guest, "guest", &guest_opts),
			 0);
	ck_assert_int_eq(ufd_pager_guest_add_mapper(fixture->guest, fixture->child.uffd,
						    fixture->child.pidfd, -1, &mapper),
			 0);
	ck_assert_int_eq(ufd_pager_guest_add_memory(fixture->guest, &memory, &number), 0);
	ck_assert_int_eq(ufd_pager_guest_add_mapping(fixture->guest, mapper, number,
						     fixture->child.address, fixture->child.length,
						     0, NULL),
			 0);
	ck_assert_int_eq(ufd_pager_guest_start(fixture->guest), 0);
}

static void done(struct fixture *fixture)
{
	ufd_pager_free(fixture->pager);
	ufd_source_unref(fixture->source);
	child_stop(&fixture->child);
}

static uint64_t absent_bytes(struct fixture *fixture)
{
	UFD_OPTS(ufd_guest_stats, stats);

	ck_assert_int_eq(ufd_pager_guest_stats(fixture->guest, &stats), 0);
	return stats.absent_bytes;
}

/* The guest goes on with a page before the thread that put it there has counted it. */
static void await_absent_bytes(struct fixture *fixture, uint64_t bytes)
{
	uint64_t deadline_ns = clock_now_ns() + DEADLINE_MS * NSEC_PER_MSEC;

	while (absent_bytes(fixture) != bytes && clock_now_ns() < deadline_ns)
		sched_yield();
	ck_assert_uint_eq(absent_bytes(fixture), bytes);
}

/* What the guest would read in page @page; @is_written: page ON_ITS_WAY, too. */
static void expect(const struct fixture *fixture, uint64_t page, bool is_written, void *ret)
{
	if (page == DISCARDED || page == ZERO) {
		memset(ret, 0, fixture->child.page_bytes);
		return;
	}
	child_page(page, fixture->child.page_bytes, ret);
	if (page == WRITTEN || (page == ON_ITS_WAY && is_written))
		*(uint64_t *)ret = WORD + page;
}

static void assert_view(struct fixture *fixture, bool is_written)
{
	_cleanup_(guest_views_done) struct guest_views views = {};
	_cleanup_(view_reader_freep) struct view_reader *reader = NULL;
	static char bytes[MAX_PAGE], wanted[MAX_PAGE];
	const struct memory_view *view;
	uint64_t n, first = 0;

	ck_assert_int_eq(pager_view(fixture->guest, &views), 0);
	ck_assert_uint_eq(views.n_memories, 1);
	view = &views.memories[0];
	ck_assert_str_eq(view->name, "ram");
	ck_assert_int_eq(view_reader_new(&reader), 0);
	for (uint64_t page = 0; page < memory_view_n_pages(view); page++) {
		int r = view_read(reader, view, (struct page_range){ page, 1 }, bytes);

		ck_assert_msg(r == 0, "%s", view_reader_error(reader));
		expect(fixture, page, is_written, wanted);
		ck_assert_msg(!memcmp(bytes, wanted, view->page_bytes), "page %llu differs",
			      (unsigned long long)page);
	}
	while (first < memory_view_n_pages(view)) {
		int r = view_extent(reader, view,
				    (struct page_range){ first, memory_view_n_pages(view) - first },
				    &n);

		ck_assert_int_ge(r, 0);
		ck_assert_uint_ge(n, 1);
		for (uint64_t page = first; r == VIEW_ZERO && page < first + n; page++)
			ck_assert_msg(page == ZERO || page == DISCARDED, "page %llu is no zero",
				      (unsigned long long)page);
		first += n;
	}
}

/* The guest waits for a page whose bytes do not come. */
static void begin_to_wait(struct fixture *fixture)
{
	pthread_mutex_lock(&fixture->slow.lock);
	fixture->slow.is_armed = true;
	child_begin_poke(&fixture->child, ON_ITS_WAY, WORD + ON_ITS_WAY);
	while (!fixture->slow.held)
		pthread_cond_wait(&fixture->slow.changed, &fixture->slow.lock);
	pthread_mutex_unlock(&fixture->slow.lock);
}

static void let_come(struct fixture *fixture)
{
	fill(&fixture->slow, ON_ITS_WAY * fixture->slow.page_bytes, fixture->slow.held_buffer,
	     fixture->slow.page_bytes);
	ufd_read_complete(fixture->slow.held, UFD_SOURCE_DATA);
	ck_assert(child_has_result(&fixture->child, DEADLINE_MS));
	(void)child_result(&fixture->child);
}

static const struct {
	const char *what;
	enum child_memory kind;
	int advice;
} rows[] = {
	{ "shmem", CHILD_SHMEM, MADV_REMOVE },
	{ "hugetlb", CHILD_HUGETLB, MADV_REMOVE },
	{ "anonymous", CHILD_ANON, MADV_DONTNEED },
	{ "private", CHILD_PRIVATE, MADV_DONTNEED },
};

START_TEST(every_page_is_what_the_guest_would_read)
{
	struct pollfd wait;
	struct fixture fixture = {};
	uint64_t absent;

	start(&fixture, rows[_i].kind);
	child_poke(&fixture.child, WRITTEN, WORD + WRITTEN);
	ck_assert_uint_eq(child_peek(&fixture.child, READ), child_word(READ, 0));
	ck_assert_uint_eq(child_peek(&fixture.child, DISCARDED), child_word(DISCARDED, 0));
	child_advise(&fixture.child, DISCARDED, 1, rows[_i].advice);
	ck_assert_uint_eq(child_peek(&fixture.child, DISCARDED), 0); /* it has been heard of */
	absent = absent_bytes(&fixture);
	assert_view(&fixture, false);

	begin_to_wait(&fixture);
	assert_view(&fixture, false);
	ck_assert_uint_eq(absent_bytes(&fixture),
			  absent); /* nothing was made for being looked at */
	let_come(&fixture);
	assert_view(&fixture, true);
	await_absent_bytes(&fixture, absent - fixture.child.page_bytes);

	/* complete and unregistered it is the same */
	ck_assert_int_eq(ufd_pager_guest_finish(fixture.guest, 0), 0);
	wait = (struct pollfd){ .fd = ufd_pager_fd(fixture.pager), .events = POLLIN };
	while (!fixture.n_events[UFD_EVENT_GRADUATED]) {
		ck_assert_int_eq(poll(&wait, 1, DEADLINE_MS), 1);
		ufd_pager_dispatch(fixture.pager);
	}
	assert_view(&fixture, true);
	done(&fixture);
}
END_TEST

START_TEST(a_source_that_fails_is_named_with_memory_and_offset)
{
	_cleanup_(guest_views_done) struct guest_views views = {};
	_cleanup_(view_reader_freep) struct view_reader *reader = NULL;
	struct fixture fixture = {};
	static char bytes[MAX_PAGE];

	start(&fixture, CHILD_SHMEM);
	ck_assert_int_eq(pager_view(fixture.guest, &views), 0);
	ck_assert_int_eq(view_reader_new(&reader), 0);
	views.memories[0].source_offset = fixture.child.length; /* beyond its end */
	ck_assert_int_eq(view_read(reader, &views.memories[0], (struct page_range){ 2, 1 }, bytes),
			 -ENODATA);
	ck_assert_ptr_nonnull(strstr(view_reader_error(reader), "memory ram at offset 8192"));
	ck_assert_ptr_nonnull(strstr(view_reader_error(reader), "from its source"));
	done(&fixture);
}
END_TEST

int main(void)
{
	(void)hugepages_reserve(16 + 2);
	return unit_run("view", (struct unit_test[]){
					UNIT_TABLE(every_page_is_what_the_guest_would_read, rows),
					UNIT(a_source_that_fails_is_named_with_memory_and_offset),
					{},
				});
}
