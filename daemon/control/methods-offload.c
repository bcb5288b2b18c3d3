/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The methods of io.ufd.handoff that are about restored Cloud Hypervisors. */
#include "control/methods-offload.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "control/arrive.h"
#include "control/call-job.h"
#include "control/control.h"
#include "offload/journal.h"
#include "offload/offloads.h"
#include "offload/start.h"
#include "refusal.h"

struct restoring {
	struct offloads *offloads;
	struct call *call; /* a reference: texts are borrowed from it */
	struct restore_wish wish;
	char name[JOURNAL_NAME_BYTES];
	uint32_t number;
	uint64_t started_ns;
	uint64_t running_ns;
};

static int restoring_run(struct job *job, void *data, struct refusal *refusal)
{
	struct restoring *restoring = data;
	int r = offload_start(job, restoring->offloads, &restoring->wish, &restoring->number,
			      refusal);

	restoring->running_ns = clock_now_ns() - restoring->started_ns;
	return r;
}

static void restoring_reply(void *data, struct call *call)
{
	const struct restoring *restoring = data;

	json_t *reply = json_pack("{s:s}", "guest", restoring->name);

	if (!restoring->wish.is_paused)
		json_object_set_new(reply, "running_ns",
				    json_integer((json_int_t)restoring->running_ns));
	call_reply(call, reply);
}

/* Whatever was said: who asks for its pages gets them. */
static void restoring_done(void *data, bool is_kept)
{
	struct restoring *restoring = data;

	if (restoring->number != OFFLOAD_NONE)
		offloads_begin(restoring->offloads, restoring->number);
	call_unref(restoring->call);
	free(restoring);
}

/* Return: NULL, or the parameter that cannot be. */
static const char *take_wish(struct restoring *restoring, const json_t *json)
{
	const char *name = json_string_value(json_object_get(json, "name"));
	const char *directory = json_string_value(json_object_get(json, "directory"));
	const char *socket = json_string_value(json_object_get(json, "socket"));
	const char *slash = strrchr(directory, '/');

	if (!name)
		name = slash && slash[1] ? slash + 1 : directory;
	if (!name[0] || strlen(name) >= sizeof(restoring->name))
		return "name";
	if (directory[0] != '/' || strlen(directory) >= JOURNAL_PATH_BYTES)
		return "directory";
	if (socket[0] != '/' || strlen(socket) >= JOURNAL_PATH_BYTES)
		return "socket";
	snprintf(restoring->name, sizeof(restoring->name), "%s", name);
	restoring->wish = (struct restore_wish){
		.directory = directory,
		.socket = socket,
		.name = restoring->name,
		.is_inline = json_is_true(json_object_get(json, "inline")),
		.is_paused = json_is_true(json_object_get(json, "paused")),
	};
	return NULL;
}

int method_offload_restore(struct control *control, struct call *call, struct refusal *refusal)
{
	static const struct call_job_ops ops = {
		.run = restoring_run,
		.reply = restoring_reply,
		.done = restoring_done,
	};
	struct restoring *restoring = calloc(1, sizeof(*restoring));
	const char *wrong;

	if (!restoring)
		return -ENOMEM;
	wrong = take_wish(restoring, call->parameters);
	if (wrong) {
		free(restoring);
		call_fail_parameter(call, wrong);
		return 0;
	}
	restoring->offloads = control->offloads;
	restoring->call = call_ref(call);
	restoring->number = OFFLOAD_NONE;
	restoring->started_ns = clock_now_ns();
	return call_job_start(control, call, &ops, ARRIVE_TIMEOUT_NS, restoring, refusal);
}

int method_offload_list(struct control *control, struct call *call, struct refusal *refusal)
{
	call_reply(call, json_pack("{s:o}", "restores", offloads_json(control->offloads)));
	return 0;
}
