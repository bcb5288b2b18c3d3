/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A scenario, run once for each way that one of its calls can fail.
 *
 * The first runs only record. Then each site fails with each of its errors: the first call there, and one
 * further on. What is seen only on the way out of a failure fails in a run of its own, after the
 * same failure. Each run is a process; several at a time.
 *
 * In CI each line of code fails in each way at least once, reached by one way; of the other ways to it
 * a part is drawn by the seed. UFD_TEST_LONG=1 takes all, and two further calls of each;
 * UFD_TEST_SHORT=1 one round in eight.
 */
#pragma once

#include <stdint.h>

#include "inject/board.h"

/* Readable. */
struct scenario {
	const char *name;
	/* Arms the board, disarms it, and returns if all was right; else rounds_fail(). */
	void (*run)(struct board *board, int board_fd, const struct board_plan *plan);
	bool is_brief; /* it has many sites: in CI each line of code fails once, and nothing after it */
	const char *skip_reason; /* what the machine lacks */
};

/* End this run as failed. */
_Noreturn void rounds_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Words about the run, shown if it fails. */
void rounds_say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/**
 * rounds_run() - every round of every scenario, as TAP
 * @program: the file that the sites' addresses are of; NULL is this one
 *
 *	--scenario NAME		only this one
 *	--plan PLAN		only this plan, in this process
 *	--seed N
 * After all of them, unless only a part was run, each call of the program that can fail must have been
 * reached, but for those in the functions of @unless (NULL: it is not asked).
 *
 * Return: exit status.
 */
int rounds_run(const struct scenario *scenarios, const char *program, const char *const *unless,
	       int argc, char **argv);
