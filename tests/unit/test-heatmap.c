/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Dirty pages as the daemon tells them, and how they are drawn. */
#include "heatmap.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/units.h"
#include "dirty-epoch.h"
#include "support/unit.h"

#define PAGE 4096

/* Two memories of 128 and 64 pages. */
static json_t *reply_new(void)
{
	return json_pack(
		"{s:i, s:[{s:s, s:i, s:i, s:i, s:i, s:i}, {s:s, s:i, s:i, s:i, s:i, s:i}]}",
		"epoch", 1, "memories", "name", "ram0", "page_bytes", PAGE, "base_bytes", 0,
		"length_bytes", 128 * PAGE, "dirty_bytes", 3 * PAGE, "fd_offset_bytes", 0, "name",
		"vram", "page_bytes", PAGE, "base_bytes", 8 * PAGE, "length_bytes", 64 * PAGE,
		"dirty_bytes", 64 * PAGE, "fd_offset_bytes", 16);
}

/* Pages 0, 1 and 127 of the first, all of the second. */
static struct dirty_epoch epoch_new(void)
{
	const uint64_t words[] = { htole64(3), htole64(UINT64_C(1) << 63), UINT64_MAX };
	struct dirty_epoch epoch = {};
	json_t *reply = reply_new();

	ck_assert_int_eq(dirty_epoch_parse(reply, words, sizeof(words), &epoch), 0);
	json_decref(reply);
	return epoch;
}

static void note_range(void *userdata, const struct dirty_memory *memory, uint64_t offset_bytes,
		       uint64_t length_bytes)
{
	char *text = userdata;

	sprintf(text + strlen(text), "%s %lu+%lu\n", memory->name, offset_bytes / PAGE,
		length_bytes / PAGE);
}

START_TEST(bits_become_ranges_of_each_memory)
{
	_cleanup_(dirty_epoch_done) struct dirty_epoch epoch = epoch_new();
	char text[256] = "";

	dirty_epoch_ranges(&epoch, note_range, text);
	ck_assert_str_eq(text, "ram0 0+2\nram0 127+1\nvram 8+64\n");
}
END_TEST

static const struct {
	const char *what, *field;
	json_int_t value;
} bad[] = {
	{ "a part behind the end of the file", "fd_offset_bytes", 17 },
	{ "far behind it", "fd_offset_bytes", INT64_MAX },
	{ "more pages than the file has bits", "length_bytes", 65 * PAGE },
	{ "pages without length", "page_bytes", 0 },
	{ "a negative page", "page_bytes", -1 },
};

START_TEST(a_file_that_does_not_fit_its_reply_is_refused)
{
	const uint64_t words[3] = {};
	struct dirty_epoch epoch = {};
	json_t *reply = reply_new();

	json_object_set_new(json_array_get(json_object_get(reply, "memories"), 1), bad[_i].field,
			    json_integer(bad[_i].value));
	ck_assert_msg(dirty_epoch_parse(reply, words, sizeof(words), &epoch) == -EBADMSG, "%s",
		      bad[_i].what);
	json_decref(reply);
}
END_TEST

START_TEST(cells_lie_side_by_side_and_count_what_is_theirs)
{
	_cleanup_(dirty_epoch_done) struct dirty_epoch epoch = epoch_new();
	struct heatmap map;
	char line[HEATMAP_MAX_CELLS * HEATMAP_CELL_BYTES];

	heatmap_fill(&map, &epoch, 12);
	ck_assert_uint_eq(map.n_cells, 12);
	ck_assert_uint_eq(map.cell_bytes, 16 * PAGE);
	ck_assert_uint_eq(map.dirty_bytes[0], 2 * PAGE);
	ck_assert_uint_eq(map.dirty_bytes[1], 0);
	ck_assert_uint_eq(map.dirty_bytes[7], PAGE);
	ck_assert_uint_eq(map.dirty_bytes[11], 16 * PAGE);
	heatmap_line(&map, false, line);
	ck_assert_str_eq(line, "*      +@@@@");
	heatmap_line(&map, true, line);
	ck_assert_str_eq(line, "▆      ▅████");
	heatmap_title(&map, &epoch, line);
	ck_assert_str_eq(line, "|ram0   |vra");
}
END_TEST

START_TEST(there_are_no_more_cells_than_pages)
{
	_cleanup_(dirty_epoch_done) struct dirty_epoch epoch = epoch_new();
	struct heatmap map;

	heatmap_fill(&map, &epoch, HEATMAP_MAX_CELLS);
	ck_assert_uint_eq(map.cell_bytes, PAGE);
	ck_assert_uint_eq(map.n_cells, 192);
}
END_TEST

static const struct {
	uint64_t dirty, cell;
	const char *letter, *block;
} shades[] = {
	{ 0, MIB, " ", " " },
	{ 1, GIB, ".", "▁" },
	{ MIB, MIB, "@", "█" },
	{ MIB - 1, MIB, "#", "▇" },
	{ MIB / 3 + 1, MIB, "#", "▇" },
	{ MIB / 4, MIB, "*", "▆" },
	{ UINT64_MAX / 2, UINT64_MAX, "#", "▇" },
};

START_TEST(one_page_is_seen_and_all_are_full)
{
	ck_assert_str_eq(heatmap_cell(shades[_i].dirty, shades[_i].cell, false), shades[_i].letter);
	ck_assert_str_eq(heatmap_cell(shades[_i].dirty, shades[_i].cell, true), shades[_i].block);
}
END_TEST

static const struct {
	const char *all, *ctype, *lang;
	bool is_utf8;
} locales[] = {
	{ NULL, NULL, NULL, false },	    { NULL, NULL, "C.UTF-8", true },
	{ NULL, NULL, "de_DE.utf8", true }, { "C", NULL, "C.UTF-8", false },
	{ "", "en_US.UTF-8", "C", true },   { NULL, "POSIX", "C.UTF-8", false },
};

static void set(const char *name, const char *value)
{
	if (value)
		setenv(name, value, 1);
	else
		unsetenv(name);
}

START_TEST(the_first_of_three_variables_that_is_set_decides)
{
	set("LC_ALL", locales[_i].all);
	set("LC_CTYPE", locales[_i].ctype);
	set("LANG", locales[_i].lang);
	ck_assert_int_eq(heatmap_has_utf8(), locales[_i].is_utf8);
}
END_TEST

int main(void)
{
	return unit_run(
		"heatmap",
		(struct unit_test[]){
			UNIT(bits_become_ranges_of_each_memory),
			UNIT_TABLE(a_file_that_does_not_fit_its_reply_is_refused, bad),
			UNIT(cells_lie_side_by_side_and_count_what_is_theirs),
			UNIT(there_are_no_more_cells_than_pages),
			UNIT_TABLE(one_page_is_seen_and_all_are_full, shades),
			UNIT_TABLE(the_first_of_three_variables_that_is_set_decides, locales),
			{},
		});
}
