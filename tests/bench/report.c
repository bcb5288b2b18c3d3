/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What is printed. */
#include "report.h"

#include <stdio.h>

#include "base/units.h"

static const char *placement(const struct row *row)
{
	return row->is_same_cpu ? "same CPU" : "other CPU";
}

/* Nanoseconds in three digits and a unit. */
static const char *human(double ns, char *buffer, size_t n_buffer)
{
	if (ns < 1e6)
		snprintf(buffer, n_buffer, "%.2f us", ns / 1e3);
	else
		snprintf(buffer, n_buffer, "%.1f ms", ns / 1e6);
	return buffer;
}

/* What an arm came to. */
static const char *figure(const struct row *row, double ns, char *buffer, size_t n_buffer)
{
	if (row->is_rate) {
		snprintf(buffer, n_buffer, "%.0f/s", NSEC_PER_SEC / ns);
		return buffer;
	}
	if (!row->moved_bytes)
		return human(ns, buffer, n_buffer);
	snprintf(buffer, n_buffer, "%.0f MiB/s",
		 (double)row->moved_bytes / (double)MIB * NSEC_PER_SEC / ns);
	return buffer;
}

static const char *verdict(const struct row *row, const struct result *result)
{
	if (!row->target)
		return "-";
	if (result->is_noisy)
		return "noisy";
	return row_reaches(row, result->ratio, row->target) ? "holds" : "MISSED";
}

static void print_target(FILE *to, const struct row *row)
{
	fprintf(to, "%s%g", row->is_at_least ? ">=" : "<=", row->target);
}

void report_head(FILE *to)
{
	fprintf(to, "%-8s %-50s %-9s %6s %15s  %-6s %-6s %10s %10s %9s  %s\n", "group", "row",
		"server", "ratio", "(min-max)", "target", "", "above", "below", "floor", "others");
	fflush(to); /* processes are forked from now on */
}

void report_row(FILE *to, const struct row *row, const struct result *result)
{
	char range[32], above[16], below[16], floor[16], target[16] = "-";

	snprintf(range, sizeof(range), "(%.2f-%.2f)", result->min, result->max);
	if (row->target)
		snprintf(target, sizeof(target), "%s%g",
			 row->is_at_least ? ">=" : "<=", row->target);
	fprintf(to, "%-8s %-50s %-9s %6.2f %15s  %-6s %-6s %10s %10s %9s  %2.0f %%\n", row->group,
		row->name, placement(row), result->ratio, range, target, verdict(row, result),
		figure(row, result->above_ns, above, sizeof(above)),
		figure(row, result->below_ns, below, sizeof(below)),
		human(result->floor_ns, floor, sizeof(floor)), result->load_of_others * 100);
	fflush(to);
}

void report_json(FILE *to, const struct row *rows, const struct result *results, unsigned int n)
{
	fputs("[", to);
	for (unsigned int i = 0; i < n; i++) {
		const struct row *row = &rows[i];
		const struct result *result = &results[i];
		bool is_judged = row->target && !result->is_noisy;

		fprintf(to, "%s{\"group\":\"%s\",\"name\":\"%s\",\"placement\":\"%s\",",
			i ? ",\n" : "", row->group, row->name, placement(row));
		fprintf(to, "\"ratio\":%.4f,\"min\":%.4f,\"max\":%.4f,\"target\":", result->ratio,
			result->min, result->max);
		if (is_judged) {
			fputc('"', to);
			print_target(to, row);
			fputc('"', to);
		} else {
			fputs("null", to);
		}
		fprintf(to, ",\"holds\":%s,\"noisy\":%s}",
			!is_judged				       ? "null"
			: row_reaches(row, result->ratio, row->target) ? "true"
								       : "false",
			result->is_noisy ? "true" : "false");
	}
	fputs("]\n", to);
}
