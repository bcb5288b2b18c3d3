/* SPDX-License-Identifier: MIT */
/* One io_uring a demand thread: polls of uffds and eventfds, and reads of source files. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

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
 * Must be used by the thread that made its first call after creation only (single issuer).
 * Context: any; allocates. Return: 0, -ENOSYS/-EPERM where io_uring is off, other -errno.
 */
int uring_new(struct uring **ret, unsigned int n_entries);
struct uring *uring_free(struct uring *ring);

/* One-shot: readable or in error. Queued; submitted by the next wait or flush. False: the ring is full. */
bool uring_add_poll(struct uring *ring, int fd, uint64_t token);

/* The bytes land in @buffer, which must stay until its completion. False: the ring is full. */
bool uring_add_read(struct uring *ring, int fd, void *buffer, uint32_t length_bytes,
		    uint64_t offset, uint64_t token);

/* Hand queued operations to the kernel without waiting. Return: 0 or -errno. */
int uring_flush(struct uring *ring);

/**
 * uring_wait() - flush, then sleep until something completes or time is over
 * @timeout_ns: 0 only looks (and flushes)
 * @ret_n:      completions written, possibly 0
 *
 * Return: 0 or -errno; a signal is an early return with none.
 */
int uring_wait(struct uring *ring, uint64_t timeout_ns, struct uring_completion *buffer,
	       unsigned int n_buffer, unsigned int *ret_n);

/* Completions that lie ready, without any system call. */
void uring_peek(struct uring *ring, struct uring_completion *buffer, unsigned int n_buffer,
		unsigned int *ret_n);
