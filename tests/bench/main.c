/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * bench: ratios of ufdd to the barest handler there is, and of the plainest one to ufdd.
 *
 * Started by scripts/bench. This process is the VMM: it maps memory and touches it. Handlers are
 * processes of their own, made before any memory is.
 */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/units.h"
#include "groups.h"
#include "machine.h"
#include "report.h"
#include "tests/support/hugepages.h"

/* --quick repeats noisy rows while it is on course for this; each has its first rounds, however late it is. */
#define QUICK_NS (75 * NSEC_PER_SEC)

/* For scripts/test. */
#define EXIT_SKIPPED 77

static const struct effort full_effort = { .n_rounds = 9, .n_repeats = 3 };
static const struct effort quick_effort = { .n_rounds = 3, .n_repeats = 3 };
/* one round alone is noise */
static const struct effort late_effort = { .n_rounds = 3 };

struct options {
	const char *ufdd, *firecracker, *folder, *json, *only;
	bool is_quick, is_gated;
	bool wants_fault, wants_restore, wants_dirty, wants_snapshot, wants_handoff;
};

static _Noreturn void usage(void)
{
	fputs("Usage: bench --ufdd PROGRAM --firecracker PROGRAM --scratch FOLDER [--quick] [--gate] "
	      "[--json FILE] [--only TEXT] [GROUP]...\n",
	      stderr);
	exit(2);
}

static void parse_options(int argc, char **argv, struct options *options)
{
	static const struct option known[] = {
		{ "ufdd", required_argument, NULL, 'u' },
		{ "firecracker", required_argument, NULL, 'f' },
		{ "scratch", required_argument, NULL, 's' },
		{ "json", required_argument, NULL, 'j' },
		{ "only", required_argument, NULL, 'o' },
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
		case 'f':
			options->firecracker = optarg;
			break;
		case 's':
			options->folder = optarg;
			break;
		case 'j':
			options->json = optarg;
			break;
		case 'o':
			options->only = optarg;
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
		options->wants_dirty |= !strcmp(argv[i], GROUP_DIRTY);
		options->wants_handoff |= !strcmp(argv[i], GROUP_HANDOFF);
		options->wants_snapshot |= !strcmp(argv[i], GROUP_SNAPSHOT) ||
					   !strcmp(argv[i], GROUP_DIRTY);
	}
	if (optind == argc)
		options->wants_fault = options->wants_restore = options->wants_dirty =
			options->wants_snapshot = options->wants_handoff = true;
	if (!options->ufdd || !options->firecracker || !options->folder)
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
	if (options->wants_dirty)
		groups_dirty(&all, options->is_quick);
	if (options->wants_snapshot)
		groups_snapshot(&all, options->is_quick);
	if (options->wants_handoff)
		groups_handoff(&all, options->is_quick);
	ret->n = 0;
	for (unsigned int i = 0; i < all.n; i++) {
		const struct row *row = &all.rows[i];

		if (options->only && !strstr(row->name, options->only))
			continue;
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

/* A row gets its share of the time that is left; who is late makes do with his first rounds. */
static struct effort choose_effort(const struct options *options, uint64_t started_ns,
				   unsigned int n_done, unsigned int n_rows)
{
	uint64_t now_ns = clock_now_ns(), end_ns = started_ns + QUICK_NS;
	struct effort effort = quick_effort;

	if (!options->is_quick)
		return full_effort;
	if (now_ns - started_ns > QUICK_NS * n_done / n_rows && n_done)
		return late_effort;
	effort.no_repeat_after_ns = now_ns + (end_ns - now_ns) / (n_rows - n_done) / 2;
	return effort;
}

int main(int argc, char **argv)
{
	static struct rows rows;
	static struct result results[MAX_ROWS];
	struct options options = {};
	struct bench bench = {};
	uint64_t started_ns = clock_now_ns();
	bool has_two_cpus;

	parse_options(argc, argv, &options);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (!machine_has_userfaultfd()) {
		puts("skipped: this user may not make a userfaultfd that serves the kernel's faults");
		return EXIT_SKIPPED;
	}
	machine_come_first();
	(void)hugepages_reserve(GROUPS_HUGE_PAGES);
	has_two_cpus = machine_cpus(bench.cpus);
	choose_rows(&options, has_two_cpus, &rows);
	bench_new(&bench, options.ufdd, options.folder, groups_image_bytes(options.is_quick));
	bench.firecracker = options.firecracker;
	machine_pin(bench.cpus[0]);

	report_head(stdout);
	for (unsigned int i = 0; i < rows.n; i++) {
		struct effort effort = choose_effort(&options, started_ns, i, rows.n);

		row_measure(&bench, &rows.rows[i], &effort, &results[i]);
		report_row(stdout, &rows.rows[i], &results[i]);
	}
	if (options.json)
		write_json(options.json, &rows, results);
	return options.is_gated && count_failures(&rows, results) ? 1 : 0;
}
