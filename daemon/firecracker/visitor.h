/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Who has connected, until its message is whole. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "attach/frontend.h"
#include "base/cleanup.h"

struct refusal;

/* Readable. */
struct visitor {
	int socket; /* owned */
	int pidfd;  /* owned */
	pid_t pid;
	uint64_t deadline_ns;
	size_t n_bytes, n_fds;
	int fds[FRONTEND_MAX_FDS]; /* owned */
	char bytes[FRONTEND_MAX_BYTES + 1];
};

/* What a look at it says, beside -ECANCELED with a refusal. */
enum {
	_VISITOR_WHOLE,
	VISITOR_MORE,  /* wait for more, until its deadline */
	VISITOR_EMPTY, /* it left without a word */
};

/*
 * Accept the next one. Context: does not block. Return: 0, -EAGAIN if nobody is there, -ESRCH if it
 * has ended already, other -errno.
 */
int visitor_accept(struct visitor **ret, int listener);
struct visitor *visitor_free(struct visitor *visitor);
DEFINE_CLEANUP(struct visitor, visitor_free)

/* Take what has come. Context: does not block. Return: see above. */
int visitor_read(struct visitor *visitor, struct frontend_offer *ret, struct refusal *refusal);

struct frontend_input visitor_input(const struct visitor *visitor);
