/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ufdctl probe with a table of our own: what it prints, and how it exits. */
#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "probe/experiment.h"
#include "probe/probe.h"
#include "support/unit.h"
#include "verbs.h"

/* ---- the table, in place of the real one ---- */

static void answer_yes(struct probe_run *run)
{
	probe_step(run, "asked");
	probe_answer(run, "yes");
	probe_detail(run, "it \x1b[31mnodded");
}

static void answer_no(struct probe_run *run)
{
	probe_answer(run, "no");
}

static void skip(struct probe_run *run)
{
	probe_skip(run, "there is none here");
}

static void crash(struct probe_run *run)
{
	raise(SIGSEGV);
}

static void answer_bytes(struct probe_run *run)
{
	probe_answer(run, "\xff\xfe");
}

static const struct probe_check fine = { .id = "host.fine",
					 .group = PROBE_HOST,
					 .title = "All is fine",
					 .wanted = "yes",
					 .consequence = "never told",
					 .remedy = "never told",
					 .run = answer_yes };
static const struct probe_check news = {
	.id = "host.news", .group = PROBE_HOST, .title = "Whatever it is", .run = answer_no
};
static const struct probe_check other = { .id = "fill.other",
					  .group = PROBE_FILL,
					  .title = "It is so",
					  .wanted = "yes",
					  .known = { { PROBE_KERNEL(5, 0), "no" } },
					  .consequence = "ufd helps itself",
					  .run = answer_no };
static const struct probe_check strange = { .id = "fill.strange",
					    .group = PROBE_FILL,
					    .title = "It was so",
					    .wanted = "yes",
					    .consequence = "ufd wonders",
					    .run = answer_no };
static const struct probe_check needed = { .id = "zap.needed",
					   .group = PROBE_ZAP,
					   .title = "It must be so",
					   .wanted = "yes",
					   .is_needed = true,
					   .consequence = "nothing works",
					   .remedy = "run another kernel",
					   .run = answer_no };
static const struct probe_check absent = { .id = "zap.absent",
					   .group = PROBE_ZAP,
					   .title = "It is here",
					   .wanted = "yes",
					   .consequence = "never told",
					   .run = skip };
static const struct probe_check broken = { .id = "scan.broken",
					   .group = PROBE_SCAN,
					   .title = "It works",
					   .wanted = "yes",
					   .consequence = "never told",
					   .is_needed = true,
					   .run = crash };
static const struct probe_check bytes = {
	.id = "scan.bytes", .group = PROBE_SCAN, .title = "It is text", .run = answer_bytes
};
static const struct probe_check *const all[] = { &fine,	  &news,   &other,  &strange,
						 &needed, &absent, &broken, &bytes };

const struct probe_check *const *probe_checks(size_t *ret_n)
{
	*ret_n = sizeof(all) / sizeof(all[0]);
	return all;
}

const struct probe_check *probe_find(const char *id)
{
	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		if (strcmp(all[i]->id, id) == 0)
			return all[i];
	return NULL;
}

const char *probe_group_name(enum probe_group group)
{
	static const char *const names[_PROBE_GROUP_MAX] = {
		[PROBE_HOST] = "host",
		[PROBE_FILL] = "fill",
		[PROBE_ZAP] = "zap",
		[PROBE_SCAN] = "scan",
	};

	return names[group];
}

const char *probe_group_title(enum probe_group group)
{
	return "what it guards";
}

const char *probe_result_name(enum probe_result result)
{
	static const char *const names[] = { "ok", "differs", "missing", "failed", "skipped" };

	return names[result];
}

/* ---- one invocation ---- */

static char output[32 * 1024], errors[8 * 1024];

static FILE *replace(FILE **stream, FILE *by)
{
	FILE *before = *stream;

	*stream = by;
	return before;
}

static void read_back(FILE *file, char *ret, size_t n_ret)
{
	rewind(file);
	ret[fread(ret, 1, n_ret - 1, file)] = '\0';
	fclose(file);
}

