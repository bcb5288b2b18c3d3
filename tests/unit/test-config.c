/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ufdd.conf: what is understood, warned of, refused, and in which file and line. */
#include "config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/units.h"
#include "support/unit.h"

struct reports {
	unsigned int n_warnings;
	unsigned int n_errors;
	char text[1024]; /* the last */
};

static void on_report(void *userdata, bool is_error, const char *text)
{
	struct reports *reports = userdata;

	*(is_error ? &reports->n_errors : &reports->n_warnings) += 1;
	snprintf(reports->text, sizeof(reports->text), "%s", text);
}

START_TEST(every_key_is_understood)
{
	static const char text[] = "# all of them\n"
				   "[daemon]\n"
				   "socket = /run/x\n"
				   "state-dir = /var/x\n"
				   "log-level = debug\n"
				   "log-prefix = yes\n"
				   "debug = data, control\n"
				   "stop-timeout-s = 11\n"
				   "[limits]\n"
				   "connections = 5\n"
				   "connections-per-user = 3\n"
				   "backlog-bytes = 2M\n"
				   "guests = 7\n"
				   "jobs = 2\n"
				   "jobs-per-user = 1\n"
				   "[defaults]\n"
				   "policy = poison\n"
				   "fault-deadline-s = 9\n"
				   "track = wp\n"
				   "other-mappers = eager\n"
				   "populated = keep\n"
				   "background = no\n"
				   "background-rate = 1G\n"
				   "window-bytes = 0\n"
				   "cpu = 0\n"
				   "spin_us = 20\n";
	struct config config = config_built_in();
	struct reports reports = {};

	ck_assert_int_eq(config_parse(&config, "f", text, on_report, &reports), 0);
	ck_assert_uint_eq(reports.n_errors + reports.n_warnings, 0);
	ck_assert_str_eq(config.socket, "/run/x");
	ck_assert_str_eq(config.state_dir, "/var/x");
	ck_assert_int_eq(config.log_level, LOG_LEVEL_DEBUG);
	ck_assert_uint_eq(config.log_prefix, 1);
	ck_assert_uint_eq(config.debug, LOG_SWITCH_DATA | LOG_SWITCH_CONTROL);
	ck_assert_uint_eq(config.stop_timeout_s, 11);
	ck_assert_uint_eq(config.n_connections, 5);
	ck_assert_uint_eq(config.n_connections_per_user, 3);
	ck_assert_uint_eq(config.backlog_bytes, 2 * MIB);
	ck_assert_uint_eq(config.n_guests, 7);
	ck_assert_uint_eq(config.n_jobs, 2);
	ck_assert_uint_eq(config.n_jobs_per_user, 1);
	ck_assert_uint_eq(config.defaults.policy, UFD_POLICY_POISON);
	ck_assert_uint_eq(config.defaults.fault_deadline_s, 9);
	ck_assert_uint_eq(config.defaults.track, SETTINGS_TRACK_WP);
	ck_assert_uint_eq(config.defaults.other_mappers, SETTINGS_OTHERS_EAGER);
	ck_assert_uint_eq(config.defaults.populated, UFD_POPULATED_KEEP);
	ck_assert_uint_eq(config.defaults.background, 0);
	ck_assert_uint_eq(config.defaults.background_rate, GIB);
	ck_assert_uint_eq(config.defaults.window_bytes, 0);
	ck_assert_uint_eq(config.defaults.cpu, 1);
	ck_assert_uint_eq(config.defaults.spin_us, 20);
}
END_TEST

