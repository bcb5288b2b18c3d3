/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A process whose threads wait and compute all the time, and notice any disturbance. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* What a thread does over and over. */
enum busy_role {
	BUSY_FUTEX, /* FUTEX_WAIT that times out */
	BUSY_PPOLL, /* with a timeout and a signal mask */
	BUSY_READ,  /* a pipe that another thread writes to */
	BUSY_NANOSLEEP,
	BUSY_EPOLL,	   /* epoll_wait(), which the kernel ends with EINTR for a tracer */
	BUSY_SIGTIMEDWAIT, /* likewise */
	BUSY_COMPUTE,	   /* all kinds of registers, in user mode */
	_BUSY_N,
};

/* Lies in memory shared with the target. Readable. */
struct busy_report {
	uint64_t loops[_BUSY_N];
	uint64_t n_errors;
	char first_error[256];
};

/* Readable. */
struct busy {
	pid_t pid;
	struct busy_report *report;
};

/**
 * busy_start() - fork it
 * @main_role: of its main thread
 * @is_alone:  no other threads but the pipe's writer where that is needed; else one thread a role
 * @prepare:   run in it first (drop rights, install filters); may be NULL
 *
 * Returns once each of its threads has come round once. It dies with us.
 */
void busy_start(struct busy *busy, enum busy_role main_role, bool is_alone, void (*prepare)(void));

/* Wait until each thread has come round again; fail the test if one met an error, or stands still.
 */
void busy_check(const struct busy *busy);

/* Check, kill and reap it. */
void busy_done(struct busy *busy);

/* The open fds of a process as a text, a line each, sorted: what readlink says. Owned by the
 * caller. */
char *list_fds_of(pid_t pid, size_t *ret_n);
