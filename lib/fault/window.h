/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The window: neighbours of demanded pages. A random fault gets its page first, then the rest of
 * its aligned window in small pieces, forward part first. A fault where the last window ended is
 * sequential: its window comes with it in one fill, and doubles.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/units.h"

#define N_WINDOW	      16
#define N_STREAMS	      4
#define WINDOW_PIECE_BYTES    (16 * KIB)
#define WINDOW_COPY_BYTES     (256 * KIB) /* the most a sequential window grows to */
#define WINDOW_CONTINUE_BYTES (2 * MIB)

struct demand;
struct memory;

struct window {
	/* what is left of windows, newest last; the oldest is dropped when full */
	struct {
		struct memory *memory;
		struct page_range pages;
	} stack[N_WINDOW];
	unsigned int n;
	/* recent ends of windows */
	struct {
		struct memory *memory;
		uint64_t next_page;
		uint64_t n_pages; /* of the next window, should it be sequential */
	} streams[N_STREAMS];
	unsigned int next_stream;
};

/**
 * window_plan() - how a demanded page is to be filled
 *
 * Remembers the rest of the window. Return: what to fill now, beginning at @page.
 */
struct page_range window_plan(struct demand *demand, struct memory *memory, uint64_t page);

/* Fill one piece of what is left. False: nothing is left, or no slot is free. */
bool window_piece(struct demand *demand);

/* The memory is going. */
void window_forget(struct window *window, const struct memory *memory);
