/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * When to stop copying a guest that runs: the stop rule of a live snapshot on a scan context.
 *
 * Theory of operation. Each round copies what was written since the round before; the last one is
 * copied while the guest stands still. So another round pays as long as less is written in it than
 * it copies. What is left fits if it can be read and copied within the longest pause that is
 * allowed, at the speed of the rounds before. Without progress for N_STUCK rounds, or after N_MOST,
 * it never will.
 *
 * Context of all: any.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define ROUNDS_N_STUCK 3
#define ROUNDS_N_MOST  30

enum rounds_verdict {
	ROUNDS_AGAIN, /* copy what was found, and look again */
	ROUNDS_FIT,   /* pause, and copy the rest */
	ROUNDS_STUCK, /* it does not get less: the pause will be longer than was asked for */
};

/* Readable. Zero, with @pause_ns set, is before the first round. */
struct rounds {
	uint64_t pause_ns;     /* the longest that is allowed */
	uint64_t fixed_ns;     /* what a pause costs beside copying: devices, looking */
	uint64_t copied_bytes; /* all rounds */
	uint64_t copied_ns;
	uint64_t least_bytes; /* the least that was ever left */
	unsigned int n_rounds;
	unsigned int n_stuck; /* rounds in turn that left no less */
};

/* A round copied this much in this time. */
void rounds_copied(struct rounds *rounds, uint64_t n_bytes, uint64_t time_ns);

/* A look found so much written. Return: enum rounds_verdict. */
enum rounds_verdict rounds_judge(struct rounds *rounds, uint64_t left_bytes);

/* How long a pause for so much would be; UINT64_MAX before anything was copied. */
uint64_t rounds_pause_ns(const struct rounds *rounds, uint64_t left_bytes);
