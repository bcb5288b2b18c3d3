/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What is printed: a table for people, and JSON for programs. */
#pragma once

#include <stdio.h>

#include "row.h"

void report_head(FILE *to);
void report_row(FILE *to, const struct row *row, const struct result *result);

/* An array of one object a row. */
void report_json(FILE *to, const struct row *rows, const struct result *results, unsigned int n);
