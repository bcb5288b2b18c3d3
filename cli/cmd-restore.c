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

/* Of a Cloud Hypervisor: a method of its own, which knows nothing of QEMU or of settings. */
static int restore_parse_offload(json_t *parameters, const json_t *settings, bool with_wait)
{
	if (json_object_get(parameters, "qmp") || json_object_get(parameters, "consumer") ||
	    json_object_get(parameters, "clone") || json_object_size(settings) || with_wait)
		return session_usage("restore: --cloud-hypervisor goes with --name, --paused and "
				     "--inline only");
	json_object_del(parameters, "settings");
	return EXIT_DONE;
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
		{ "cloud-hypervisor", required_argument, NULL, 'H' },
		{ "resume", no_argument, NULL, 'r' },
		{ "inline", no_argument, NULL, 'i' },
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
		else if (value == 'H')
			json_object_set_new(parameters, "socket", path_absolute(optarg));
		else if (value == 'r')
			json_object_del(parameters, "paused");
		else if (value == 'i')
			json_object_set_new(parameters, "inline", json_true());
		else if (value == 'k')
			json_object_set_new(parameters, "clone", json_true());
		else if (value >= SETTING_FIRST)
			status = setting_take(settings, value, optarg);
		else
			status = session_usage("restore: bad option");
		if (status)
			return status;
	}
	if (argc - optind != 1 ||
	    (!json_object_get(parameters, "qmp") && !json_object_get(parameters, "socket")))
		return session_usage(
			"restore wants DIR, and --qmp SOCK or --cloud-hypervisor SOCK");
	json_object_set_new(parameters, "directory", path_absolute(argv[optind]));
	if (json_object_get(parameters, "socket"))
		return restore_parse_offload(parameters, settings, *ret_wait);
	if (json_object_get(parameters, "inline"))
		return session_usage("restore: --inline is for --cloud-hypervisor");
	return EXIT_DONE;
}

static const char *method_of(const json_t *parameters)
{
	return json_object_get(parameters, "socket") ? "io.ufd.handoff.OffloadRestore"
						     : "io.ufd.guest.Restore";
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
		status = session_call(session, method_of(parameters), parameters, NULL, 0,
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