static const struct {
	const char *what;
	const char *text;
	int result;
	unsigned int n_warnings;
	const char *said; /* beginning of the last report */
} files[] = {
	{ "nothing", "", 0, 0, "" },
	{ "comments", "# a\n; b\n\n", 0, 0, "" },
	{ "an unknown key", "[daemon]\n\nsokcet = /x\n", 0, 1, "f:3: unknown key [daemon] sokcet" },
	{ "an unknown section", "[demon]\nsocket = /x\n", 0, 1, "f:2: unknown key [demon] socket" },
	{ "a key without section", "socket = /x\n", 0, 1, "f:1: unknown key [] socket" },
	{ "an unknown default", "[defaults]\npolicies = stall\n", 0, 1, "f:2: unknown" },
	{ "a bad level", "[daemon]\nlog-level = loud\n", -EINVAL, 0,
	  "f:2: [daemon] log-level cannot be `loud`" },
	{ "a relative socket", "[daemon]\nsocket = here\n", -EINVAL, 0, "f:2: [daemon] socket" },
	{ "a bad switch", "[daemon]\ndebug = data,contrl\n", -EINVAL, 0, "f:2: [daemon] debug" },
	{ "a limit of none", "[limits]\nguests = 0\n", -EINVAL, 0, "f:2: [limits] guests" },
	{ "a negative limit", "[limits]\nguests = -1\n", -EINVAL, 0, "f:2: [limits] guests" },
	{ "a number with words", "[limits]\nguests = 5 please\n", -EINVAL, 0,
	  "f:2: [limits] guests" },
	{ "a number beyond 2^64", "[defaults]\nbackground-rate = 99999999999999999999\n", -EINVAL,
	  0, "f:2: [defaults] background-rate" },
	{ "a number whose unit is too large", "[defaults]\nbackground-rate = 99999999999T\n",
	  -EINVAL, 0, "f:2: [defaults] background-rate" },
	{ "a word for a bool", "[defaults]\nbackground = maybe\n", -EINVAL, 0,
	  "f:2: [defaults] background" },
	{ "an unknown policy", "[defaults]\npolicy = panic\n", -EINVAL, 0,
	  "f:2: [defaults] policy" },
	{ "a window too large", "[defaults]\nwindow-bytes = 1G\n", -EINVAL, 0,
	  "f:2: [defaults] window-bytes" },
	{ "no assignment", "[daemon]\nsocket\n", -EINVAL, 0, "f:2: neither" },
	{ "an open section", "[daemon\nsocket = /x\n", -EINVAL, 1, "f:1: neither" },
};

START_TEST(what_is_odd_is_said_with_its_line)
{
	struct config config = config_built_in();
	struct reports reports = {};

	ck_assert_msg(config_parse(&config, "f", files[_i].text, on_report, &reports) ==
			      files[_i].result,
		      "%s", files[_i].what);
	ck_assert_msg((reports.n_errors > 0) == (files[_i].result < 0), "%s", files[_i].what);
	ck_assert_msg(reports.n_warnings == files[_i].n_warnings, "%s: %u", files[_i].what,
		      reports.n_warnings);
	ck_assert_msg(strncmp(reports.text, files[_i].said, strlen(files[_i].said)) == 0, "%s: %s",
		      files[_i].what, reports.text);
}
END_TEST

START_TEST(a_line_too_long_is_refused)
{
	struct config config = config_built_in();
	struct reports reports = {};
	char text[9000];

	memset(text, 'a', sizeof(text));
	memcpy(text, "[daemon]\nsocket = /", 19);
	text[sizeof(text) - 1] = '\0';
	ck_assert_int_eq(config_parse(&config, "f", text, on_report, &reports), -EINVAL);
	ck_assert_ptr_nonnull(strstr(reports.text, "f:2: line longer"));
}
END_TEST

static void write_file(const char *directory, const char *name, const char *text)
{
	char path[256];
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	file = fopen(path, "we");
	ck_assert_ptr_nonnull(file);
	fputs(text, file);
	fclose(file);
}

START_TEST(drop_ins_come_after_the_file_by_name)
{
	char directory[] = "/tmp/ufd-config-XXXXXX", path[64], drop_ins[64], command[128];
	struct config config = config_built_in();
	struct reports reports = {};

	ck_assert_ptr_nonnull(mkdtemp(directory));
	snprintf(path, sizeof(path), "%s/c", directory);
	snprintf(drop_ins, sizeof(drop_ins), "%s/c.d", directory);
	ck_assert_int_eq(mkdir(drop_ins, 0700), 0);
	ck_assert_int_eq(config_load(&config, path, true, on_report, &reports), -ENOENT);
	ck_assert_uint_eq(reports.n_errors, 1);
	ck_assert_int_eq(config_load(&config, path, false, on_report, &reports), 0);

	write_file(directory, "c", "[limits]\nguests = 1\njobs = 1\nconnections = 1\n");
	write_file(drop_ins, "20-b.conf", "[limits]\nguests = 3\n");
	write_file(drop_ins, "10-a.conf", "[limits]\nguests = 2\njobs = 2\n");
	write_file(drop_ins, "30-c.conf~", "[limits]\nguests = 4\n");
	write_file(drop_ins, ".40.conf", "[limits]\nguests = 5\n");
	ck_assert_int_eq(config_load(&config, path, true, on_report, &reports), 0);
	ck_assert_uint_eq(config.n_guests, 3);
	ck_assert_uint_eq(config.n_jobs, 2);
	ck_assert_uint_eq(config.n_connections, 1);

	write_file(drop_ins, "50-bad.conf", "\n\n[limits]\nguests = none\n");
	ck_assert_int_eq(config_load(&config, path, true, on_report, &reports), -EINVAL);
	ck_assert_ptr_nonnull(strstr(reports.text, "c.d/50-bad.conf:4: [limits] guests"));
	snprintf(command, sizeof(command), "rm -r %s", directory);
	ck_assert_int_eq(system(command), 0);
}
END_TEST