/* @words: behind the verb, separated by spaces. */
static int run(enum json_style json, const char *words)
{
	FILE *out = replace(&stdout, tmpfile()), *err = replace(&stderr, tmpfile());
	struct session session = { .json = json };
	char text[256], *argv[16] = { "probe" };
	int argc = 1, status;

	snprintf(text, sizeof(text), "%s", words);
	for (char *word = strtok(text, " "); word; word = strtok(NULL, " "))
		argv[argc++] = word;
	optind = 0; /* each run begins anew */
	status = cmd_probe(&session, argc, argv);
	read_back(replace(&stdout, out), output, sizeof(output));
	read_back(replace(&stderr, err), errors, sizeof(errors));
	return status;
}

static void expect(const char *text)
{
	ck_assert_msg(strstr(output, text) != NULL, "'%s' is not in:\n%s", text, output);
}

static void expect_not(const char *text)
{
	ck_assert_msg(strstr(output, text) == NULL, "'%s' is in:\n%s", text, output);
}

/* ---- exit statuses ---- */

static const struct {
	const char *words;
	int status;
	const char *error;
} rows[] = {
	{ "--only host.fine", EXIT_DONE, "" },
	{ "--only fill.other", EXIT_DONE, "" },
	{ "--only zap.absent", EXIT_DONE, "" },
	{ "--only scan.broken", EXIT_DONE, "" }, /* our experiment, not the host */
	{ "--only zap.needed", EXIT_FAILED, "" },
	{ "", EXIT_FAILED, "" },
	{ "--list", EXIT_DONE, "" },
	{ "--only host.fine zap", EXIT_FAILED, "" },
	{ "--only none.such", EXIT_USAGE, "there is no check 'none.such'" },
	{ "--only host.fine none.such", EXIT_USAGE, "there is no check 'none.such'" },
	{ "--only mapper", EXIT_USAGE, "there is no check 'mapper'" },
	{ "--only a\x1b[31mb", EXIT_USAGE, "there is no check 'a?[31mb'" },
	{ "host.fine", EXIT_USAGE, "--only before 'host.fine'" },
	{ "--loud", EXIT_USAGE, "--list, --only and --verbose" },
};

START_TEST(it_fails_when_something_needed_is_missing)
{
	ck_assert_int_eq(run(JSON_OFF, rows[_i].words), rows[_i].status);
	ck_assert_msg(strstr(errors, rows[_i].error) != NULL, "%s", errors);
	if (rows[_i].status == EXIT_USAGE)
		ck_assert_str_eq(output, "");
	else
		ck_assert_str_eq(errors, "");
}
END_TEST

/* ---- for people ---- */

START_TEST(the_table_says_what_follows_of_what_differs)
{
	run(JSON_OFF, "");
	expect("host: what it guards\n  ok       All is fine\n");
	expect("  ok       Whatever it is\n           host.news: no\n");
	expect("  differs  It is so\n           fill.other: no\n           ufd helps itself\n");
	expect("fill.strange: no (unexpected: kernels like this one answered 'yes')\n");
	expect("  missing  It must be so\n           zap.needed: no");
	expect("           nothing works\n           Remedy: run another kernel\n");
	expect("  skipped  It is here\n           zap.absent: there is none here\n");
	expect("scan.broken: its process was ended by signal 11 (SIGSEGV)\n");
	expect("\n8 checks on Linux ");
	expect(": 3 ok, 2 differs, 1 missing, 1 failed, 1 skipped; 2 unexpected.\n");
	expect_not("never told");
	expect_not("asked");
}
END_TEST

START_TEST(verbose_shows_steps_and_nothing_that_moves_a_cursor)
{
	run(JSON_OFF, "--only host.fine --verbose");
	expect("           host.fine: yes: it ?[31mnodded\n           | asked\n           | took ");
	expect_not("\x1b");
}
END_TEST

START_TEST(only_keeps_to_the_words_and_tries_none_twice)
{
	const char *first, *second;

	run(JSON_OFF, "--only fill.other --only host fill.other host.fine");
	expect("3 checks on Linux ");
	first = strstr(output, "It is so");
	second = strstr(output, "All is fine");
	ck_assert_ptr_nonnull(first);
	ck_assert_ptr_nonnull(second);
	ck_assert(first < second);
}
END_TEST

/* ---- for programs ---- */

static const char *text_of(const json_t *row, const char *field)
{
	const char *text = json_string_value(json_object_get(row, field));

	ck_assert_msg(text != NULL, "no %s", field);
	return text;
}

