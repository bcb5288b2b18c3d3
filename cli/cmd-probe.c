/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ufdctl probe: what this host's kernel really does, without a daemon. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>

#include "base/cleanup.h"
#include "base/units.h"
#include "output.h"
#include "probe/probe.h"
#include "verbs.h"

#define DETAIL_BYTES 512
#define INDENT	     "           " /* below the title of a row */

struct probing {
	const struct session *session;
	bool is_verbose;
	bool is_list;
	const struct probe_check **checks; /* owned; those to be tried */
	size_t n_checks;
	int group; /* whose heading was printed last */
	unsigned int n_results[_PROBE_RESULT_MAX];
	unsigned int n_unexpected;
	json_t *rows; /* owned */
};

static void probing_done(struct probing *probing)
{
	free(probing->checks);
	json_decref(probing->rows);
}

/* ---- which checks ---- */

static void choose(struct probing *probing, const struct probe_check *check)
{
	for (size_t i = 0; i < probing->n_checks; i++)
		if (probing->checks[i] == check)
			return;
	probing->checks[probing->n_checks++] = check;
}

/* One by its id, or all of a group. Return: false if there is none. */
static bool choose_named(struct probing *probing, const char *name)
{
	const struct probe_check *const *all, *check = probe_find(name);
	bool is_group = false;
	size_t n;

	if (check) {
		choose(probing, check);
		return true;
	}
	all = probe_checks(&n);
	for (size_t i = 0; i < n; i++) {
		if (strcmp(probe_group_name(all[i]->group), name))
			continue;
		choose(probing, all[i]);
		is_group = true;
	}
	return is_group;
}

static int unknown_check(const char *name)
{
	fprintf(stderr, "ufdctl: there is no check '");
	output_text(stderr, name);
	fprintf(stderr, "'\nTry 'ufdctl probe --list'.\n");
	return EXIT_USAGE;
}

