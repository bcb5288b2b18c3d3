/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the host's kernel answers, asked after every start. */
#pragma once

#include <stdbool.h>

struct jobs;

/**
 * probing_start() - ask, and log what differs from what paging wants
 *
 * Nothing waits for it: guests are served already, what a kernel lacks is refused by name when a guest
 * needs it, and a daemon that nothing can be paged with does not start at all. It says beforehand what
 * will be refused or done otherwise. The experiments run in a program of their own (probing_main()),
 * at nice 19: a fork of the daemon would hold userfaultfds of guests beyond the daemon's death.
 *
 * Context: loop.
 */
void probing_start(struct jobs *jobs);

/* ufdd --probe-start: tries, and tells the daemon on stdout. Return: an exit status. */
int probing_main(void);

/* A line of what probing_main() says; logged if it is worth it. Return: whether it was. */
bool probing_read_line(const char *line);
