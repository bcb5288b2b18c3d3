/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Tables for people, JSON for programs, a bar for the impatient. */
#pragma once

#include <jansson.h>
#include <stdint.h>
#include <stdio.h>

#include "session.h"

enum column_kind { COLUMN_TEXT, COLUMN_NUMBER, COLUMN_BYTES, COLUMN_NS };

/* One column of a table: a field of each row's object. Arrays of columns end with a NULL field. */
struct column {
	const char *title;
	const char *field;
	enum column_kind kind;
};

/* 1536 -> "1.5K"; with session->with_bytes the number. */
void output_bytes(const struct session *session, uint64_t bytes, char *buffer, size_t n_buffer);

/* 1536 -> "1.5us" */
void output_ns(uint64_t ns, char *buffer, size_t n_buffer);

/* @rows: array of objects. @what: "guests", for the last line. */
void output_table(const struct session *session, const struct column *columns, const json_t *rows,
		  const char *what);

/* One object, a line a column. */
void output_record(const struct session *session, const struct column *columns,
		   const json_t *record);

/* The reply itself, when JSON was asked for. Return: false if it was not. */
bool output_json(const struct session *session, const json_t *reply);

/* Names in a text were chosen by whoever made them: nothing of it moves the cursor of who reads it. */
void output_text(FILE *file, const char *text);

/* What a reply warns of, on stderr. @warnings: array of texts, or NULL. */
void output_warnings(const struct session *session, const json_t *warnings);

/* A bar on stderr while it is a terminal: done of total, rate, time left. */
struct progress {
	const struct session *session;
	const char *what;
	uint64_t started_ns;
	uint64_t shown_ns;
	bool is_shown;
};
void progress_show(struct progress *progress, uint64_t done_bytes, uint64_t total_bytes);
void progress_end(struct progress *progress);
