/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A visit to another process: one of its threads stopped, some calls made in it, and away. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "attach/inject-tracee.h"
#include "attach/inject.h"

/* Where to. All borrowed. */
struct inject_target {
	int pidfd;
	int proc_fd; /* directory /proc/PID */
	int pid;
	uint64_t deadline_ns; /* CLOCK_MONOTONIC */
};

enum { VISIT_MAX_THREADS = 8 };

/* Embedded; `target` and `mem_fd` are readable, the rest is private. */
struct visit {
	const struct inject_target *target;
	struct inject_reply *reply; /* borrowed */
	struct tracee tracee;	    /* the one that stopped */
	struct tracee seized[VISIT_MAX_THREADS];
	size_t n_seized;
	int mem_fd; /* owned; /proc/PID/mem, to read */
	bool is_stopped;
};

/*
 * What goes wrong is written into the reply, where it went wrong, and returned. The first reason stays:
 * what follows is the way back.
 *
 * Context: a thread that ends right after the visit, and with it the tracing of threads that did not
 *	    stop in time. SIGCHLD is blocked. Until the first call a timer (SIGALRM at its default) ends
 *	    a process that is stuck; later its death would kill the target.
 */

/**
 * visit_begin() - stop one thread; waits until the target's deadline
 *
 * Return: 0, or an outcome. visit_leave() follows in both cases.
 */
int visit_begin(struct visit *visit, const struct inject_target *target,
		struct inject_reply *reply);

/**
 * visit_call() - one system call in the stopped thread
 *
 * Return: 0 with the call's own result, a negative errno included; or an outcome.
 */
int visit_call(struct visit *visit, long number, const uint64_t arguments[6], long *ret_result);

/* The same for a call that must succeed. Return: 0, or an outcome (INJECT_NO_FDS for EMFILE, ENFILE). */
int visit_call_checked(struct visit *visit, long number, const uint64_t arguments[6],
		       long *ret_result);

#define VISIT_CALL(visit, number, ret, ...) \
	visit_call(visit, number, (const uint64_t[6]){ __VA_ARGS__ }, ret)
#define VISIT_CALL_CHECKED(visit, number, ret, ...) \
	visit_call_checked(visit, number, (const uint64_t[6]){ __VA_ARGS__ }, ret)

/* Puts an outcome into the reply unless there is one. Return: @outcome. */
int visit_fail(struct visit *visit, int outcome, int error, int number);

/* Lets the thread go on as if nothing had been. */
void visit_leave(struct visit *visit);
