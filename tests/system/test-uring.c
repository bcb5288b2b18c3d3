/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Polls and reads by one io_uring. */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "kernel/uffd.h"
#include "kernel/uring.h"
#include "support/target.h"
#include "support/unit.h"

enum { LONG = 20 }; /* seconds: longer than anything takes */

/* ---- a kernel that is short of something ---- */

static int error_once; /* 0: none */

static int take_error(void)
{
	int error = error_once;

	error_once = 0;
	return -error;
}

int __wrap_io_uring_submit_and_get_events(struct io_uring *ring);
int __real_io_uring_submit_and_get_events(struct io_uring *ring);
int __wrap_io_uring_submit_and_get_events(struct io_uring *ring)
{
	int r = take_error();

	return r ? r : __real_io_uring_submit_and_get_events(ring);
}

int __wrap_io_uring_submit_and_wait_timeout(struct io_uring *ring, struct io_uring_cqe **ret,
					    unsigned int n, struct __kernel_timespec *timeout,
					    sigset_t *mask);
int __real_io_uring_submit_and_wait_timeout(struct io_uring *ring, struct io_uring_cqe **ret,
					    unsigned int n, struct __kernel_timespec *timeout,
					    sigset_t *mask);
int __wrap_io_uring_submit_and_wait_timeout(struct io_uring *ring, struct io_uring_cqe **ret,
					    unsigned int n, struct __kernel_timespec *timeout,
					    sigset_t *mask)
{
	int r = take_error();

	return r ? r : __real_io_uring_submit_and_wait_timeout(ring, ret, n, timeout, mask);
}

/* ---- polls and reads ---- */

static struct uring *new_ring(unsigned int n_entries)
{
	struct uring *ring = NULL;
	int r;

	r = uring_new(&ring, n_entries);
	if (r == -ENOSYS || r == -EPERM)
		unit_skip("io_uring: %s", strerror(-r));
	ck_assert_int_eq(r, 0);
	return ring;
}

static void wait_for_one(struct uring *ring, uint64_t token, int32_t result)
{
	struct uring_completion completion[2];
	unsigned int n = 0;

	ck_assert_int_eq(uring_wait(ring, LONG * NSEC_PER_SEC, completion, 2, &n), 0);
	ck_assert_uint_eq(n, 1);
	ck_assert_uint_eq(completion[0].token, token);
	ck_assert_int_eq(completion[0].result, result);
}

START_TEST(a_poll_tells_a_fault_once)
{
	_cleanup_(uring_freep) struct uring *ring = new_ring(4);
	_cleanup_(target_done) struct target target;
	struct uring_completion completion;
	struct uffd_msg message;
	unsigned int n = 9;

	target_start(&target, TARGET_ANON, 2, 0);
	target_register(&target);
	ck_assert(uring_add_poll(ring, target.uffd, 11));
	ck_assert_int_eq(uring_wait(ring, 0, &completion, 1, &n), 0);
	ck_assert_uint_eq(n, 0);

	target_ask(&target, target_load, target_page(&target, 0), 0);
	wait_for_one(ring, 11, POLLIN);
	ck_assert_int_eq(uffd_read(target.uffd, &message, 1, &n), 0);
	ck_assert_uint_eq(n, 1);

	target_ask(&target, target_load, target_page(&target, 1), 0);
	target_await_faults(&target, 1);
	ck_assert_int_eq(uring_wait(ring, 0, &completion, 1, &n), 0);
	ck_assert_uint_eq(n, 0); /* one-shot: nobody asked again */
	ck_assert(uring_add_poll(ring, target.uffd, 12));
	wait_for_one(ring, 12, POLLIN);
}
END_TEST

START_TEST(a_blocking_uffd_polls_as_an_error)
{
	_cleanup_(uring_freep) struct uring *ring = new_ring(4);
	_cleanup_(target_done) struct target target;

	target_start(&target, TARGET_ANON, 1, 0);
	ck_assert_int_eq(fcntl(target.uffd, F_SETFL, 0), 0);
	ck_assert(uring_add_poll(ring, target.uffd, 11));
	wait_for_one(ring, 11, POLLERR);
}
END_TEST

START_TEST(a_read_brings_the_bytes_and_the_end_of_the_file_fewer)
{
	_cleanup_(uring_freep) struct uring *ring = new_ring(4);
	_cleanup_(closep) int file = memfd_create("file", MFD_CLOEXEC);
	char buffer[16] = {};

	ck_assert_int_eq(pwrite(file, "0123456789", 10, 100), 10);
	ck_assert(uring_add_read(ring, file, buffer, 4, 103, false, 1));
	wait_for_one(ring, 1, 4);
	ck_assert_mem_eq(buffer, "3456", 4);
	ck_assert(uring_add_read(ring, file, buffer, 16, 108, false, 2));
	wait_for_one(ring, 2, 2);
	ck_assert(uring_add_read(ring, 1000, buffer, 16, 0, false, 3));
	wait_for_one(ring, 3, -EBADF);
}
END_TEST

