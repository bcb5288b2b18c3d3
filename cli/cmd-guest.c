/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ufdctl guest: list, show, attach, detach, prefetch. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "image/image-source.h"
#include "numbers.h"
#include "output.h"
#include "setting-options.h"
#include "source/file-spec.h"
#include "verbs.h"

/* ---- list, show ---- */

static const struct column guest_columns[] = {
	{ "GUEST", "name", COLUMN_TEXT },
	{ "STATE", "state", COLUMN_TEXT },
	{ "PID", "pid", COLUMN_NUMBER },
	{ "VIA", "front_end", COLUMN_TEXT },
	{ "SIZE", "length_bytes", COLUMN_BYTES },
	{ "PRESENT", "present_bytes", COLUMN_BYTES },
	{ "ABSENT", "absent_bytes", COLUMN_BYTES },
	{ "STALLED", "stalled_pages", COLUMN_NUMBER },
	{ "FAULTS", "faults", COLUMN_NUMBER },
	{ "P50", "fault_p50_ns", COLUMN_NS },
	{ "P99", "fault_p99_ns", COLUMN_NS },
	{},
};

int cmd_guest_list(struct session *session, int argc, char **argv)
{
	json_t *reply = NULL;
	int status;

	if (argc > 1)
		return session_usage("guest list takes no argument");
	status = session_call(session, "io.ufd.guest.List", NULL, NULL, 0, &reply);
	if (status == EXIT_DONE && !output_json(session, reply))
		output_table(session, guest_columns, json_object_get(reply, "guests"), "guests");
	json_decref(reply);
	return status;
}

static void show_counters(const struct session *session, const json_t *counters)
{
	const char *name;
	const json_t *value;

	puts("\nCounters:");
	json_object_foreach((json_t *)counters, name, value)
	{
		size_t n = strlen(name);
		char text[32];

		if (n > 3 && strcmp(name + n - 3, "_ns") == 0)
			output_ns((uint64_t)json_integer_value(value), text, sizeof(text));
		else if (n > 6 && strcmp(name + n - 6, "_bytes") == 0)
			output_bytes(session, (uint64_t)json_integer_value(value), text,
				     sizeof(text));
		else
			snprintf(text, sizeof(text), "%lld", json_integer_value(value));
		printf("  %-22s %s\n", name, text);
	}
}

static void show_settings(const json_t *settings)
{
	const char *name;
	const json_t *value;

	puts("\nSettings:");
	json_object_foreach((json_t *)settings, name, value)
	{
		if (json_is_string(value))
			printf("  %-22s %s\n", name, json_string_value(value));
		else if (json_is_boolean(value))
			printf("  %-22s %s\n", name, json_is_true(value) ? "yes" : "no");
		else if (json_is_integer(value))
			printf("  %-22s %lld\n", name, json_integer_value(value));
	}
}

int cmd_guest_show(struct session *session, int argc, char **argv)
{
	static const struct column memory_columns[] = {
		{ "MEMORY", "name", COLUMN_TEXT },
		{ "KIND", "kind", COLUMN_TEXT },
		{ "PAGE", "page_bytes", COLUMN_BYTES },
		{ "SIZE", "length_bytes", COLUMN_BYTES },
		{ "PRESENT", "present_bytes", COLUMN_BYTES },
		{ "ABSENT", "absent_bytes", COLUMN_BYTES },
		{ "REMOVED", "removed_bytes", COLUMN_BYTES },
		{ "SOURCE", "source", COLUMN_TEXT },
		{},
	};
	json_t *reply = NULL, *dirty = NULL;
	int status;

	if (argc != 2)
		return session_usage("guest show wants the name of one guest");
	status = session_call(session, "io.ufd.guest.Show", json_pack("{s:s}", "name", argv[1]),
			      NULL, 0, &reply);
	if (status == EXIT_DONE)
		status = session_call(session, "io.ufd.dirty.List",
				      json_pack("{s:s}", "name", argv[1]), NULL, 0, &dirty);
	json_object_update_missing(reply, dirty);
	if (status == EXIT_DONE && !output_json(session, reply)) {
		output_record(session, guest_columns, json_object_get(reply, "guest"));
		printf("TRACKER: %s (%s)\n", json_string_value(json_object_get(dirty, "tracker")),
		       json_string_value(json_object_get(dirty, "reason")));
		show_settings(json_object_get(reply, "settings"));
		show_counters(session, json_object_get(reply, "counters"));
		putchar('\n');
		output_table(session, memory_columns, json_object_get(reply, "memories"),
			     "memories");
		if (json_array_size(json_object_get(dirty, "consumers"))) {
			putchar('\n');
			dirty_show(session, dirty);
		}
	}
	json_decref(dirty);
	json_decref(reply);
	return status;
}