static int parse_arguments(struct probing *probing, int argc, char **argv)
{
	static const struct option options[] = {
		{ "list", no_argument, NULL, 'l' },
		{ "only", required_argument, NULL, 'o' },
		{ "verbose", no_argument, NULL, 'v' },
		{},
	};
	bool is_only = false;
	int value;

	while ((value = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (value == 'l')
			probing->is_list = true;
		else if (value == 'v')
			probing->is_verbose = true;
		else if (value != 'o')
			return session_usage("probe knows --list, --only and --verbose");
		else if (!choose_named(probing, optarg))
			return unknown_check(optarg);
		else
			is_only = true;
	}
	if (optind < argc && !is_only)
		return session_usage("probe wants --only before '%s'", argv[optind]);
	for (; optind < argc; optind++)
		if (!choose_named(probing, argv[optind]))
			return unknown_check(argv[optind]);
	return EXIT_DONE;
}

/* ---- rows ---- */

/* What an experiment said may be any bytes; JSON takes none but UTF-8. */
static json_t *text_json(const char *text)
{
	json_t *json = json_string(text ? text : "");

	return json ? json : json_string("(no text)");
}

/* Whether what follows from another answer does follow. */
static bool has_consequence(enum probe_result result)
{
	return result == PROBE_DIFFERS || result == PROBE_MISSING;
}

static bool is_answer(enum probe_result result)
{
	return result == PROBE_OK || has_consequence(result);
}

/* The answer, what was seen beyond it, and what was to be expected instead. */
static void write_detail(const struct probe_report *report, char *ret, size_t n_ret)
{
	const char *expected = probe_expected(report->check, probe_kernel());

	if (!is_answer(report->result)) {
		snprintf(ret, n_ret, "%s", report->detail);
		return;
	}
	snprintf(ret, n_ret, "%s%s%s", report->answer, *report->detail ? ": " : "", report->detail);
	if (!report->is_as_known)
		snprintf(ret + strlen(ret), n_ret - strlen(ret),
			 " (unexpected: kernels like this one answered '%s')", expected);
}

static json_t *row_json(const struct probe_report *report, const char *detail)
{
	const struct probe_check *check = report->check;
	bool does_follow = has_consequence(report->result);

	return json_pack("{s:s, s:s, s:s, s:s, s:o, s:o, s:o}", "id", check->id, "group",
			 probe_group_name(check->group), "title", check->title, "result",
			 probe_result_name(report->result), "detail", text_json(detail),
			 "consequence", text_json(does_follow ? check->consequence : NULL),
			 "remedy", text_json(does_follow ? check->remedy : NULL));
}

static void show_line(const char *title, const char *text)
{
	if (!text || !*text)
		return;
	printf(INDENT "%s", title);
	output_text(stdout, text);
	putchar('\n');
}

static void show_group(struct probing *probing, enum probe_group group)
{
	if ((int)group == probing->group || probing->session->no_legend)
		return;
	printf("%s%s: %s\n", probing->group < 0 ? "" : "\n", probe_group_name(group),
	       probe_group_title(group));
	probing->group = (int)group;
}

static void show_steps(FILE *file, const struct probe_report *report)
{
	char took[32];

	for (const char *at = report->steps; *at; at += strcspn(at, "\n"), at += *at == '\n') {
		char line[DETAIL_BYTES];

		snprintf(line, sizeof(line), "%.*s", (int)strcspn(at, "\n"), at);
		fputs(INDENT "| ", file);
		output_text(file, line);
		putc('\n', file);
	}
	output_ns(report->took_ns, took, sizeof(took));
	fprintf(file, INDENT "| took %s\n", took);
}

/* An answer that is as wanted speaks for itself; where nothing is wanted the answer is the news. */
static void show_row(struct probing *probing, const struct probe_report *report, const char *detail)
{
	const struct probe_check *check = report->check;
	bool is_quiet = report->result == PROBE_OK && report->is_as_known && check->wanted;

	show_group(probing, check->group);
	printf("  %-8s %s\n", probe_result_name(report->result), check->title);
	if (!is_quiet || probing->is_verbose) {
		printf(INDENT "%s: ", check->id);
		output_text(stdout, detail);
		putchar('\n');
	}
	if (has_consequence(report->result)) {
		show_line("", check->consequence);
		show_line("Remedy: ", check->remedy);
	}
	if (probing->is_verbose)
		show_steps(stdout, report);
	fflush(stdout); /* a row a moment: nobody waits for all of them */
}

static void on_report(const struct probe_report *report, void *context)
{
	struct probing *probing = context;
	char detail[DETAIL_BYTES];

	probing->n_results[report->result]++;
	probing->n_unexpected += is_answer(report->result) && !report->is_as_known;
	write_detail(report, detail, sizeof(detail));
	if (probing->session->json == JSON_OFF) {
		show_row(probing, report, detail);
		return;
	}
	json_array_append_new(probing->rows, row_json(report, detail));
	if (probing->is_verbose) {
		fprintf(stderr, "%s: %s\n", report->check->id, probe_result_name(report->result));
		show_steps(stderr, report);
	}
}

/* ---- all of them ---- */

static json_t *summary_json(const struct probing *probing)
{
	json_t *summary = json_object();

	for (int i = 0; i < _PROBE_RESULT_MAX; i++)
		json_object_set_new(summary, probe_result_name(i),
				    json_integer(probing->n_results[i]));
	return summary;
}

static void show_summary(const struct probing *probing, const char *kernel)
{
	if (probing->session->no_legend)
		return;
	printf("\n%zu checks on Linux %s: ", probing->n_checks, kernel);
	for (int i = 0; i < _PROBE_RESULT_MAX; i++)
		printf("%s%u %s", i ? ", " : "", probing->n_results[i], probe_result_name(i));
	if (probing->n_unexpected)
		printf("; %u unexpected", probing->n_unexpected);
	puts(".");
}

static int try_all(struct probing *probing)
{
	struct utsname name = {};
	json_t *json;
	int error;

	uname(&name);
	error = probe_run(probing->checks, probing->n_checks, PROBE_DEADLINE_NS, on_report,
			  probing);
	if (error)
		fprintf(stderr, "ufdctl: no experiment could be started: %s\n", strerror(-error));
	json = json_pack("{s:s, s:o, s:O}", "kernel", name.release, "summary",
			 summary_json(probing), "checks", probing->rows);
	if (!output_json(probing->session, json))
		show_summary(probing, name.release);
	json_decref(json);
	return error || probing->n_results[PROBE_MISSING] ? EXIT_FAILED : EXIT_DONE;
}

static json_t *listed_json(const struct probe_check *check)
{
	return json_pack("{s:s, s:s, s:s, s:s*, s:b, s:s*, s:s*}", "id", check->id, "group",
			 probe_group_name(check->group), "title", check->title, "wanted",
			 check->wanted, "needed", check->is_needed, "consequence",
			 check->consequence, "remedy", check->remedy);
}

static int list_all(struct probing *probing)
{
	static const struct column columns[] = {
		{ "Check", "id", COLUMN_TEXT },
		{ "Property", "title", COLUMN_TEXT },
		{},
	};
	json_t *json;

	for (size_t i = 0; i < probing->n_checks; i++)
		json_array_append_new(probing->rows, listed_json(probing->checks[i]));
	json = json_pack("{s:O}", "checks", probing->rows);
	if (!output_json(probing->session, json))
		output_table(probing->session, columns, probing->rows, "checks");
	json_decref(json);
	return EXIT_DONE;
}

int cmd_probe(struct session *session, int argc, char **argv)
{
	_cleanup_(probing_done) struct probing probing = { .session = session, .group = -1 };
	const struct probe_check *const *all;
	size_t n_all;
	int status;

	all = probe_checks(&n_all);
	probing.checks = calloc(n_all, sizeof(*all));
	probing.rows = json_array();
	if (!probing.checks || !probing.rows)
		return EXIT_FAILED;
	status = parse_arguments(&probing, argc, argv);
	if (status)
		return status;
	if (!probing.n_checks) /* none was named */
		for (size_t i = 0; i < n_all; i++)
			choose(&probing, all[i]);
	return probing.is_list ? list_all(&probing) : try_all(&probing);
}
