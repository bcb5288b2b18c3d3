/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The engine on the real kernel: every backing, missing and minor, one to eight threads, every
 * page. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/units.h"
#include "kernel/backing.h"
#include "kernel/features.h"
#include "kernel/uapi.h"
#include "support/hugepages.h"
#include "support/paged-child.h"
#include "support/unit.h"
#include "ufd/pager.h"

#define LENGTH (32 * MIB)

/* ---- a source: an unlinked file with every page of the child's pattern ---- */

static int source_file(uint64_t length, uint64_t page_bytes)
{
	static unsigned char page[2 * MIB];
	int fd = open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	ck_assert_int_ge(fd, 0);
	for (uint64_t at = 0; at < length; at += page_bytes) {
		child_page(at / page_bytes, page_bytes, page);
		ck_assert_int_eq(pwrite(fd, page, page_bytes, (off_t)at), (ssize_t)page_bytes);
	}
	return fd;
}

static struct ufd_source *source_of(const char *spec, int fd)
{
	struct ufd_source *source;
	const char *error = "";
	int r = ufd_source_open(&source, spec, fd, &error);

	ck_assert_msg(r == 0, "%s: %s (%s)", spec, error, strerror(-r));
	return source;
}

/* ---- a paged guest ---- */

struct fixture {
	struct paged_child child;
	struct ufd_pager *pager;
	struct ufd_pager_guest *guest;
	struct ufd_source *source;
	unsigned int n_events[32];
	uint32_t memory;
};

static void on_event(struct ufd_pager_guest *guest, const struct ufd_event *event, void *userdata)
{
	struct fixture *fixture = userdata;

	fixture->n_events[event->kind]++;
}

static int fixture_build(struct fixture *fixture, enum child_memory kind,
			 const struct ufd_pager_guest_opts *guest_opts)
{
	UFD_OPTS(ufd_pager_opts, opts, .on_event = on_event, .userdata = fixture);
	UFD_OPTS(ufd_pager_memory_opts, memory, .name = "ram", .length = fixture->child.length,
		 .page_bytes = fixture->child.page_bytes, .source = fixture->source,
		 .backing = fixture->child.memfd,
		 .kind = kind == CHILD_ANON_HUGE ? UFD_MEMORY_ANON : kind);
	uint32_t mapper;
	int r;

	ck_assert_int_eq(ufd_pager_new(&fixture->pager, &opts), 0);
	ck_assert_int_eq(ufd_pager_guest_new(fixture->pager, &fixture->guest, "guest", guest_opts),
			 0);
	ck_assert_int_eq(ufd_pager_guest_add_mapper(fixture->guest, fixture->child.uffd,
						    fixture->child.pidfd, -1, &mapper),
			 0);
	r = ufd_pager_guest_add_memory(fixture->guest, &memory, &fixture->memory);
	ck_assert_msg(r == 0, "add_memory: %s", strerror(-r));
	r = ufd_pager_guest_add_mapping(fixture->guest, mapper, fixture->memory,
					fixture->child.address, fixture->child.length, 0, NULL);
	if (r == 0)
		r = ufd_pager_guest_start(fixture->guest);
	return r;
}

static void fixture_done(struct fixture *fixture)
{
	ufd_pager_free(fixture->pager);
	ufd_source_unref(fixture->source);
	child_stop(&fixture->child);
}

static void wait_event(struct fixture *fixture, uint32_t kind)
{
	struct pollfd wait = { .fd = ufd_pager_fd(fixture->pager), .events = POLLIN };

	while (!fixture->n_events[kind]) {
		ck_assert_msg(poll(&wait, 1, 20000) == 1, "event %u never came", kind);
		ufd_pager_dispatch(fixture->pager);
	}
}

static void start_child(struct fixture *fixture, enum child_memory kind, uint64_t length)
{
	int r;

	if ((kind == CHILD_HUGETLB || kind == CHILD_ANON_HUGE) && !hugepages_are_reserved())
		unit_skip("no huge pages of 2 MiB to be had");
	r = child_start(&fixture->child, kind, length);
	if (r == -EPERM || r == -EACCES)
		unit_skip("no userfaultfd for kernel faults: %s", strerror(-r));
	ck_assert_int_eq(r, 0);
}