/* ---- attach ---- */

struct attach {
	json_t *parameters; /* owned */
	json_t *memories;   /* borrowed from parameters once used */
	json_t *settings;
	int source_fd; /* owned */
};

/* An image of one file comes open as well; the daemon finds the parents of a layer by its path. */
static int attach_image(struct attach *attach, const char *spec)
{
	_cleanup_(freep) char *passed = NULL;
	const char *why = NULL;
	int r = image_spec_pass(spec, &passed, &attach->source_fd, &why);

	if (r < 0) {
		fprintf(stderr, "ufdctl: %s\n", why);
		return r == -EACCES ? EXIT_DENIED : EXIT_FAILED;
	}
	json_object_set_new(attach->parameters, "source", json_string(passed));
	if (attach->source_fd >= 0)
		json_object_set_new(attach->parameters, "source_fd", json_integer(0));
	return EXIT_DONE;
}

/*
 * The file of a `file:` source is opened here and passed along: the daemon may live in another
 * mount namespace, and opens paths for few.
 */
static int attach_source(struct attach *attach, const char *spec)
{
	_cleanup_(freep) char *rest = NULL;
	char path[PATH_MAX];
	const char *end;

	if (image_spec_is(spec))
		return attach_image(attach, spec);
	if (strncmp(spec, "file:", 5)) {
		json_object_set_new(attach->parameters, "source", json_string(spec));
		return EXIT_DONE;
	}
	end = file_spec_path(spec, path);
	if (!end) {
		fprintf(stderr, "ufdctl: the path of the source is longer than %d bytes\n",
			PATH_MAX - 1);
		return EXIT_FAILED;
	}
	attach->source_fd = open(path, O_RDONLY | O_CLOEXEC);
	if (attach->source_fd < 0) {
		fprintf(stderr, "ufdctl: cannot open the source %s: %s\n", path, strerror(errno));
		return errno == EACCES ? EXIT_DENIED : EXIT_FAILED;
	}
	if (asprintf(&rest, "file:%s", end) < 0)
		return EXIT_FAILED;
	json_object_set_new(attach->parameters, "source", json_string(rest));
	json_object_set_new(attach->parameters, "source_fd", json_integer(0));
	return EXIT_DONE;
}

static int attach_option(struct attach *attach, int value)
{
	char *path;
	uint64_t pid;

	switch (value) {
	case 'p':
		if (!number_parse(optarg, &pid) || pid == 0 || pid > INT32_MAX)
			return session_usage("--pid wants a process, not '%s'", optarg);
		json_object_set_new(attach->parameters, "pid", json_integer((json_int_t)pid));
		return EXIT_DONE;
	case 'm':
		if (!attach->memories) {
			attach->memories = json_array();
			json_object_set_new(attach->parameters, "memories", attach->memories);
		}
		json_array_append_new(attach->memories, json_string(optarg));
		return EXIT_DONE;
	case 'Q':
		path = realpath(optarg, NULL);
		json_object_set_new(attach->parameters, "qmp", json_string(path ? path : optarg));
		free(path);
		return EXIT_DONE;
	case 'c':
		json_object_set_new(attach->parameters, "consumer", json_string(optarg));
		return EXIT_DONE;
	case 's':
		return attach_source(attach, optarg);
	default:
		return value >= SETTING_FIRST ? setting_take(attach->settings, value, optarg)
					      : session_usage("guest attach: bad option");
	}
}

