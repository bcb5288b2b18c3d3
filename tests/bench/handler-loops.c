/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The loops. Kept as bare as they can be: nothing is counted, no event is looked at, and an ioctl
 * that fails ends the process, since in these rounds none may.
 */
#include "handler-loops.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/units.h"
#include "kernel/uapi.h"
#include "machine.h"

volatile sig_atomic_t handler_must_stop;

static void copy(int uffd, uint64_t to, const void *from, uint64_t length_bytes)
{
	struct uffdio_copy copy = { .dst = to, .src = (uintptr_t)from, .len = length_bytes };

	if (ioctl(uffd, UFFDIO_COPY, &copy) < 0)
		die("handler: COPY to %#llx failed", (unsigned long long)to);
}

static void resolve_copy(const struct handler_memory *memory, const struct order *order, int uffd,
			 uint64_t page)
{
	copy(uffd, page, memory->image + (page - order->address), order->page_bytes);
}

static void resolve_read(const struct handler_memory *memory, const struct order *order, int uffd,
			 uint64_t page)
{
	if (pread(memory->image_fd, memory->buffer, order->page_bytes,
		  (off_t)(page - order->address)) != (ssize_t)order->page_bytes)
		die("handler: cannot read the saved memory");
	copy(uffd, page, memory->buffer, order->page_bytes);
}

static void resolve_continue(const struct handler_memory *memory, const struct order *order,
			     int uffd, uint64_t page)
{
	struct uffdio_continue cont = { .range = { page, order->page_bytes } };

	if (ioctl(uffd, UFFDIO_CONTINUE, &cont) < 0)
		die("handler: CONTINUE failed");
}

static void resolve_zero(const struct handler_memory *memory, const struct order *order, int uffd,
			 uint64_t page)
{
	struct uffdio_zeropage zero = { .range = { page, order->page_bytes } };

	if (ioctl(uffd, UFFDIO_ZEROPAGE, &zero) < 0)
		die("handler: ZEROPAGE failed");
}

typedef void (*resolve_fn)(const struct handler_memory *memory, const struct order *order, int uffd,
			   uint64_t page);

/* Inlined into each of its callers, so that the bare loops have no indirect call. */
static inline __attribute__((always_inline)) void loop_raw(const struct handler_memory *memory,
							   const struct order *order, int uffd,
							   resolve_fn resolve)
{
	struct pollfd wait = { .fd = uffd, .events = POLLIN };
	struct uffd_msg message;

	while (!handler_must_stop) {
		if (poll(&wait, 1, -1) < 0 ||
		    read(uffd, &message, sizeof(message)) != sizeof(message))
			continue;
		resolve(memory, order, uffd,
			align_down(message.arg.pagefault.address, order->page_bytes));
	}
}

static void loop_plain(const struct handler_memory *memory, const struct order *order, int uffd)
{
	struct pollfd wait = { .fd = uffd, .events = POLLIN };
	struct uffd_msg message;

	while (!handler_must_stop) {
		if (poll(&wait, 1, -1) < 0)
			continue;
		while (read(uffd, &message, sizeof(message)) == sizeof(message))
			resolve_copy(memory, order, uffd,
				     align_down(message.arg.pagefault.address, order->page_bytes));
	}
}

static void fill_all(const struct handler_memory *memory, const struct order *order, int uffd,
		     resolve_fn resolve)
{
	struct order piece = *order;

	piece.page_bytes = max_u64(HANDLER_PIECE_BYTES, order->page_bytes);
	for (uint64_t at = 0; at < order->length_bytes; at += piece.page_bytes)
		resolve(memory, &piece, uffd, order->address + at);
}

static void ping_pong(const struct handler_memory *memory, unsigned int n)
{
	char byte;

	for (unsigned int i = 0; i < n; i++)
		if (read(memory->ping, &byte, 1) != 1 || write(memory->pong, &byte, 1) != 1)
			die("handler: the pipes broke");
}

static uint64_t time_memcpy(const struct handler_memory *memory)
{
	uint64_t start_ns = clock_now_ns();

	memcpy(memory->to, memory->from, HANDLER_MEMCPY_BYTES);
	__asm__ volatile("" ::"r"(memory->to) : "memory");
	return clock_now_ns() - start_ns;
}

uint64_t handler_run(const struct handler_memory *memory, const struct order *order, int uffd)
{
	switch (order->loop) {
	case LOOP_RAW_COPY:
		loop_raw(memory, order, uffd, resolve_copy);
		break;
	case LOOP_RAW_CONTINUE:
		loop_raw(memory, order, uffd, resolve_continue);
		break;
	case LOOP_RAW_ZERO:
		loop_raw(memory, order, uffd, resolve_zero);
		break;
	case LOOP_RAW_READ:
		loop_raw(memory, order, uffd, resolve_read);
		break;
	case LOOP_PLAIN:
		loop_plain(memory, order, uffd);
		break;
	case LOOP_BULK_COPY:
		fill_all(memory, order, uffd, resolve_copy);
		break;
	case LOOP_BULK_READ:
		fill_all(memory, order, uffd, resolve_read);
		break;
	case LOOP_PING_PONG:
		ping_pong(memory, order->n);
		break;
	case LOOP_MEMCPY:
		return time_memcpy(memory);
	}
	return 0;
}
