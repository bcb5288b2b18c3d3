/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Bytes and file descriptors of a connection, up to what a hand-over may have.
 *
 * Context of all: any, one at a time; nothing blocks.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "attach/frontend.h"

struct refusal;

/* Embedded; zero with @fd -EBADF is none. */
struct gather {
	int fd;	     /* owned; a stream, O_NONBLOCK */
	char *bytes; /* owned */
	size_t n_bytes, n_room;
	int fds[FRONTEND_MAX_FDS]; /* owned; O_CLOEXEC */
	size_t n_fds;
	bool is_ended;
};

void gather_init(struct gather *gather, int fd);
void gather_done(struct gather *gather);

/* What is there now. Return: 0, or -ECANCELED: io.ufd.handoff.BadMessage (too much). */
int gather_read(struct gather *gather, struct refusal *refusal);

/* Borrowed from @gather. */
struct frontend_input gather_input(const struct gather *gather);

/* The message has been taken: what follows begins with the byte after it, and with no fd. */
void gather_shift(struct gather *gather, size_t n_bytes);
