/* SPDX-License-Identifier: MIT */
/* One io_uring a demand thread: polls of uffds and eventfds, and reads of source files. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/cleanup.h"

struct uring;

/* Readable. */
struct uring_completion {
	uint64_t token; /* as given at submission */
	int32_t result; /* bytes read or poll bits; negative errno */
};

/**
 * uring_new() - a ring for one thread
 * @n_entries: the most operations in flight
 *
 * It may be made by one thread and used by another: it belongs to the thread whose wait is the
 * first, and to that one only (single issuer).
 * Context: any; allocates. Return: 0, -ENOSYS/-EPERM where io_uring is off, other -errno.
 */
int uring_new(struct uring **ret, unsigned int n_entries);
/*
 * Context: any, when the owner has stopped. Reads must have completed. Polls in flight end, but the
 * kernel lets go of their fds a little later, not within this call.
 */
struct uring *uring_free(struct uring *ring);
DEFINE_CLEANUP(struct uring, uring_free)

/*
 * One-shot: readable or in error. Queued; submitted by the next wait. False: the ring is full.
 * While a poll is in flight the kernel holds its file open, even if every fd is closed.
 */
bool uring_add_poll(struct uring *ring, int fd, uint64_t token);

/*
 * The bytes land in @buffer, which must stay until its completion. @may_wait: leave the first try to
 * a worker, too; of a FUSE file it may wait for the server (read-ahead without FUSE_ASYNC_READ), and
 * with it the ring. False: the ring is full.
 */
bool uring_add_read(struct uring *ring, int fd, void *buffer, uint32_t length_bytes,
		    uint64_t offset, bool may_wait, uint64_t token);

/**
 * uring_wait() - submit what is queued, then sleep until something completes or time is over
 * @timeout_ns: 0 submits and only looks
 * @ret_n:      completions written, possibly 0
 *
 * Return: 0 or -errno; a signal, or a kernel that is out of memory for a moment, is an early return
 *	   with none, and what was queued is submitted by the next one.
 */
int uring_wait(struct uring *ring, uint64_t timeout_ns, struct uring_completion *buffer,
	       unsigned int n_buffer, unsigned int *ret_n);
