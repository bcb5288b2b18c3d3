/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Where a guest writes. */
#include "heatmap.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/units.h"
#include "dirty-epoch.h"

static const char *const blocks[] = { " ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█" };
static const char *const letters[] = { " ", ".", ":", "-", "=", "+", "*", "#", "@" };
#define N_SHADES (sizeof(blocks) / sizeof(blocks[0]))

static uint64_t total_bytes(const struct dirty_epoch *epoch)
{
	uint64_t total = 0;

	for (size_t i = 0; i < epoch->n_memories; i++)
		total += epoch->memories[i].length_bytes;
	return total;
}

/* Bytes from @at on, in the count of all memories. They may lie in several cells: huge pages do. */
static void add(struct heatmap *heatmap, uint64_t at, uint64_t length_bytes)
{
	while (length_bytes > 0) {
		size_t cell = at / heatmap->cell_bytes;
		uint64_t here = min_u64(length_bytes, (cell + 1) * heatmap->cell_bytes - at);

		if (cell < heatmap->n_cells)
			heatmap->dirty_bytes[cell] += here;
		at += here;
		length_bytes -= here;
	}
}

static bool is_dirty(const struct dirty_memory *memory, uint64_t page)
{
	return memory->words[page / 64] >> (page % 64) & 1;
}

void heatmap_fill(struct heatmap *heatmap, const struct dirty_epoch *epoch, size_t n_cells)
{
	uint64_t total = total_bytes(epoch), base = 0;

	*heatmap = (struct heatmap){ .cell_bytes = 1 };
	if (total == 0 || n_cells == 0)
		return;
	n_cells = min_u64(n_cells, HEATMAP_MAX_CELLS);
	heatmap->cell_bytes = (total + n_cells - 1) / n_cells;
	heatmap->cell_bytes = align_up(heatmap->cell_bytes, epoch->memories[0].page_bytes);
	heatmap->n_cells = (total + heatmap->cell_bytes - 1) / heatmap->cell_bytes;
	for (size_t i = 0; i < epoch->n_memories; i++) {
		const struct dirty_memory *memory = &epoch->memories[i];

		for (uint64_t page = 0; page < memory->n_pages; page++)
			if (is_dirty(memory, page))
				add(heatmap, base + page * memory->page_bytes, memory->page_bytes);
		base += memory->length_bytes;
	}
}

const char *heatmap_cell(uint64_t dirty_bytes, uint64_t cell_bytes, bool is_utf8)
{
	const uint64_t n = N_SHADES - 1;
	uint64_t shade = 0;

	/* few pages of many are the rule, so each shade stands for three times of the one before it */
	if (dirty_bytes) {
		for (shade = n; shade > 1 && dirty_bytes < cell_bytes; shade--)
			dirty_bytes = dirty_bytes > UINT64_MAX / 3 ? cell_bytes : dirty_bytes * 3;
	}
	return is_utf8 ? blocks[shade] : letters[shade];
}

void heatmap_line(const struct heatmap *heatmap, bool is_utf8, char *line)
{
	*line = '\0';
	for (size_t i = 0; i < heatmap->n_cells; i++)
		line = stpcpy(line,
			      heatmap_cell(heatmap->dirty_bytes[i], heatmap->cell_bytes, is_utf8));
}

void heatmap_title(const struct heatmap *heatmap, const struct dirty_epoch *epoch, char *line)
{
	uint64_t base = 0;

	memset(line, ' ', heatmap->n_cells);
	line[heatmap->n_cells] = '\0';
	for (size_t i = 0; i < epoch->n_memories; i++) {
		const struct dirty_memory *memory = &epoch->memories[i];
		size_t first = base / heatmap->cell_bytes;
		size_t n = memory->length_bytes / heatmap->cell_bytes;

		base += memory->length_bytes;
		if (first >= heatmap->n_cells)
			return;
		memset(line + first, ' ', heatmap->n_cells - first);
		line[first] = '|';
		if (n > 1)
			memcpy(line + first + 1, memory->name,
			       min_u64(strlen(memory->name),
				       min_u64(n - 1, heatmap->n_cells - first - 1)));
	}
}

bool heatmap_has_utf8(void)
{
	static const char *const names[] = { "LC_ALL", "LC_CTYPE", "LANG" };

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		const char *value = getenv(names[i]);

		if (value && *value)
			return strcasestr(value, "utf-8") || strcasestr(value, "utf8");
	}
	return false;
}