static int attach_parse(struct attach *attach, int argc, char **argv)
{
	static const struct option options[] = {
		{ "pid", required_argument, NULL, 'p' },
		{ "qmp", required_argument, NULL, 'Q' },
		{ "memory", required_argument, NULL, 'm' },
		{ "source", required_argument, NULL, 's' },
		{ "consumer", required_argument, NULL, 'c' },
		SETTING_OPTIONS,
		{},
	};
	int value, status;

	while ((value = getopt_long(argc, argv, "", options, NULL)) != -1) {
		status = attach_option(attach, value);
		if (status)
			return status;
	}
	if (argc - optind != 1)
		return session_usage("guest attach wants one NAME");
	if (!json_object_get(attach->parameters, "source"))
		return session_usage("guest attach wants --source SPEC");
	if (!json_object_get(attach->parameters, "pid") ==
	    !json_object_get(attach->parameters, "qmp"))
		return session_usage("guest attach wants --pid PID or --qmp SOCK");
	json_object_set_new(attach->parameters, "name", json_string(argv[optind]));
	return EXIT_DONE;
}

int cmd_guest_attach(struct session *session, int argc, char **argv)
{
	struct attach attach = { .parameters = json_object(), .source_fd = -EBADF };
	json_t *reply = NULL;
	int status;

	attach.settings = json_object();
	json_object_set_new(attach.parameters, "settings", attach.settings);
	status = attach_parse(&attach, argc, argv);
	if (status == EXIT_DONE)
		status = session_call(session, "io.ufd.guest.AttachProcess",
				      json_incref(attach.parameters), &attach.source_fd,
				      attach.source_fd >= 0 ? 1 : 0, &reply);
	if (status == EXIT_DONE && !output_json(session, reply) && !session->is_quiet)
		output_record(session, guest_columns, json_object_get(reply, "guest"));
	json_decref(reply);
	json_decref(attach.parameters);
	closep(&attach.source_fd);
	return status;
}

/* ---- detach, prefetch ---- */

int cmd_guest_detach(struct session *session, int argc, char **argv)
{
	static const struct option options[] = { { "no-populate", no_argument, NULL, 'n' }, {} };
	json_t *parameters = json_object(), *reply = NULL;
	int value, status;

	while ((value = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (value != 'n') {
			json_decref(parameters);
			return session_usage("guest detach knows --no-populate only");
		}
		json_object_set_new(parameters, "populate", json_false());
	}
	if (argc - optind != 1) {
		json_decref(parameters);
		return session_usage("guest detach wants the name of one guest");
	}
	json_object_set_new(parameters, "name", json_string(argv[optind]));
	session->timeout_ns = 0; /* filling takes as long as it takes */
	status = session_call(session, "io.ufd.guest.Detach", parameters, NULL, 0, &reply);
	if (status == EXIT_DONE)
		(void)output_json(session, reply);
	json_decref(reply);
	return status;
}

struct fill {
	struct progress progress;
	json_t *last; /* owned */
};

static bool fill_reply(const json_t *reply, void *userdata)
{
	struct fill *fill = userdata;

	json_decref(fill->last);
	fill->last = json_incref((json_t *)reply);
	progress_show(&fill->progress,
		      (uint64_t)json_integer_value(json_object_get(reply, "done_bytes")),
		      (uint64_t)json_integer_value(json_object_get(reply, "total_bytes")));
	return true;
}

int cmd_guest_prefetch(struct session *session, int argc, char **argv)
{
	static const struct option options[] = {
		{ "memory", required_argument, NULL, 'm' },
		{ "offset", required_argument, NULL, 'o' },
		{ "length", required_argument, NULL, 'l' },
		{},
	};
	struct fill fill = { { session, "filling", clock_now_ns(), 0, false }, NULL };
	json_t *parameters = json_object();
	int value, status = EXIT_DONE;
	uint64_t number;

	while (status == EXIT_DONE && (value = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (value == 'm')
			json_object_set_new(parameters, "memory", json_string(optarg));
		else if ((value == 'o' || value == 'l') && number_parse(optarg, &number))
			json_object_set_new(parameters,
					    value == 'o' ? "offset_bytes" : "length_bytes",
					    json_integer((json_int_t)number));
		else
			status = session_usage("guest prefetch: bad option or number");
	}
	if (status == EXIT_DONE && argc - optind != 1)
		status = session_usage("guest prefetch wants the name of one guest");
	if (status != EXIT_DONE) {
		json_decref(parameters);
		return status;
	}
	json_object_set_new(parameters, "name", json_string(argv[optind]));
	session->timeout_ns = 0;
	status = session_follow(session, "io.ufd.guest.Prefetch", parameters, fill_reply, &fill);
	progress_end(&fill.progress);
	if (status == EXIT_DONE && fill.last)
		(void)output_json(session, fill.last);
	json_decref(fill.last);
	return status;
}