/* ---- the same settings from the interface ---- */

static const struct {
	const char *json;
	const char *wrong; /* NULL: it is fine */
} objects[] = {
	{ "{}", NULL },
	{ "{\"policy\":\"kill\",\"cpu\":null,\"window_bytes\":4096,\"background\":false}", NULL },
	{ "{\"policy\":\"\"}", "policy" },
	{ "{\"window_bytes\":-1}", "window_bytes" },
	{ "{\"cpu\":100000}", "cpu" },
	{ "{\"fault_deadline_s\":9223372036854775807}", "fault_deadline_s" },
};

START_TEST(settings_of_a_call_are_taken_whole_or_not_at_all)
{
	struct settings settings = settings_built_in(), before = settings;
	json_t *json = json_loads(objects[_i].json, 0, NULL);
	const char *wrong = NULL;

	json_object_set_new(json, "spin_us", json_integer(5));
	ck_assert_int_eq(settings_apply(&settings, json, &wrong), objects[_i].wrong ? -EINVAL : 0);
	ck_assert_pstr_eq(wrong, objects[_i].wrong);
	if (objects[_i].wrong)
		ck_assert_mem_eq(&settings, &before, sizeof(settings));
	else
		ck_assert_uint_eq(settings.spin_us, 5);
	json_decref(json);
}
END_TEST

START_TEST(settings_that_are_shown_can_be_given_back)
{
	struct settings settings = settings_built_in(), again = settings;
	const char *wrong;
	json_t *json;

	settings.policy = UFD_POLICY_KILL;
	settings.cpu = 3;
	settings.background = 0;
	json = settings_to_json(&settings);
	ck_assert_int_eq(settings_apply(&again, json, &wrong), 0);
	ck_assert_mem_eq(&settings, &again, sizeof(settings));
	json_decref(json);
}
END_TEST

START_TEST(the_engine_gets_what_was_set)
{
	struct settings settings = settings_built_in();
	UFD_OPTS(ufd_pager_guest_opts, opts);

	settings_to_opts(&settings, &opts);
	ck_assert_uint_eq(opts.window_bytes, 64 * KIB);
	ck_assert_uint_eq(opts.no_background, 0);
	settings.window_bytes = 0;
	settings.background = 0;
	settings.fault_deadline_s = 2;
	settings.spin_us = 3;
	settings_to_opts(&settings, &opts);
	ck_assert_uint_eq(opts.window_bytes, UFD_NO_WINDOW);
	ck_assert_uint_eq(opts.no_background, 1);
	ck_assert_uint_eq(opts.deadline_ns, 2 * NSEC_PER_SEC);
	ck_assert_uint_eq(opts.spin_ns, 3 * NSEC_PER_USEC);
}
END_TEST

int main(void)
{
	return unit_run(
		"config",
		(struct unit_test[]){
			UNIT(every_key_is_understood),
			UNIT_TABLE(what_is_odd_is_said_with_its_line, files),
			UNIT(a_line_too_long_is_refused),
			UNIT(drop_ins_come_after_the_file_by_name),
			UNIT_TABLE(settings_of_a_call_are_taken_whole_or_not_at_all, objects),
			UNIT(settings_that_are_shown_can_be_given_back),
			UNIT(the_engine_gets_what_was_set),
			{},
		});
}
