/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ufdctl restore. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "output.h"
#include "path.h"
#include "setting-options.h"
#include "verbs.h"

struct restore {
	struct progress progress;
	json_t *last; /* owned */
	bool is_told;
};

/* Say once that the guest runs. */
static void restore_tell(struct restore *restore, const json_t *reply)
{
	const struct session *session = restore->progress.session;
	const json_t *running = json_object_get(reply, "running_ns");
	char text[32];

	if (restore->is_told || !json_is_integer(running) || session->json != JSON_OFF ||
	    session->is_quiet)
		return;
	output_ns((uint64_t)json_integer_value(running), text, sizeof(text));
	output_warnings(session, json_object_get(reply, "warnings"));
	printf("%s runs after %s\n", json_string_value(json_object_get(reply, "guest")), text);
	fflush(stdout);
	restore->is_told = true;
}

static bool restore_reply(const json_t *reply, void *userdata)
{
	struct restore *restore = userdata;

	json_decref(restore->last);
	restore->last = json_incref((json_t *)reply);
	restore_tell(restore, reply);
	progress_show(&restore->progress,
		      (uint64_t)json_integer_value(json_object_get(reply, "done_bytes")),
		      (uint64_t)json_integer_value(json_object_get(reply, "total_bytes")));
	return true;
}

static int restore_parse(json_t *parameters, json_t *settings, bool *ret_wait, int argc,
			 char **argv)
{
	static const struct option options[] = {
		{ "qmp", required_argument, NULL, 'Q' },
		{ "name", required_argument, NULL, 'n' },
		{ "consumer", required_argument, NULL, 'c' },
		{ "wait", no_argument, NULL, 'w' },
		{ "paused", no_argument, NULL, 'p' },
		{ "consumer", required_argument, NULL, 'c' },
		{ "clone", no_argument, NULL, 'k' },
		SETTING_OPTIONS,
		{},
	};
	int value, status;

	while ((value = getopt_long(argc, argv, "", options, NULL)) != -1) {
		status = EXIT_DONE;
		if (value == 'Q')
			json_object_set_new(parameters, "qmp", path_absolute(optarg));
		else if (value == 'n')
			json_object_set_new(parameters, "name", json_string(optarg));
		else if (value == 'c')
			json_object_set_new(parameters, "consumer", json_string(optarg));
		else if (value == 'w')
			*ret_wait = true;
		else if (value == 'p')
			json_object_set_new(parameters, "paused", json_true());
		else if (value == 'c')
			json_object_set_new(parameters, "consumer", json_string(optarg));
		else if (value == 'k')
			json_object_set_new(parameters, "clone", json_true());
		else if (value >= SETTING_FIRST)
			status = setting_take(settings, value, optarg);
		else
			status = session_usage("restore: bad option");
		if (status)
			return status;
	}
	if (argc - optind != 1 || !json_object_get(parameters, "qmp"))
		return session_usage("restore wants DIR and --qmp SOCK");
	json_object_set_new(parameters, "directory", path_absolute(argv[optind]));
	return EXIT_DONE;
}

int cmd_restore(struct session *session, int argc, char **argv)
{
	struct restore restore = { { session, "filling", clock_now_ns(), 0, false }, NULL, false };
	json_t *parameters = json_object(), *settings = json_object();
	bool with_wait = false;
	int status;

	json_object_set_new(parameters, "settings", settings);
	status = restore_parse(parameters, settings, &with_wait, argc, argv);
	if (status) {
		json_decref(parameters);
		return status;
	}
	session->timeout_ns = 0;
	if (with_wait) {
		status = session_follow(session, "io.ufd.guest.Restore", parameters, restore_reply,
					&restore);
	} else {
		status = session_call(session, "io.ufd.guest.Restore", parameters, NULL, 0,
				      &restore.last);
		if (status == EXIT_DONE)
			restore_tell(&restore, restore.last);
	}
	progress_end(&restore.progress);
	if (status == EXIT_DONE && restore.last && !restore.is_told)
		output_warnings(session, json_object_get(restore.last, "warnings"));
	if (status == EXIT_DONE && restore.last)
		(void)output_json(session, restore.last);
	json_decref(restore.last);
	return status;
}
