/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a run must give back: fds, blocks, mappings. */
#pragma once

#include <stddef.h>

#define LEAKS_FDS 256

struct leaks {
	char fds[LEAKS_FDS][48]; /* what each is; "" for a closed one */
};

/* Before the run. */
void leaks_remember(struct leaks *ret);

/* After it, disarmed. Says on stderr what is different. Return: how many things are. */
size_t leaks_report(const struct leaks *before);
