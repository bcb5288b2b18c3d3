/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Tables for people, JSON for programs. */
#include "output.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#define MAX_COLUMNS 16
#define CELL_BYTES  256

void output_bytes(const struct session *session, uint64_t bytes, char *buffer, size_t n_buffer)
{
	static const char units[] = "BKMGTPE";
	double value = (double)bytes;
	unsigned int unit = 0;

	if (session->with_bytes) {
		snprintf(buffer, n_buffer, "%lu", bytes);
		return;
	}
	while (value >= 1024 && units[unit + 1]) {
		value /= 1024;
		unit++;
	}
	snprintf(buffer, n_buffer, unit && value < 10 ? "%.1f%c" : "%.0f%c", value, units[unit]);
}

void output_ns(uint64_t ns, char *buffer, size_t n_buffer)
{
	if (ns < 1000)
		snprintf(buffer, n_buffer, "%luns", ns);
	else if (ns < 1000000)
		snprintf(buffer, n_buffer, "%.1fus", (double)ns / 1e3);
	else if (ns < 1000000000)
		snprintf(buffer, n_buffer, "%.1fms", (double)ns / 1e6);
	else
		snprintf(buffer, n_buffer, "%.1fs", (double)ns / 1e9);
}

static void output_cell(const struct session *session, const struct column *column,
			const json_t *row, char cell[CELL_BYTES])
{
	const json_t *value = json_object_get(row, column->field);

	if (!value || json_is_null(value))
		snprintf(cell, CELL_BYTES, "-");
	else if (json_is_string(value))
		snprintf(cell, CELL_BYTES, "%s", json_string_value(value));
	else if (json_is_boolean(value))
		snprintf(cell, CELL_BYTES, "%s", json_is_true(value) ? "yes" : "no");
	else if (!json_is_integer(value))
		snprintf(cell, CELL_BYTES, "?");
	else if (column->kind == COLUMN_BYTES)
		output_bytes(session, (uint64_t)json_integer_value(value), cell, CELL_BYTES);
	else if (column->kind == COLUMN_NS)
		output_ns((uint64_t)json_integer_value(value), cell, CELL_BYTES);
	else
		snprintf(cell, CELL_BYTES, "%lld", json_integer_value(value));
	for (char *c = cell; *c; c++)
		if (iscntrl((unsigned char)*c))
			*c = '?';
}

void output_text(FILE *file, const char *text)
{
	for (; *text; text++)
		putc(iscntrl((unsigned char)*text) ? '?' : *text, file);
}

void output_table(const struct session *session, const struct column *columns, const json_t *rows,
		  const char *what)
{
	int widths[MAX_COLUMNS] = {};
	char cell[CELL_BYTES];
	const json_t *row;
	size_t i;

	for (int c = 0; columns[c].field; c++)
		widths[c] = session->no_legend ? 0 : (int)strlen(columns[c].title);
	json_array_foreach(rows, i, row) for (int c = 0; columns[c].field; c++)
	{
		output_cell(session, &columns[c], row, cell);
		if ((int)strlen(cell) > widths[c])
			widths[c] = (int)strlen(cell);
	}
	for (int c = 0; columns[c].field && !session->no_legend; c++)
		printf(columns[c].kind == COLUMN_TEXT ? "%s%-*s" : "%s%*s", c ? "  " : "",
		       columns[c + 1].field || columns[c].kind != COLUMN_TEXT ? widths[c] : 0,
		       columns[c].title);
	if (!session->no_legend)
		putchar('\n');
	json_array_foreach(rows, i, row)
	{
		for (int c = 0; columns[c].field; c++) {
			output_cell(session, &columns[c], row, cell);
			printf(columns[c].kind == COLUMN_TEXT ? "%s%-*s" : "%s%*s", c ? "  " : "",
			       columns[c + 1].field || columns[c].kind != COLUMN_TEXT ? widths[c]
										      : 0,
			       cell);
		}
		putchar('\n');
	}
	if (!session->no_legend)
		printf("\n%zu %s listed.\n", json_array_size(rows), what);
}

void output_record(const struct session *session, const struct column *columns,
		   const json_t *record)
{
	char cell[CELL_BYTES];
	int width = 0;

	for (int c = 0; columns[c].field; c++)
		if ((int)strlen(columns[c].title) > width)
			width = (int)strlen(columns[c].title);
	for (int c = 0; columns[c].field; c++) {
		output_cell(session, &columns[c], record, cell);
		printf("%*s: %s\n", width, columns[c].title, cell);
	}
}

void output_warnings(const struct session *session, const json_t *warnings)
{
	const json_t *text;
	size_t i;

	if (session->is_quiet || session->json != JSON_OFF)
		return;
	json_array_foreach(warnings, i, text)
	{
		fputs("warning: ", stderr);
		output_text(stderr, json_string_value(text));
		putc('\n', stderr);
	}
}

bool output_json(const struct session *session, const json_t *reply)
{
	if (session->json == JSON_OFF)
		return false;
	json_dumpf(reply, stdout, session->json == JSON_PRETTY ? JSON_INDENT(2) : JSON_COMPACT);
	putchar('\n');
	return true;
}
