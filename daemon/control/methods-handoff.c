/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* io.ufd.handoff */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/units.h"
#include "config.h"
#include "control/call-job.h"
#include "control/control.h"
#include "control/guest-json.h"
#include "control/method.h"
#include "control/methods-offload.h"
#include "handoff/handoff.h"

#define OPEN_TIMEOUT_NS (30 * NSEC_PER_SEC)

struct making {
	struct listener *listener;
	struct refusal refusal; /* of what the loop does at the end */
};

static int making_run(struct job *job, void *data, struct refusal *refusal)
{
	struct making *making = data;

	return handoff_open(making->listener, refusal);
}

static void making_reply(void *data, struct call *call)
{
	struct making *making = data;
	struct listener *listener = making->listener;

	making->listener = NULL;
	if (handoff_commit(listener, &making->refusal) < 0)
		call_refuse(call, &making->refusal);
	else
		call_reply(call, json_pack("{s:o}", "handoff", handoff_json(listener)));
}

static void making_done(void *data, bool is_kept)
{
	struct making *making = data;

	if (making->listener)
		handoff_abandon(making->listener);
	refusal_done(&making->refusal);
	free(making);
}

static bool take_number(const struct call *call, const char *name, uint64_t most, uint64_t *ret)
{
	const json_t *value = json_object_get(call->parameters, name);

	if (!json_is_integer(value))
		return true;
	if (json_integer_value(value) < 0 || (uint64_t)json_integer_value(value) > most)
		return false;
	*ret = (uint64_t)json_integer_value(value);
	return true;
}

static bool take_mode(const struct call *call, mode_t *ret)
{
	const char *text = json_string_value(json_object_get(call->parameters, "mode"));
	unsigned long mode;
	char *end;

	if (!text)
		return true;
	mode = strtoul(text, &end, 8);
	if (*text < '0' || *text > '7' || *end || mode > 0777)
		return false;
	*ret = (mode_t)mode;
	return true;
}

/* Texts are borrowed from the call. Return: NULL, or the parameter that cannot be. */
static const char *take_wish(struct control *control, struct call *call, struct handoff_wish *wish)
{
	const json_t *json = call->parameters;
	const char *dialect = json_string_value(json_object_get(json, "dialect"));
	uint64_t uid = call->peer.uid, gid = (gid_t)-1;
	const char *wrong;

	*wish = wish_built_in();
	wish->path = (char *)json_string_value(json_object_get(json, "path"));
	wish->source = (char *)json_string_value(json_object_get(json, "source"));
	wish->name = (char *)json_string_value(json_object_get(json, "name"));
	wish->consumer = (char *)json_string_value(json_object_get(json, "consumer"));
	wish->dialect = (char *)(dialect ? dialect : "auto");
	wish->settings = control->config->defaults;
	if (settings_apply(&wish->settings, json_object_get(json, "settings"), &wrong) < 0)
		return "settings";
	if (!take_number(call, "uid", UINT32_MAX - 1, &uid))
		return "uid";
	if (!take_number(call, "gid", UINT32_MAX - 1, &gid))
		return "gid";
	if (!take_number(call, "count", INT64_MAX, &wish->n_most))
		return "count";
	if (!take_mode(call, &wish->mode))
		return "mode";
	wish->owner = (uid_t)uid;
	if (json_is_integer(json_object_get(json, "uid")))
		wish->socket_uid = (uid_t)uid;
	wish->socket_gid = (gid_t)gid;
	return NULL;
}

static int create(struct control *control, struct call *call, struct refusal *refusal)
{
	static const struct call_job_ops ops = {
		.run = making_run,
		.reply = making_reply,
		.done = making_done,
	};
	struct handoff_wish wish;
	const char *wrong = take_wish(control, call, &wish);
	const json_t *given = json_object_get(call->parameters, "socket");
	struct making *making;
	int socket = -EBADF, r = 0;

	if (wrong) {
		call_fail_parameter(call, wrong);
		return 0;
	}
	making = calloc(1, sizeof(*making));
	if (!making)
		return -ENOMEM;
	if (json_is_integer(given))
		r = call_borrow_fd(call, json_integer_value(given), &socket, refusal);
	if (r == 0)
		r = handoff_begin(control->handoffs, &wish, socket, &making->listener, refusal);
	if (r < 0) {
		free(making);
		return r;
	}
	return call_job_start(control, call, &ops, OPEN_TIMEOUT_NS, making, refusal);
}

static int list(struct control *control, struct call *call, struct refusal *refusal)
{
	call_reply(call, json_pack("{s:o}", "handoffs", handoffs_json(control->handoffs)));
	return 0;
}

static int remove_one(struct control *control, struct call *call, struct refusal *refusal)
{
	const char *path = json_string_value(json_object_get(call->parameters, "path"));
	const struct handoff_wish *wish = handoff_find(control->handoffs, path);
	int r;

	if (wish && !credentials_may_touch(&call->peer, control->own_uid, wish->owner))
		return refuse_permission(refusal);
	r = handoff_remove(control->handoffs, path, refusal);
	if (r == 0)
		call_reply(call, NULL);
	return r;
}

const struct method handoff_methods[] = {
	{ "Create", ACCESS_ADMIN, false, true, create },
	{ "List", ACCESS_READ, false, false, list },
	{ "Remove", ACCESS_GUEST, false, false, remove_one },
	{ "OffloadRestore", ACCESS_ADMIN, false, false, method_offload_restore },
	{ "OffloadList", ACCESS_READ, false, false, method_offload_list },
	{},
};
