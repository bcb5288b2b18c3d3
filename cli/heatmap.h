/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where a guest writes: addresses from left to right, time from top to bottom, a character for how
 * much.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HEATMAP_MAX_CELLS  1024
#define HEATMAP_CELL_BYTES 4 /* a character of UTF-8 and a NUL */

struct dirty_epoch;

/* Pages of an epoch in cells of equal length; all memories side by side. Readable. */
struct heatmap {
	size_t n_cells;
	uint64_t cell_bytes;
	uint64_t dirty_bytes[HEATMAP_MAX_CELLS];
};

/* @n_cells: at most HEATMAP_MAX_CELLS, fewer if there are not so many pages. */
void heatmap_fill(struct heatmap *heatmap, const struct dirty_epoch *epoch, size_t n_cells);

/* How a cell looks of which this much is dirty: blank is nothing, and one page is something. */
const char *heatmap_cell(uint64_t dirty_bytes, uint64_t cell_bytes, bool is_utf8);

/* One line. @line: at least HEATMAP_MAX_CELLS * HEATMAP_CELL_BYTES. */
void heatmap_line(const struct heatmap *heatmap, bool is_utf8, char *line);

/*
 * Each memory's name where it begins, cut to its cells: "|ram0     |vram". @line: at least
 * HEATMAP_MAX_CELLS + 1.
 */
void heatmap_title(const struct heatmap *heatmap, const struct dirty_epoch *epoch, char *line);

/* Does the terminal understand UTF-8, by what the environment says of the locale? */
bool heatmap_has_utf8(void);