static void expect_row(const json_t *checks, size_t i, const char *id, const char *result,
		       const char *detail, const char *consequence, const char *remedy)
{
	const json_t *row = json_array_get(checks, i);

	ck_assert_uint_eq(json_object_size(row), 7);
	ck_assert_str_eq(text_of(row, "id"), id);
	ck_assert_str_eq(text_of(row, "result"), result);
	ck_assert_msg(strncmp(text_of(row, "detail"), detail, strlen(detail)) == 0, "%s",
		      text_of(row, "detail"));
	ck_assert_str_eq(text_of(row, "consequence"), consequence);
	ck_assert_str_eq(text_of(row, "remedy"), remedy);
	ck_assert_str_eq(text_of(row, "title"), all[i]->title);
	ck_assert_str_eq(text_of(row, "group"), probe_group_name(all[i]->group));
}

START_TEST(json_stands_alone_and_has_every_field)
{
	const json_t *checks, *summary;
	json_t *json;

	ck_assert_int_eq(run(JSON_SHORT, "--verbose"), EXIT_FAILED);
	json = json_loads(output, 0, NULL);
	ck_assert_ptr_nonnull(json);
	ck_assert_uint_eq(json_object_size(json), 3);
	ck_assert_uint_gt(strlen(text_of(json, "kernel")), 2);
	checks = json_object_get(json, "checks");
	ck_assert_uint_eq(json_array_size(checks), 8);
	expect_row(checks, 0, "host.fine", "ok", "yes: it ", "", "");
	expect_row(checks, 1, "host.news", "ok", "no", "", "");
	expect_row(checks, 2, "fill.other", "differs", "no", "ufd helps itself", "");
	expect_row(checks, 3, "fill.strange", "differs", "no (unexpected", "ufd wonders", "");
	expect_row(checks, 4, "zap.needed", "missing", "no (unexpected", "nothing works",
		   "run another kernel");
	expect_row(checks, 5, "zap.absent", "skipped", "there is none here", "", "");
	expect_row(checks, 6, "scan.broken", "failed", "its process was ended by signal 11", "",
		   "");
	expect_row(checks, 7, "scan.bytes", "ok", "(no text)", "", "");
	summary = json_object_get(json, "summary");
	ck_assert_uint_eq(json_object_size(summary), 5);
	ck_assert_int_eq(json_integer_value(json_object_get(summary, "ok")), 3);
	ck_assert_int_eq(json_integer_value(json_object_get(summary, "differs")), 2);
	ck_assert_int_eq(json_integer_value(json_object_get(summary, "missing")), 1);
	ck_assert_int_eq(json_integer_value(json_object_get(summary, "failed")), 1);
	ck_assert_int_eq(json_integer_value(json_object_get(summary, "skipped")), 1);
	json_decref(json);
	ck_assert_msg(strstr(errors, "host.fine: ok\n           | asked\n") != NULL, "%s", errors);
}
END_TEST

START_TEST(the_list_tries_nothing)
{
	const json_t *checks;
	json_t *json;

	run(JSON_OFF, "--list");
	expect("scan.broken");
	expect("8 checks listed.");
	expect_not("SIGSEGV");
	run(JSON_SHORT, "--list --only zap.needed");
	json = json_loads(output, 0, NULL);
	checks = json_object_get(json, "checks");
	ck_assert_uint_eq(json_array_size(checks), 1);
	ck_assert_str_eq(text_of(json_array_get(checks, 0), "wanted"), "yes");
	ck_assert(json_is_true(json_object_get(json_array_get(checks, 0), "needed")));
	json_decref(json);
}
END_TEST

int main(void)
{
	return unit_run("probe-command",
			(struct unit_test[]){
				UNIT_TABLE(it_fails_when_something_needed_is_missing, rows),
				UNIT(the_table_says_what_follows_of_what_differs),
				UNIT(verbose_shows_steps_and_nothing_that_moves_a_cursor),
				UNIT(only_keeps_to_the_words_and_tries_none_twice),
				UNIT(json_stands_alone_and_has_every_field),
				UNIT(the_list_tries_nothing),
				{},
			});
}
