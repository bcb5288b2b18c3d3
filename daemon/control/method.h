/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The dispatch table: what the interface files name, and the functions behind it. */
#pragma once

#include <stdbool.h>

#include "control/call.h"

struct control;

struct method {
	const char *name; /* short: Attach */
	enum access access;
	bool needs_more; /* a stream: without `more` the client gets ExpectedMore */
	bool takes_fds;	 /* else those that came are closed before it runs */
	/*
	 * Replies, or keeps a reference and replies later.
	 * Return: 0; -ECANCELED with @refusal set; other -errno, told as SystemError.
	 */
	int (*run)(struct control *control, struct call *call, struct refusal *refusal);
};

/* One table an interface; an entry without a name ends it. */
extern const struct method service_methods[];
extern const struct method manager_methods[];
extern const struct method guest_methods[];
extern const struct method dirty_methods[];
extern const struct method handoff_methods[];

/* A call that was found and checked before, again. Context: loop. */
void method_run(struct control *control, struct call *call);

/* Find, check and run @call. Context: loop. */
void method_dispatch(struct control *control, struct call *call);
