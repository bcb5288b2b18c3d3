/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A Cloud Hypervisor that waits (`receive-migration`) gets a snapshot: everything but its memory first, and
 * the pages as it asks for them.
 *
 *	Start, MemoryFd..., Config	on the first connection
 *	role Fault			on a second one, which is kept before anything can be asked there
 *	State, Complete			on the first one again, by a thread: State already asks for pages
 *
 * Context of all: the process that serves (ufdd-offload).
 */
#pragma once

#include <stdbool.h>

/* Readable; borrowed. */
struct restore_wish {
	const char *directory;
	const char *socket; /* at which Cloud Hypervisor listens */
	const char *name;
	bool is_inline; /* pages go through the connection: its memory is not ours */
	bool is_paused;
};

/* @control: to ufdd (message.h). Returns at the end of it; ufdd and the log have been told. */
void restore_run(int control, const struct restore_wish *wish);

/* Go on with what lies in a bundle, when nobody else does. Return: 0, -errno (not a whole one). */
int restore_go_on(int bundle);