/* ---- every page of every backing ---- */

static const struct {
	const char *what;
	enum child_memory kind;
	bool is_minor;
	unsigned int n_threads;
	enum child_order order;
	uint32_t no_background;
	uint64_t window;
	bool with_writes;
} rounds[] = {
	{ "shmem, on demand", CHILD_SHMEM, false, 1, CHILD_RANDOM, 1, UFD_NO_WINDOW, false },
	{ "shmem, window", CHILD_SHMEM, false, 2, CHILD_RANDOM, 1, 0, true },
	{ "shmem, sequential", CHILD_SHMEM, false, 1, CHILD_SEQUENTIAL, 1, 0, false },
	{ "shmem, background", CHILD_SHMEM, false, 8, CHILD_RANDOM, 0, 0, true },
	{ "shmem minor, on demand", CHILD_SHMEM, true, 1, CHILD_RANDOM, 1, UFD_NO_WINDOW, true },
	{ "shmem minor, background", CHILD_SHMEM, true, 4, CHILD_RANDOM, 0, 0, false },
	{ "anon, on demand", CHILD_ANON, false, 1, CHILD_RANDOM, 1, UFD_NO_WINDOW, true },
	{ "anon, background", CHILD_ANON, false, 8, CHILD_RANDOM, 0, 0, true },
	{ "private, background", CHILD_PRIVATE, false, 4, CHILD_RANDOM, 0, 0, true },
	{ "hugetlb, on demand", CHILD_HUGETLB, false, 2, CHILD_RANDOM, 1, 0, true },
	{ "hugetlb, background", CHILD_HUGETLB, false, 4, CHILD_RANDOM, 0, 0, false },
	{ "huge anon, on demand", CHILD_ANON_HUGE, false, 2, CHILD_RANDOM, 1, 0, true },
	{ "huge anon, background", CHILD_ANON_HUGE, false, 4, CHILD_RANDOM, 0, 0, true },
	{ "hugetlb minor", CHILD_HUGETLB, true, 2, CHILD_RANDOM, 0, 0, true },
};

START_TEST(every_page_is_right)
{
	UFD_OPTS(ufd_pager_guest_opts, opts, .no_background = rounds[_i].no_background,
		 .window_bytes = rounds[_i].window);
	UFD_OPTS(ufd_guest_stats, stats);
	struct fixture fixture = {};
	uint64_t n_wrong;
	int fd, r;

	start_child(&fixture, rounds[_i].kind, LENGTH);
	fd = source_file(LENGTH, fixture.child.page_bytes);
	if (rounds[_i].is_minor) {
		static unsigned char page[2 * MIB];

		for (uint64_t at = 0; at < LENGTH; at += fixture.child.page_bytes) {
			child_page(at / fixture.child.page_bytes, fixture.child.page_bytes, page);
			ck_assert_int_eq(backing_write(fixture.child.memfd, at, page,
						       fixture.child.page_bytes),
					 0);
		}
	}
	fixture.source = source_of(rounds[_i].is_minor ? "backing" : "file:", fd);
	r = fixture_build(&fixture, rounds[_i].kind, &opts);
	ck_assert_msg(r == 0, "%s: %s", rounds[_i].what, strerror(-r));
	child_check(&fixture.child, rounds[_i].n_threads, rounds[_i].order, rounds[_i].with_writes,
		    &n_wrong);
	ck_assert_msg(n_wrong == 0, "%s: %lu wrong pages", rounds[_i].what, n_wrong);

	ck_assert_int_eq(ufd_pager_guest_finish(fixture.guest, 20 * NSEC_PER_SEC), 0);
	wait_event(&fixture, UFD_EVENT_GRADUATED);
	child_check(&fixture.child, rounds[_i].n_threads, rounds[_i].order, false, &n_wrong);
	ck_assert_uint_eq(n_wrong, 0);
	ufd_pager_guest_stats(fixture.guest, &stats);
	ck_assert_uint_eq(stats.absent_bytes, 0);
	ck_assert_uint_eq(stats.discards_unannounced, 0);
	ck_assert_uint_eq(stats.foreign_touches, 0);
	fixture_done(&fixture);
	close(fd);
}
END_TEST

