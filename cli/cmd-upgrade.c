/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ufdctl drain, ufdctl upgrade. */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>

#include "base/clock.h"
#include "output.h"
#include "path.h"
#include "verbs.h"

/* ---- drain ---- */

struct drain {
	struct progress progress;
	uint64_t total_bytes; /* absent when we began to look */
	json_t *last;	      /* owned */
};

static uint64_t number_of(const json_t *reply, const char *field)
{
	return (uint64_t)json_integer_value(json_object_get(reply, field));
}

static bool drain_reply(const json_t *reply, void *userdata)
{
	struct drain *drain = userdata;
	uint64_t absent_bytes = number_of(reply, "absent_bytes");

	json_decref(drain->last);
	drain->last = json_incref((json_t *)reply);
	/* a guest that arrived while we looked brings more */
	if (absent_bytes > drain->total_bytes)
		drain->total_bytes = absent_bytes;
	progress_show(&drain->progress, drain->total_bytes - absent_bytes, drain->total_bytes);
	return true;
}

static void drain_tell(const struct session *session, const json_t *reply, bool is_cancelled)
{
	char absent[32];

	if (session->is_quiet || output_json(session, reply))
		return;
	output_bytes(session, number_of(reply, "absent_bytes"), absent, sizeof(absent));
	printf("%" PRIu64 " guests, %s absent; ", number_of(reply, "guests"), absent);
	puts(is_cancelled ? "new guests are taken again"
			  : "no new guests until `ufdctl drain --cancel` or a restart");
}

int cmd_drain(struct session *session, int argc, char **argv)
{
	static const struct option options[] = {
		{ "wait", no_argument, NULL, 'w' },
		{ "cancel", no_argument, NULL, 'c' },
		{},
	};
	struct drain drain = { { session, "draining", clock_now_ns(), 0, false }, 0, NULL };
	bool with_wait = false, is_cancelled = false;
	json_t *parameters;
	int value, status;

	while ((value = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (value != 'w' && value != 'c')
			return session_usage("drain knows --wait and --cancel only");
		with_wait |= value == 'w';
		is_cancelled |= value == 'c';
	}
	if (optind < argc || (with_wait && is_cancelled))
		return session_usage("drain takes --wait or --cancel, and no argument");
	parameters = is_cancelled ? json_pack("{s:b}", "cancel", 1) : json_object();
	if (with_wait) {
		session->timeout_ns = 0;
		status = session_follow(session, "io.ufd.manager.Drain", parameters, drain_reply,
					&drain);
		progress_end(&drain.progress);
	} else {
		status = session_call(session, "io.ufd.manager.Drain", parameters, NULL, 0,
				      &drain.last);
	}
	if (status == EXIT_DONE && drain.last)
		drain_tell(session, drain.last, is_cancelled);
	json_decref(drain.last);
	return status;
}

/* ---- upgrade ---- */

enum upgrade_action { ACTION_UPGRADE, ACTION_DRY_RUN, ACTION_ROLLBACK, ACTION_COMMIT };

static void upgrade_tell(const struct session *session, const json_t *reply,
			 enum upgrade_action action)
{
	static const struct column columns[] = {
		{ "Version", "version", COLUMN_TEXT },
		{ "Guests", "guests", COLUMN_NUMBER },
		{},
	};
	static const struct column columns_moved[] = {
		{ "Version", "version", COLUMN_TEXT },
		{ "Guests", "guests", COLUMN_NUMBER },
		{ "Stalled for", "stall_ns", COLUMN_NS },
		{},
	};
	bool has_moved = json_is_integer(json_object_get(reply, "stall_ns"));

	if (output_json(session, reply) || session->is_quiet)
		return;
	output_record(session, has_moved ? columns_moved : columns, reply);
	if (session->no_legend)
		return;
	if (action == ACTION_UPGRADE)
		puts("Keep it by `ufdctl upgrade --commit`, or go back by `ufdctl upgrade "
		     "--rollback`.");
	else if (action == ACTION_DRY_RUN)
		puts("It can take over; nothing was changed.");
}

/* Return: an exit status. */
static int upgrade_parse(int argc, char **argv, enum upgrade_action *ret_action,
			 json_t **ret_parameters)
{
	static const struct option options[] = {
		{ "dry-run", no_argument, NULL, ACTION_DRY_RUN },
		{ "rollback", no_argument, NULL, ACTION_ROLLBACK },
		{ "commit", no_argument, NULL, ACTION_COMMIT },
		{},
	};
	static const char *const fields[] = { NULL, "dry_run", "rollback", "commit" };
	enum upgrade_action action = ACTION_UPGRADE;
	int value;

	while ((value = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (value == '?' || action != ACTION_UPGRADE)
			return session_usage(
				"upgrade takes one of --dry-run, --rollback and --commit");
		action = (enum upgrade_action)value;
	}
	if (argc - optind > 1)
		return session_usage("upgrade takes one BINARY");
	if (argc > optind && action > ACTION_DRY_RUN)
		return session_usage("--rollback and --commit take no BINARY");
	*ret_parameters = json_object();
	if (fields[action])
		json_object_set_new(*ret_parameters, fields[action], json_true());
	if (argc > optind)
		json_object_set_new(*ret_parameters, "binary", path_absolute(argv[optind]));
	*ret_action = action;
	return EXIT_DONE;
}

int cmd_upgrade(struct session *session, int argc, char **argv)
{
	json_t *parameters = NULL, *reply = NULL;
	enum upgrade_action action = ACTION_UPGRADE;
	int status;

	status = upgrade_parse(argc, argv, &action, &parameters);
	if (status)
		return status;
	status = session_call(session, "io.ufd.manager.Upgrade", parameters, NULL, 0, &reply);
	if (status == EXIT_DONE)
		upgrade_tell(session, reply, action);
	json_decref(reply);
	return status;
}
