/* SPDX-License-Identifier: MIT */
/*
 * One io_uring a demand thread.
 *
 * Theory of operation
 *
 * The ring is made for a single issuer with deferred task work (Linux 6.1): completions are then
 * worked off by the owner when it looks, instead of interrupting it amid a fill. Such a ring
 * belongs to the thread that enables it, so it is made disabled and enabled by the first call that
 * enters the kernel. Kernels that refuse these flags get a plain ring.
 *
 * No more than @limit operations are in flight, and the completion queue is at least twice as
 * long: it cannot overflow.
 */
#include "kernel/uring.h"

#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/units.h"

struct uring {
	struct io_uring ring;
	unsigned int limit;
	unsigned int n_in_flight; /* queued or submitted, not yet handed to the caller */
	bool is_enabled;
};

int uring_new(struct uring **ret, unsigned int n_entries)
{
	struct io_uring_params params = {
		.flags = IORING_SETUP_R_DISABLED | IORING_SETUP_SINGLE_ISSUER |
			 IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
	};
	struct uring *ring;
	int r;

	ring = calloc(1, sizeof(*ring));
	if (!ring)
		return -ENOMEM;
	ring->limit = n_entries;

	r = io_uring_queue_init_params(n_entries, &ring->ring, &params);
	if (r == -EINVAL) { /* before Linux 6.1 */
		params = (struct io_uring_params){};
		r = io_uring_queue_init_params(n_entries, &ring->ring, &params);
		ring->is_enabled = true;
	}
	if (r < 0) {
		free(ring);
		return r;
	}
	*ret = ring;
	return 0;
}

struct uring *uring_free(struct uring *ring)
{
	if (ring) {
		io_uring_queue_exit(&ring->ring);
		free(ring);
	}
	return NULL;
}

static int enable(struct uring *ring)
{
	if (ring->is_enabled)
		return 0;
	/* liburing 2.3 declares a function for this, and does not export it */
	if (syscall(SYS_io_uring_register, ring->ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL,
		    0) < 0)
		return -errno;
	ring->is_enabled = true;
	return 0;
}

static struct io_uring_sqe *next_entry(struct uring *ring)
{
	struct io_uring_sqe *entry;

	if (ring->n_in_flight == ring->limit)
		return NULL;
	entry = io_uring_get_sqe(&ring->ring);
	if (entry)
		ring->n_in_flight++;
	return entry;
}

bool uring_add_poll(struct uring *ring, int fd, uint64_t token)
{
	struct io_uring_sqe *entry = next_entry(ring);

	if (!entry)
		return false;
	io_uring_prep_poll_add(entry, fd, POLLIN);
	io_uring_sqe_set_data64(entry, token);
	return true;
}

bool uring_add_read(struct uring *ring, int fd, void *buffer, uint32_t length_bytes,
		    uint64_t offset, bool may_wait, uint64_t token)
{
	struct io_uring_sqe *entry = next_entry(ring);

	if (!entry)
		return false;
	io_uring_prep_read(entry, fd, buffer, length_bytes, offset);
	if (may_wait)
		io_uring_sqe_set_flags(entry, IOSQE_ASYNC);
	io_uring_sqe_set_data64(entry, token);
	return true;
}

static unsigned int take_ready(struct uring *ring, struct uring_completion *buffer,
			       unsigned int n_buffer)
{
	struct io_uring_cqe *entry;
	unsigned int head, n = 0;

	io_uring_for_each_cqe(&ring->ring, head, entry)
	{
		if (n == n_buffer)
			break;
		buffer[n++] = (struct uring_completion){ entry->user_data, entry->res };
	}
	io_uring_cq_advance(&ring->ring, n);
	ring->n_in_flight -= n;
	return n;
}

/* The kernel is short of memory, or has more completions than fit. What is queued stays queued. */
static bool is_passing(int error)
{
	return error == -ENOMEM || error == -EAGAIN || error == -EBUSY;
}

int uring_wait(struct uring *ring, uint64_t timeout_ns, struct uring_completion *buffer,
	       unsigned int n_buffer, unsigned int *ret_n)
{
	struct __kernel_timespec timeout = {
		.tv_sec = (int64_t)(timeout_ns / NSEC_PER_SEC),
		.tv_nsec = (long long)(timeout_ns % NSEC_PER_SEC),
	};
	struct io_uring_cqe *first;
	int r;

	r = enable(ring);
	if (r < 0)
		return r;
	if (timeout_ns == 0)
		r = io_uring_submit_and_get_events(&ring->ring);
	else
		r = io_uring_submit_and_wait_timeout(&ring->ring, &first, 1, &timeout, NULL);
	if (is_passing(r)) {
		struct timespec moment = { .tv_nsec = (long)min_u64(timeout_ns, NSEC_PER_MSEC) };

		nanosleep(&moment, NULL); /* whoever comes again at once would find it no better */
		r = 0;
	}
	if (r < 0 && r != -ETIME && r != -EINTR)
		return r;
	*ret_n = take_ready(ring, buffer, n_buffer);
	return 0;
}