/* ---- discards ---- */

static const struct {
	const char *what;
	enum child_memory kind;
	int advice;
	bool is_zero; /* after it; else the page's bytes stay */
} discards[] = {
	{ "anon, DONTNEED", CHILD_ANON, MADV_DONTNEED, true },
	{ "shmem, REMOVE", CHILD_SHMEM, MADV_REMOVE, true },
	{ "shmem, DONTNEED keeps the file", CHILD_SHMEM, MADV_DONTNEED, false },
};

START_TEST(discarded_pages_read_zero_and_only_they)
{
	UFD_OPTS(ufd_pager_guest_opts, opts, .no_background = 1, .window_bytes = UFD_NO_WINDOW);
	struct fixture fixture = {};
	int fd;

	start_child(&fixture, discards[_i].kind, MIB);
	fd = source_file(MIB, 4096);
	fixture.source = source_of("file:", fd);
	ck_assert_int_eq(fixture_build(&fixture, discards[_i].kind, &opts), 0);

	/* present ones */
	ck_assert_uint_eq(child_peek(&fixture.child, 7), child_word(7, 0));
	child_poke(&fixture.child, 8, 4711);
	child_advise(&fixture.child, 7, 2, discards[_i].advice);
	ck_assert_uint_eq(child_peek(&fixture.child, 7),
			  discards[_i].is_zero ? 0 : child_word(7, 0));
	ck_assert_uint_eq(child_peek(&fixture.child, 8), discards[_i].is_zero ? 0 : 4711);
	child_poke(&fixture.child, 7, 12);
	ck_assert_uint_eq(child_peek(&fixture.child, 7), 12);
	ck_assert_uint_eq(child_peek(&fixture.child, 6), child_word(6, 0));
	ck_assert_uint_eq(child_peek(&fixture.child, 9), child_word(9, 0));

	/* absent ones: discarded before they ever came */
	if (discards[_i].is_zero) {
		child_advise(&fixture.child, 100, 3, discards[_i].advice);
		ck_assert_uint_eq(child_peek(&fixture.child, 101), 0);
		ck_assert_uint_eq(child_peek(&fixture.child, 103), child_word(103, 0));
	}
	fixture_done(&fixture);
	close(fd);
}
END_TEST

START_TEST(discarded_and_empty_pages_of_huge_anonymous_memory_read_zero)
{
	UFD_OPTS(ufd_pager_guest_opts, opts, .no_background = 1, .window_bytes = UFD_NO_WINDOW);
	UFD_OPTS(ufd_guest_stats, stats);
	struct fixture fixture = {};
	int fd;

	start_child(&fixture, CHILD_ANON_HUGE, 6 * 2 * MIB);
	fd = source_file(4 * 2 * MIB, 2 * MIB);
	ck_assert_int_eq(ftruncate(fd, 6 * 2 * MIB), 0); /* the last ones are holes */
	fixture.source = source_of("file:", fd);
	ck_assert_int_eq(fixture_build(&fixture, CHILD_ANON_HUGE, &opts), 0);

	ck_assert_uint_eq(child_peek(&fixture.child, 5), 0);
	child_poke(&fixture.child, 1, 4711);
	child_advise(&fixture.child, 1, 1, MADV_DONTNEED);
	ck_assert_uint_eq(child_peek(&fixture.child, 1), 0);
	child_advise(&fixture.child, 2, 1, MADV_DONTNEED); /* before it ever came */
	ck_assert_uint_eq(child_peek(&fixture.child, 2), 0);
	ck_assert_uint_eq(child_peek(&fixture.child, 0), child_word(0, 0));
	ck_assert_uint_eq(child_peek(&fixture.child, 3), child_word(3, 0));
	ufd_pager_guest_stats(fixture.guest, &stats);
	ck_assert_uint_eq(stats.exhausted, 0);
	fixture_done(&fixture);
	close(fd);
}
END_TEST

