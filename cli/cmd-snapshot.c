/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ufdctl snapshot save. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "output.h"
#include "path.h"
#include "verbs.h"

struct save {
	struct progress progress;
	json_t *last; /* owned */
};

/* What takes no value is true. */
static const struct option options[] = {
	{ "qmp", required_argument, NULL, 'Q' },
	{ "incremental", required_argument, NULL, 'i' },
	{ "live", no_argument, NULL, 'l' },
	{ "max-pause", required_argument, NULL, 'm' },
	{ "strict", no_argument, NULL, 's' },
	{ "compress", required_argument, NULL, 'z' },
	{ "consumer", required_argument, NULL, 'c' },
	{ "untracked", no_argument, NULL, 'u' },
	{ "memory-only", no_argument, NULL, 'o' },
	{},
};

static int take_number(json_t *parameters, const char *name, const char *text)
{
	char *end;
	long number = strtol(text, &end, 10);

	if (end == text || *end || number < 1)
		return session_usage("--max-pause wants milliseconds, not `%s`", text);
	json_object_set_new(parameters, name, json_integer(number));
	return EXIT_DONE;
}

static int save_take(json_t *parameters, int value, const char *text)
{
	switch (value) {
	case 'Q':
		json_object_set_new(parameters, "qmp", path_absolute(text));
		return EXIT_DONE;
	case 'i':
		json_object_set_new(parameters, "incremental", path_absolute(text));
		return EXIT_DONE;
	case 'l':
		json_object_set_new(parameters, "live", json_true());
		return EXIT_DONE;
	case 'm':
		return take_number(parameters, "max_pause_ms", text);
	case 's':
		json_object_set_new(parameters, "strict", json_true());
		return EXIT_DONE;
	case 'z':
		json_object_set_new(parameters, "compress", json_string(text));
		return EXIT_DONE;
	case 'c':
		json_object_set_new(parameters, "consumer", json_string(text));
		return EXIT_DONE;
	case 'u':
		json_object_set_new(parameters, "untracked", json_true());
		return EXIT_DONE;
	case 'o':
		json_object_set_new(parameters, "memory_only", json_true());
		return EXIT_DONE;
	default:
		return session_usage("snapshot save: bad option; see ufdctl-snapshot(1)");
	}
}

static int save_parse(json_t *parameters, int argc, char **argv)
{
	int value, status = EXIT_DONE, n_given;

	while ((value = getopt_long(argc, argv, "", options, NULL)) != -1) {
		status = save_take(parameters, value, optarg);
		if (status)
			return status;
	}
	n_given = argc - optind;
	if (n_given != 2 && (n_given != 1 || !json_object_get(parameters, "qmp")))
		return session_usage("snapshot save wants GUEST DIR, or --qmp SOCK DIR");
	if (!json_object_get(parameters, "live") &&
	    (json_object_get(parameters, "max_pause_ms") || json_object_get(parameters, "strict")))
		return session_usage("--max-pause and --strict are of --live");
	if (n_given == 2)
		json_object_set_new(parameters, "name", json_string(argv[optind]));
	json_object_set_new(parameters, "directory", path_absolute(argv[argc - 1]));
	return EXIT_DONE;
}

static bool save_reply(const json_t *reply, void *userdata)
{
	struct save *save = userdata;

	json_decref(save->last);
	save->last = json_incref((json_t *)reply);
	if (json_object_get(reply, "phase"))
		progress_show(&save->progress,
			      (uint64_t)json_integer_value(json_object_get(reply, "done_bytes")),
			      (uint64_t)json_integer_value(json_object_get(reply, "total_bytes")));
	return true;
}

static void save_print(const struct session *session, const json_t *reply)
{
	static const struct column columns[] = {
		{ "Memory", "length_bytes", COLUMN_BYTES },
		{ "Populated", "populated_bytes", COLUMN_BYTES },
		{ "On disk", "file_bytes", COLUMN_BYTES },
		{ "Device state", "state_bytes", COLUMN_BYTES },
		{ "Way", "way", COLUMN_TEXT },
		{ "Paused for", "paused_ns", COLUMN_NS },
		{ "Digest", "digest", COLUMN_TEXT },
		{},
	};

	if (output_json(session, reply) || session->is_quiet)
		return;
	output_warnings(session, json_object_get(reply, "warnings"));
	output_record(session, columns, reply);
}

int cmd_snapshot_save(struct session *session, int argc, char **argv)
{
	struct save save = { { session, "saving", clock_now_ns(), 0, false }, NULL };
	json_t *parameters = json_object();
	int status = save_parse(parameters, argc, argv);

	if (status) {
		json_decref(parameters);
		return status;
	}
	session->timeout_ns = 0; /* as long as the disk takes */
	status = session_follow(session, "io.ufd.guest.SnapshotSave", parameters, save_reply,
				&save);
	progress_end(&save.progress);
	if (status == EXIT_DONE && save.last)
		save_print(session, save.last);
	json_decref(save.last);
	return status;
}
