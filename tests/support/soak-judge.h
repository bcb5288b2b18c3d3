/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a kill met, by what the guests' threads wrote down.
 *
 * A kill counts if a fault was raised within SOAK_NEAR_NS of it, before or after, by a guest that
 * had absent pages at that moment. Exactly: a thread began its first touch of a page that was in no
 * page table (and is no hole of the image) in the time from SOAK_NEAR_NS before the signal was sent
 * to SOAK_NEAR_NS after; and either that page was still absent at the kill (the touch had not ended,
 * or not begun), or other pages of a guest that has neither window nor background are untouched.
 *
 * The stall of a kill is the time from just before the signal to the end of the first fault that
 * surely was served by a successor: one that began after the killed process had ended. If a
 * successor was killed before it served anything, that is part of it.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SOAK_NEAR_NS UINT64_C(1000000)

struct soak_board;
struct soak_kill;

bool soak_judge_counts(const struct soak_board *board, const struct soak_kill *kill);

/* Return: 0 as long as nothing was served. */
uint64_t soak_judge_stall_ns(const struct soak_board *board, const struct soak_kill *kill);

/* Does a thread of @guest wait in an operation that it began before @before_ns? */
bool soak_judge_waits(const struct soak_board *board, unsigned int guest, uint64_t before_ns);

/* Who waits where since when, on stderr. */
void soak_judge_describe(const struct soak_board *board, unsigned int guest, const char *name);

/* Is somebody at a page right now? What a kill aims at. */
bool soak_judge_has_pending(const struct soak_board *board);