START_TEST(a_hole_punched_without_a_word_reads_zero_and_is_told)
{
	UFD_OPTS(ufd_pager_guest_opts, opts, .no_background = 1, .window_bytes = UFD_NO_WINDOW);
	struct fixture fixture = {};
	int fd;

	start_child(&fixture, CHILD_SHMEM, MIB);
	fd = source_file(MIB, 4096);
	fixture.source = source_of("file:", fd);
	ck_assert_int_eq(fixture_build(&fixture, CHILD_SHMEM, &opts), 0);
	ck_assert_uint_eq(child_peek(&fixture.child, 5), child_word(5, 0));
	ck_assert_int_eq(backing_punch(fixture.child.memfd, 5 * 4096, 4096), 0);
	ck_assert_uint_eq(child_peek(&fixture.child, 5), 0);
	wait_event(&fixture, UFD_EVENT_DISCARD_UNANNOUNCED);
	fixture_done(&fixture);
	close(fd);
}
END_TEST

/* ---- foreign touches ---- */

START_TEST(a_touched_hole_still_gets_the_sources_bytes)
{
	UFD_OPTS(ufd_pager_guest_opts, opts, .no_background = 1);
	struct fixture fixture = {};
	uint64_t n_wrong;
	int fd;

	start_child(&fixture, CHILD_SHMEM, MIB);
	fd = source_file(MIB, 4096);
	fixture.source = source_of("file:", fd);
	ck_assert_int_eq(fixture_build(&fixture, CHILD_SHMEM, &opts), 0);
	ck_assert_int_eq(posix_fallocate(fixture.child.memfd, 0, 64 * 4096), 0);
	ck_assert_int_eq(pwrite(fixture.child.memfd, "junk", 4, 70 * 4096), 4);
	child_check(&fixture.child, 2, CHILD_RANDOM, false, &n_wrong);
	ck_assert_uint_eq(n_wrong, 0);
	wait_event(&fixture, UFD_EVENT_FOREIGN_TOUCH);
	fixture_done(&fixture);
	close(fd);
}
END_TEST

/* A process that comes later, maps the memory, reads and writes @n absent pages, and stays until told. */
static pid_t start_toucher(int memfd, uint64_t length, uint64_t n, int *ret_gate)
{
	int gate[2], done[2];
	char byte = 0;
	pid_t pid;

	ck_assert_int_eq(pipe2(gate, O_CLOEXEC), 0);
	ck_assert_int_eq(pipe2(done, O_CLOEXEC), 0);
	pid = fork();
	if (pid == 0) {
		volatile uint64_t *words;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(gate[1]);
		words = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
		for (uint64_t i = 0; i < n; i++) {
			volatile uint64_t *word = words + i * 2 * 512;

			if (i % 2)
				*word = 0xdead;
			else
				(void)*word;
		}
		(void)!write(done[1], &byte, 1);
		(void)!read(gate[0], &byte, 1);
		_exit(0);
	}
	close(gate[0]);
	close(done[1]);
	ck_assert_int_eq(read(done[0], &byte, 1), 1);
	close(done[0]);
	*ret_gate = gate[1];
	return pid;
}

START_TEST(a_mapper_that_comes_later_is_told_and_shows_the_guest_no_wrong_page)
{
	UFD_OPTS(ufd_pager_guest_opts, opts, .no_background = 1);
	struct fixture fixture = {};
	uint64_t n_wrong;
	pid_t toucher;
	int fd, gate;

	start_child(&fixture, CHILD_SHMEM, LENGTH);
	fd = source_file(LENGTH, 4096);
	fixture.source = source_of("file:", fd);
	ck_assert_int_eq(fixture_build(&fixture, CHILD_SHMEM, &opts), 0);
	toucher = start_toucher(fixture.child.memfd, LENGTH, 1000, &gate);
	child_begin(&fixture.child, 4, CHILD_SEQUENTIAL, false);
	wait_event(&fixture, UFD_EVENT_FOREIGN_TOUCH);
	wait_event(&fixture, UFD_EVENT_STALLED);
	wait_event(&fixture, UFD_EVENT_FOREIGN_MAPPER);

	/* once it is gone, the guest gets its own bytes */
	close(gate);
	ck_assert_int_eq(waitpid(toucher, NULL, 0), toucher);
	n_wrong = child_result(&fixture.child);
	ck_assert_uint_eq(n_wrong, 0);
	wait_event(&fixture, UFD_EVENT_RECOVERED);
	fixture_done(&fixture);
	close(fd);
}
END_TEST

