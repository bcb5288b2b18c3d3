/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The fake kernel's io_uring. Polls are ready as the fake userfaultfds and processes say; reads are
 * of real files, and complete late, in any order, short, or not at all.
 */
#include "kernel/uring.h"

#include <errno.h>
#include <poll.h>
#include <unistd.h>

#include "base/units.h"
#include "parties.h"

#define N_OPERATIONS 128

struct operation {
	bool is_read;
	int fd;
	uint64_t token;
	void *buffer;
	uint32_t length_bytes;
	uint64_t offset;
};

struct uring {
	struct operation operations[N_OPERATIONS];
	unsigned int n;
	unsigned int limit;
};

static struct uring rings[2]; /* one engine lives, another may be dying */
static bool are_used[2];

int uring_new(struct uring **ret, unsigned int n_entries)
{
	unsigned int i = are_used[0];

	if (are_used[i])
		model_fail("a ring leaks");
	are_used[i] = true;
	rings[i].n = 0;
	rings[i].limit = n_entries;
	*ret = &rings[i];
	return 0;
}

struct uring *uring_free(struct uring *ring)
{
	if (ring)
		are_used[ring - rings] = false;
	return NULL;
}

static bool add(struct uring *ring, struct operation operation)
{
	if (ring->n == ring->limit || (operation.is_read && chance_one_in(20)))
		return false;
	ring->operations[ring->n++] = operation;
	return true;
}

bool uring_add_poll(struct uring *ring, int fd, uint64_t token)
{
	return add(ring, (struct operation){ .fd = fd, .token = token });
}

bool uring_add_read(struct uring *ring, int fd, void *buffer, uint32_t length_bytes,
		    uint64_t offset, bool may_wait, uint64_t token)
{
	return add(ring, (struct operation){ true, fd, token, buffer, length_bytes, offset });
}

static bool is_readable(int fd)
{
	unsigned int process = (unsigned int)(fd - FAKE_FD_FIRST) / 16;
	struct pollfd real = { .fd = fd, .events = POLLIN };

	if (fd < FAKE_FD_FIRST)
		return poll(&real, 1, 0) == 1;
	if ((fd - FAKE_FD_FIRST) % 16 == FAKE_PIDFD)
		return !world.processes[process].is_alive;
	return world.processes[process].is_alive && uffd_has_unread(process);
}

static int32_t read_now(const struct operation *operation)
{
	uint32_t length = operation->length_bytes;

	if (world.is_source_bad)
		return -EIO;
	if (chance_one_in(30))
		return -EIO;
	if (length > 4096 && chance_one_in(10))
		length = (uint32_t)chance_below(length - 1) + 1;
	return (int32_t)pread(operation->fd, operation->buffer, length, (off_t)operation->offset);
}

/* @is_pressing: nothing else will happen, so reads complete. */
static unsigned int collect(struct uring *ring, struct uring_completion *buffer,
			    unsigned int n_buffer, bool is_pressing)
{
	unsigned int n = 0, first = ring->n ? (unsigned int)chance_below(ring->n) : 0, i, n_looked;

	for (n_looked = 0, i = first; n < n_buffer && n_looked < ring->n + n; n_looked++) {
		struct operation operation = ring->operations[i % ring->n];
		bool is_done = operation.is_read ? is_pressing || chance_below(3) == 0
						 : is_readable(operation.fd);

		if (!is_done) {
			i++;
			continue;
		}
		buffer[n].token = operation.token;
		buffer[n++].result = operation.is_read ? read_now(&operation) : POLLIN;
		ring->operations[i % ring->n] = ring->operations[ring->n - 1];
		if (--ring->n == 0)
			break;
	}
	return n;
}

/* Nobody may sleep while a message lies unread. */
static void check_nothing_unread(void)
{
	for (unsigned int i = 0; i < world.n_processes; i++)
		if (world.processes[i].is_alive && uffd_has_unread(i))
			model_fail("asleep while a message of process %u is unread", i);
}

int uring_wait(struct uring *ring, uint64_t timeout_ns, struct uring_completion *buffer,
	       unsigned int n_buffer, unsigned int *ret_n)
{
	*ret_n = 0;
	world.n_kernel_calls++;
	if (crash_point())
		return 0;
	*ret_n = collect(ring, buffer, n_buffer, false);
	if (*ret_n || timeout_ns == 0)
		return 0;

	check_nothing_unread();
	if (chance_one_in(2)) { /* somebody else acts meanwhile */
		world.now_ns += chance_below(min_u64(timeout_ns, 100 * NSEC_PER_USEC) + 1);
		return 0;
	}
	*ret_n = collect(ring, buffer, n_buffer, true);
	world.now_ns += *ret_n ? chance_below(min_u64(timeout_ns, NSEC_PER_MSEC) + 1) : timeout_ns;
	return 0;
}