START_TEST(a_wait_ends_with_its_time)
{
	_cleanup_(uring_freep) struct uring *ring = new_ring(4);
	_cleanup_(closep) int event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	struct uring_completion completion;
	uint64_t before_ns = clock_now_ns();
	unsigned int n = 9;

	ck_assert(uring_add_poll(ring, event, 1));
	ck_assert_int_eq(uring_wait(ring, 30 * NSEC_PER_MSEC, &completion, 1, &n), 0);
	ck_assert_uint_eq(n, 0);
	ck_assert_uint_ge(clock_now_ns() - before_ns, 30 * NSEC_PER_MSEC);
	ck_assert_uint_lt(clock_now_ns() - before_ns, LONG * NSEC_PER_SEC);
}
END_TEST

static const int passing[] = { ENOMEM, EAGAIN, EBUSY };

START_TEST(what_the_kernel_has_no_room_for_comes_with_the_next_wait)
{
	_cleanup_(uring_freep) struct uring *ring = new_ring(4);
	_cleanup_(closep) int event = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
	struct uring_completion completion;
	unsigned int n = 9;

	ck_assert(uring_add_poll(ring, event, 5));
	error_once = passing[_i];
	ck_assert_int_eq(uring_wait(ring, 0, &completion, 1, &n), 0);
	ck_assert_uint_eq(n, 0);
	error_once = passing[_i];
	ck_assert_int_eq(uring_wait(ring, LONG * NSEC_PER_SEC, &completion, 1, &n), 0);
	ck_assert_uint_eq(n, 0);
	wait_for_one(ring, 5, POLLIN);

	error_once = EBADF;
	ck_assert_int_eq(uring_wait(ring, 0, &completion, 1, &n), -EBADF);
}
END_TEST

START_TEST(what_completed_ends_a_wait_at_once_even_if_handed_over_in_parts)
{
	_cleanup_(uring_freep) struct uring *ring = new_ring(4);
	_cleanup_(closep) int event = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
	struct uring_completion completion;
	unsigned int n = 9;
	uint64_t tokens = 0;

	for (uint64_t i = 0; i < 4; i++)
		ck_assert(uring_add_poll(ring, event, i));
	for (int i = 0; i < 4; i++) {
		ck_assert_int_eq(uring_wait(ring, LONG * NSEC_PER_SEC, &completion, 1, &n), 0);
		ck_assert_uint_eq(n, 1);
		tokens |= UINT64_C(1) << completion.token;
	}
	ck_assert_uint_eq(tokens, 15);
}
END_TEST

START_TEST(a_full_ring_takes_no_more_until_something_was_handed_over)
{
	_cleanup_(uring_freep) struct uring *ring = new_ring(3);
	_cleanup_(closep) int event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	struct uring_completion completions[8];
	unsigned int n = 0;

	for (uint64_t i = 0; i < 3; i++)
		ck_assert(uring_add_poll(ring, event, i));
	ck_assert(!uring_add_poll(ring, event, 3));
	ck_assert_int_eq(uring_wait(ring, 0, completions, 8, &n), 0);
	ck_assert_uint_eq(n, 0);
	ck_assert(!uring_add_poll(ring, event, 3)); /* in flight counts, not only queued */
	ck_assert(!uring_add_read(ring, event, completions, 8, 0, false, 3));

	ck_assert_int_eq(eventfd_write(event, 1), 0);
	ck_assert_int_eq(uring_wait(ring, LONG * NSEC_PER_SEC, completions, 8, &n), 0);
	ck_assert_uint_ge(n, 1);
	for (unsigned int i = 0; i < n; i++)
		ck_assert(uring_add_poll(ring, event, 10 + i));
}
END_TEST

static void *use_ring(void *argument)
{
	struct uring *ring = argument;
	_cleanup_(closep) int event = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);

	ck_assert(uring_add_poll(ring, event, 77));
	wait_for_one(ring, 77, POLLIN);
	return NULL;
}

START_TEST(a_ring_made_by_one_thread_serves_another)
{
	_cleanup_(uring_freep) struct uring *ring = new_ring(4);
	pthread_t user;

	ck_assert_int_eq(pthread_create(&user, NULL, use_ring, ring), 0);
	ck_assert_int_eq(pthread_join(user, NULL), 0);
}
END_TEST

int main(void)
{
	return unit_run(
		"uring",
		(struct unit_test[]){
			UNIT(a_poll_tells_a_fault_once),
			UNIT(a_blocking_uffd_polls_as_an_error),
			UNIT(a_read_brings_the_bytes_and_the_end_of_the_file_fewer),
			UNIT(a_wait_ends_with_its_time),
			UNIT_TABLE(what_the_kernel_has_no_room_for_comes_with_the_next_wait,
				   passing),
			UNIT(what_completed_ends_a_wait_at_once_even_if_handed_over_in_parts),
			UNIT(a_full_ring_takes_no_more_until_something_was_handed_over),
			UNIT(a_ring_made_by_one_thread_serves_another),
			{},
		});
}