START_TEST(another_mapper_is_refused_up_front)
{
	UFD_OPTS(ufd_pager_guest_opts, opts);
	struct fixture fixture = {};
	void *view;

	start_child(&fixture, CHILD_SHMEM, MIB);
	fixture.source = source_of("zero", -1);
	view = mmap(NULL, MIB, PROT_READ, MAP_SHARED, fixture.child.memfd, 0);
	ck_assert_ptr_ne(view, MAP_FAILED);
	ck_assert_int_eq(fixture_build(&fixture, CHILD_SHMEM, &opts), -EUSERS);
	munmap(view, MIB);
	ck_assert_int_eq(ufd_pager_guest_start(fixture.guest), 0);
	fixture_done(&fixture);
}
END_TEST

START_TEST(what_exists_already_is_refused_punched_or_kept)
{
	static const struct {
		uint32_t populated;
		int result;
		uint64_t word;
	} ways[] = {
		{ UFD_POPULATED_REFUSE, -ENOTEMPTY, 0 },
		{ UFD_POPULATED_PUNCH, 0, 0 },
		{ UFD_POPULATED_KEEP, 0, 99 },
	};
	UFD_OPTS(ufd_pager_guest_opts, opts, .populated = ways[_i].populated);
	struct fixture fixture = {};
	uint64_t word = 99;

	start_child(&fixture, CHILD_SHMEM, MIB);
	fixture.source = source_of("zero", -1);
	ck_assert_int_eq(pwrite(fixture.child.memfd, &word, sizeof(word), 3 * 4096), sizeof(word));
	ck_assert_int_eq(fixture_build(&fixture, CHILD_SHMEM, &opts), ways[_i].result);
	if (ways[_i].result == 0)
		ck_assert_uint_eq(child_peek(&fixture.child, 3), ways[_i].word);
	fixture_done(&fixture);
}
END_TEST

START_TEST(the_end_of_the_process_is_told)
{
	UFD_OPTS(ufd_pager_guest_opts, opts, .no_background = 1);
	struct fixture fixture = {};

	start_child(&fixture, CHILD_ANON, MIB);
	fixture.source = source_of("zero", -1);
	ck_assert_int_eq(fixture_build(&fixture, CHILD_ANON, &opts), 0);
	kill(fixture.child.pid, SIGKILL);
	wait_event(&fixture, UFD_EVENT_ENDED);
	fixture_done(&fixture);
}
END_TEST

/* ---- bytes that cannot be had ---- */

struct broken {
	_Atomic int error;
};

static int broken_read(void *userdata, uint64_t offset, void *buffer, uint64_t length,
		       struct ufd_read *read)
{
	struct broken *broken = userdata;

	if (broken->error)
		return broken->error;
	child_page(offset / 4096, 4096, buffer);
	return length == 4096 ? UFD_SOURCE_DATA : -EIO;
}

START_TEST(a_page_that_cannot_be_had_stalls_and_comes_when_it_can)
{
	UFD_OPTS(ufd_pager_guest_opts, opts, .no_background = 1, .window_bytes = UFD_NO_WINDOW);
	UFD_OPTS(ufd_source_ops, ops, .length = MIB, .read = broken_read);
	struct broken broken = { -EIO };
	struct fixture fixture = {};
	uint64_t n_wrong;

	start_child(&fixture, CHILD_SHMEM, MIB);
	ck_assert_int_eq(ufd_source_new(&fixture.source, &ops, &broken), 0);
	ck_assert_int_eq(fixture_build(&fixture, CHILD_SHMEM, &opts), 0);
	child_begin(&fixture.child, 4, CHILD_RANDOM, false);
	wait_event(&fixture, UFD_EVENT_STALLED);
	broken.error = 0;
	n_wrong = child_result(&fixture.child);
	ck_assert_uint_eq(n_wrong, 0);
	wait_event(&fixture, UFD_EVENT_RECOVERED);
	fixture_done(&fixture);
}
END_TEST

