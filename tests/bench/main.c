/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * bench: ratios of ufdd to the barest handler there is, and of the plainest one to ufdd.
 *
 * Started by scripts/bench. This process is the VMM: it maps memory and touches it. Handlers are
 * processes of their own, made before any memory is.
 */
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/units.h"
#include "groups.h"
#include "machine.h"
#include "report.h"
#include "tests/support/hugepages.h"

/* --quick as a whole ends within 90 seconds; noisy rows are repeated in the first of them only. */
#define QUICK_REPEATS_NS (45 * NSEC_PER_SEC)

struct options {
	const char *ufdd, *folder, *json;
	bool is_quick, is_gated;
	bool wants_fault, wants_restore;
};

static _Noreturn void usage(void)
{
	fputs("Usage: bench --ufdd PROGRAM --scratch FOLDER [--quick] [--gate] [--json FILE] "
	      "[GROUP]...\n",
	      stderr);
	exit(2);
}

static void parse_options(int argc, char **argv, struct options *options)
{
	static const struct option known[] = {
		{ "ufdd", required_argument, NULL, 'u' },
		{ "scratch", required_argument, NULL, 's' },
		{ "json", required_argument, NULL, 'j' },
		{ "quick", no_argument, NULL, 'q' },
		{ "gate", no_argument, NULL, 'g' },
		{},
	};
	int option;

	while ((option = getopt_long(argc, argv, "", known, NULL)) != -1) {
		switch (option) {
		case 'u':
			options->ufdd = optarg;
			break;
		case 's':
			options->folder = optarg;
			break;
		case 'j':
			options->json = optarg;
			break;
		case 'q':
			options->is_quick = true;
			break;
		case 'g':
			options->is_gated = true;
			break;
		default:
			usage();
		}
	}
	for (int i = optind; i < argc; i++) {
		options->wants_fault |= !strcmp(argv[i], GROUP_FAULT);
		options->wants_restore |= !strcmp(argv[i], GROUP_RESTORE);
	}
	if (optind == argc)
		options->wants_fault = options->wants_restore = true;
	if (!options->ufdd || !options->folder)
		usage();
}

static void choose_rows(const struct options *options, bool has_two_cpus, struct rows *ret)
{
	struct rows all = {};
	bool has_huge_pages = hugepages_are_reserved();

	if (options->wants_fault)
		groups_fault(&all, options->is_quick);
	if (options->wants_restore)
		groups_restore(&all, options->is_quick);
	ret->n = 0;
	for (unsigned int i = 0; i < all.n; i++) {
		const struct row *row = &all.rows[i];

		if (row->above.kind == RAM_HUGETLB && !has_huge_pages)
			printf("skipped, no huge pages: %s\n", row->name);
		else if (!row->is_same_cpu && !has_two_cpus)
			printf("skipped, only one CPU: %s\n", row->name);
		else
			ret->rows[ret->n++] = *row;
	}
}

static void write_json(const char *path, const struct rows *rows, const struct result *results)
{
	FILE *to = fopen(path, "we");

	if (!to)
		die("cannot write %s", path);
	report_json(to, rows->rows, results, rows->n);
	if (fclose(to))
		die("cannot write %s", path);
}

/* Return: how many rows are beyond the gate. */
static unsigned int count_failures(const struct rows *rows, const struct result *results)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < rows->n; i++)
		if (!row_passes_gate(&rows->rows[i], &results[i])) {
			printf("beyond the gate of %g: %s\n", rows->rows[i].gate,
			       rows->rows[i].name);
			n++;
		}
	return n;
}

int main(int argc, char **argv)
{
	static struct rows rows;
	static struct result results[MAX_ROWS];
	struct options options = {};
	struct effort effort = { .n_rounds = 9, .n_repeats = 3 };
	struct bench bench = {};
	bool has_two_cpus;

	parse_options(argc, argv, &options);
	if (options.is_quick)
		effort = (struct effort){ 3, 1, clock_now_ns() + QUICK_REPEATS_NS };
	(void)hugepages_reserve(GROUPS_HUGE_PAGES);
	has_two_cpus = machine_cpus(bench.cpus);
	choose_rows(&options, has_two_cpus, &rows);
	bench_new(&bench, options.ufdd, options.folder, GROUPS_IMAGE_BYTES);
	machine_pin(bench.cpus[0]);

	report_head(stdout);
	for (unsigned int i = 0; i < rows.n; i++) {
		row_measure(&bench, &rows.rows[i], &effort, &results[i]);
		report_row(stdout, &rows.rows[i], &results[i]);
	}
	if (options.json)
		write_json(options.json, &rows, results);
	return options.is_gated && count_failures(&rows, results) ? 1 : 0;
}
