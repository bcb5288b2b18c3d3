/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the host's kernel answers, asked after every start. */
#pragma once

struct event_base;
struct jobs;

/**
 * probing_start() - ask in a second, and log what differs from what paging wants
 *
 * Nothing waits for it: guests are served already, what a kernel lacks is refused by name when a guest
 * needs it, and a daemon that nothing can be paged with does not start at all. It says beforehand what
 * will be refused or done otherwise. The experiments run in a program of their own (probing_main()),
 * at nice 19: a fork of the daemon would hold userfaultfds of guests beyond the daemon's death.
 *
 * Context: loop.
 */
void probing_start(struct event_base *base, struct jobs *jobs);

/* ufdd --probe-start: tries, and tells the daemon on stdout. Return: an exit status. */
int probing_main(void);