START_TEST(policy_poison_raises_sigbus_after_the_deadline)
{
	UFD_OPTS(ufd_pager_guest_opts, opts, .no_background = 1, .policy = UFD_POLICY_POISON,
		 .deadline_ns = 20 * NSEC_PER_MSEC, .window_bytes = UFD_NO_WINDOW);
	UFD_OPTS(ufd_source_ops, ops, .length = 2 * 4096, .read = broken_read);
	UFD_OPTS(ufd_guest_stats, stats);
	struct broken broken = { -EIO };
	struct fixture fixture = {};

	if (!(features_get()->uffd & UFFD_FEATURE_POISON))
		unit_skip("UFFDIO_POISON needs Linux 6.6");
	start_child(&fixture, CHILD_SHMEM, 2 * 4096);
	ck_assert_int_eq(ufd_source_new(&fixture.source, &ops, &broken), 0);
	ck_assert_int_eq(fixture_build(&fixture, CHILD_SHMEM, &opts), 0);
	child_begin(&fixture.child, 1, CHILD_SEQUENTIAL, false); /* it dies of SIGBUS */
	wait_event(&fixture, UFD_EVENT_POISONED);
	broken.error = 0;
	ck_assert_uint_eq(child_result(&fixture.child), UINT64_MAX);
	wait_event(&fixture, UFD_EVENT_ENDED);
	ufd_pager_guest_stats(fixture.guest, &stats);
	ck_assert_uint_eq(stats.poisoned_pages, 1);
	ck_assert_uint_eq(stats.is_graduated, 0);
	fixture_done(&fixture);
}
END_TEST

START_TEST(policy_kill_ends_the_process_after_the_deadline)
{
	UFD_OPTS(ufd_pager_guest_opts, opts, .no_background = 1, .policy = UFD_POLICY_KILL,
		 .deadline_ns = 50 * NSEC_PER_MSEC);
	UFD_OPTS(ufd_source_ops, ops, .length = MIB, .read = broken_read);
	struct broken broken = { -EIO };
	struct fixture fixture = {};

	start_child(&fixture, CHILD_SHMEM, MIB);
	ck_assert_int_eq(ufd_source_new(&fixture.source, &ops, &broken), 0);
	ck_assert_int_eq(fixture_build(&fixture, CHILD_SHMEM, &opts), 0);
	child_begin(&fixture.child, 1, CHILD_RANDOM, false);
	wait_event(&fixture, UFD_EVENT_KILLED);
	wait_event(&fixture, UFD_EVENT_ENDED);
	fixture_done(&fixture);
}
END_TEST

int main(void)
{
	(void)hugepages_reserve(24);
	return unit_run(
		"pager",
		(struct unit_test[]){
			UNIT_TABLE(every_page_is_right, rounds),
			UNIT_TABLE(discarded_pages_read_zero_and_only_they, discards),
			UNIT(discarded_and_empty_pages_of_huge_anonymous_memory_read_zero),
			UNIT(a_hole_punched_without_a_word_reads_zero_and_is_told),
			UNIT(a_touched_hole_still_gets_the_sources_bytes),
			UNIT(a_mapper_that_comes_later_is_told_and_shows_the_guest_no_wrong_page),
			UNIT(another_mapper_is_refused_up_front),
			{ "what_exists_already_is_refused_punched_or_kept",
			  what_exists_already_is_refused_punched_or_kept, 3 },
			UNIT(the_end_of_the_process_is_told),
			UNIT(a_page_that_cannot_be_had_stalls_and_comes_when_it_can),
			UNIT(policy_poison_raises_sigbus_after_the_deadline),
			UNIT(policy_kill_ends_the_process_after_the_deadline),
			{},
		});
}
