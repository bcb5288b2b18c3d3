/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the handler process does between one order and the next. */
#pragma once

#include <signal.h>
#include <stdint.h>

#include "handler.h"

/* What it is to do, as sent by the VMM; the userfaultfd comes beside it. */
struct order {
	enum handler_loop loop;
	int cpu;
	uint64_t address; /* in the VMM */
	uint64_t length_bytes;
	uint64_t page_bytes;
	unsigned int n; /* round trips */
};

/* What the process has; made once, so that no arm pays for it. */
struct handler_memory {
	const unsigned char *image; /* mapped, every page of it */
	int image_fd;
	unsigned char *buffer; /* as large as the largest piece */
	unsigned char *from, *to;
	int ping, pong;
};

#define HANDLER_MEMCPY_BYTES (64 * MIB)
#define HANDLER_BUFFER_BYTES (2 * MIB)
#define HANDLER_PIECE_BYTES  (256 * KIB)

/* Set by a signal, which also ends a poll(). */
extern volatile sig_atomic_t handler_must_stop;

/* Return: nanoseconds, of LOOP_MEMCPY. */
uint64_t handler_run(const struct handler_memory *memory, const struct order *order, int uffd);
