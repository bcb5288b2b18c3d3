/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Verbs about the daemon itself: status, version, events, call. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/units.h"
#include "output.h"
#include "verbs.h"

int cmd_status(struct session *session, int argc, char **argv)
{
	static const struct column columns[] = {
		{ "Version", "version", COLUMN_TEXT },
		{ "PID", "pid", COLUMN_NUMBER },
		{ "Kernel", "kernel", COLUMN_TEXT },
		{ "Userfaultfd", "uffd_features", COLUMN_TEXT },
		{ "Guests", "guests", COLUMN_NUMBER },
		{ "Memories", "memories", COLUMN_NUMBER },
		{ "Faults", "faults", COLUMN_NUMBER },
		{ "Filled", "filled_bytes", COLUMN_BYTES },
		{ "Stalled pages", "stalled_pages", COLUMN_NUMBER },
		{ "Connections", "connections", COLUMN_NUMBER },
		{ "Resident", "resident_bytes", COLUMN_BYTES },
		{ "Store", "store", COLUMN_TEXT },
		{ "Stored fds", "stored_fds", COLUMN_NUMBER },
		{ "Adopted guests", "adopted_guests", COLUMN_NUMBER },
		{ "Adopted within", "adopted_ns", COLUMN_NS },
		{ "Draining", "draining", COLUMN_TEXT },
		{ "Uncommitted", "uncommitted", COLUMN_TEXT },
		{},
	};
	json_t *reply = NULL;
	int status;

	if (argc > 1)
		return session_usage("status takes no argument");
	status = session_call(session, "io.ufd.manager.Status", NULL, NULL, 0, &reply);
	if (status == EXIT_DONE && !output_json(session, reply))
		output_record(session, columns, reply);
	json_decref(reply);
	return status;
}

int cmd_version(struct session *session, int argc, char **argv)
{
	json_t *reply = NULL, *both;
	int status;

	if (argc > 1)
		return session_usage("version takes no argument");
	status = session_call(session, "org.varlink.service.GetInfo", NULL, NULL, 0, &reply);
	both = json_pack("{s:s,s:s*}", "ufdctl", UFD_VERSION, "ufdd",
			 json_string_value(json_object_get(reply, "version")));
	if (!output_json(session, both)) {
		printf("ufdctl %s\n", UFD_VERSION);
		if (status == EXIT_DONE)
			printf("ufdd %s\n", json_string_value(json_object_get(both, "ufdd")));
	}
	json_decref(both);
	json_decref(reply);
	return status;
}

static bool print_event(const json_t *reply, void *userdata)
{
	const struct session *session = userdata;
	const json_t *event = json_object_get(reply, "event");
	uint64_t time_ns;
	time_t seconds;
	struct tm tm;
	char at[32];

	if (!json_is_object(event))
		return true; /* the stream is live */
	if (!output_json(session, event)) {
		time_ns = (uint64_t)json_integer_value(json_object_get(event, "time_ns"));
		seconds = (time_t)(time_ns / NSEC_PER_SEC);
		localtime_r(&seconds, &tm);
		strftime(at, sizeof(at), "%H:%M:%S", &tm);
		printf("%s.%03lu %-20s %s: %s\n", at, time_ns / NSEC_PER_MSEC % 1000,
		       json_string_value(json_object_get(event, "kind")),
		       json_string_value(json_object_get(event, "guest")),
		       json_string_value(json_object_get(event, "message")));
	}
	fflush(stdout);
	return true;
}

int cmd_events(struct session *session, int argc, char **argv)
{
	if (argc > 1)
		return session_usage("events takes no argument");
	session->timeout_ns = 0;
	return session_follow(session, "io.ufd.manager.WatchEvents", NULL, print_event, session);
}

int cmd_call(struct session *session, int argc, char **argv)
{
	json_t *parameters = NULL, *reply = NULL;
	json_error_t error;
	int status;

	if (argc < 2 || argc > 3)
		return session_usage("call wants METHOD and perhaps JSON");
	if (argc == 3) {
		parameters = json_loads(argv[2], JSON_REJECT_DUPLICATES, &error);
		if (!json_is_object(parameters)) {
			json_decref(parameters);
			return session_usage("parameters are one JSON object: %s",
					     error.text[0] ? error.text : argv[2]);
		}
	}
	if (session->json == JSON_OFF)
		session->json = JSON_PRETTY;
	status = session_call(session, argv[1], parameters, NULL, 0, &reply);
	if (status == EXIT_DONE)
		(void)output_json(session, reply);
	json_decref(reply);
	return status;
}
