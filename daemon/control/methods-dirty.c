/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* io.ufd.dirty: which pages a guest wrote. */
#include <errno.h>
#include <string.h>

#include "control/call-job.h"
#include "control/control.h"
#include "control/dirty-reply.h"
#include "control/guest-json.h"
#include "control/method.h"
#include "control/methods-guest.h"
#include "dirty/pause.h"
#include "dirty/tracking.h"
#include "kernel/thread.h"
#include "registry.h"
#include "snapshots/base.h"

/* One call, whatever it asks. */
struct dirty_work {
	struct registration *registration; /* a reference */
	struct call *call;		   /* a reference: texts are borrowed from it */
	const char *consumer;
	struct tracking_opts opts;
	enum dirty_format format;
	uint64_t acknowledge;
	json_t *reply; /* owned */
	int fd;	       /* owned; goes with the reply */
};

static void dirty_work_free(struct dirty_work *work)
{
	if (!work)
		return;
	registration_unref(work->registration);
	call_unref(work->call);
	json_decref(work->reply);
	closep(&work->fd);
	free(work);
}
DEFINE_CLEANUP(struct dirty_work, dirty_work_free)

static const char *text_of(const struct call *call, const char *name)
{
	return json_string_value(json_object_get(call->parameters, name));
}

static int dirty_work_new(struct registration *registration, struct call *call,
			  struct dirty_work **ret)
{
	struct dirty_work *work = calloc(1, sizeof(*work));

	if (!work)
		return -ENOMEM;
	work->fd = -EBADF;
	work->call = call_ref(call);
	work->registration = registration_ref(registration);
	work->consumer = text_of(call, "consumer") ?: TRACKING_CONSUMER;
	*ret = work;
	return 0;
}

/* Of a guest that the caller may change. */
static int dirty_work_of_call(struct control *control, struct call *call, struct dirty_work **ret,
			      struct refusal *refusal)
{
	struct registration *registration;
	int r = guest_of_call(control, call, &registration, refusal);

	return r < 0 ? r : dirty_work_new(registration, call, ret);
}

static void dirty_reply(void *data, struct call *call)
{
	struct dirty_work *work = data;

	call_reply_fd(call, TAKE_PTR(work->reply), TAKE_FD(work->fd));
}

static void dirty_done(void *data, bool is_kept)
{
	struct dirty_work *work = data;

	pause_settle(work->registration);
	dirty_work_free(work);
}

static int refuse_parameter(const char *name, const char *why, struct refusal *refusal)
{
	return refusal_set(refusal, "org.varlink.service.InvalidParameter",
			   json_pack("{s:s}", "parameter", name), "%s", why);
}

/*
 * Each wait of a call has a deadline of its own. The call as a whole has none: whoever was told too
 * early that it failed would have a consumer that he does not know of, or an epoch that nobody got.
 */
#define NO_TIMEOUT 0

/* ---- Start ---- */

static json_t *started_json(struct registration *registration,
			    const struct tracking_started *started)
{
	json_t *reply = NULL;

	paging_lock(&registration->paging);
	if (registration->paging.guest)
		reply = json_pack("{s:s, s:s, s:b, s:O}", "tracker", tracking_kind(registration),
				  "reason", tracking_reason(registration), "quiesced",
				  started->is_quiesced, "warnings", started->warnings);
	paging_unlock(&registration->paging);
	return reply;
}

static int start_run(struct job *job, void *data, struct refusal *refusal)
{
	_cleanup_(tracking_started_done) struct tracking_started started = {};
	struct dirty_work *work = data;
	int r;

	(void)thread_set_nice(THREAD_BULK_NICE);
	base_disown(work->registration, work->consumer);
	r = tracking_start(work->registration, &work->opts, &started, refusal);
	if (r < 0)
		return r;
	work->reply = started_json(work->registration, &started);
	return work->reply ? 0 : refuse_no_guest(work->registration->paging.name, refusal);
}

static int start(struct control *control, struct call *call, struct refusal *refusal)
{
	static const struct call_job_ops ops = {
		.run = start_run,
		.reply = dirty_reply,
		.done = dirty_done,
	};
	_cleanup_(dirty_work_freep) struct dirty_work *work = NULL;
	int r = dirty_work_of_call(control, call, &work, refusal);

	if (r < 0)
		return r;
	work->opts = (struct tracking_opts){
		.consumer = work->consumer,
		.qmp = text_of(call, "qmp"),
		.has_all_mappers = json_is_true(json_object_get(call->parameters, "all_mappers")),
		.rights = {
			.caller = call->peer.uid,
			.is_admin = credentials_are_admin(&call->peer, control->own_uid),
		},
	};
	if (quiesce_parse(text_of(call, "quiesce"), &work->opts.quiesce) < 0)
		return refuse_parameter("quiesce", "auto, always or never", refusal);
	if (work->opts.qmp && !credentials_may_name_paths(&call->peer, control->own_uid))
		return refuse_permission(refusal);
	return call_job_start(control, call, &ops, NO_TIMEOUT, TAKE_PTR(work), refusal);
}

/* ---- Read ---- */

static int read_run(struct job *job, void *data, struct refusal *refusal)
{
	_cleanup_(tracking_epoch_done) struct tracking_epoch epoch = {};
	struct dirty_work *work = data;
	int r;

	(void)thread_set_nice(THREAD_BULK_NICE);
	r = tracking_read(work->registration, work->consumer, work->acknowledge, &epoch, refusal);
	if (r < 0)
		return r;
	return dirty_reply_new(&epoch, work->format, &work->reply, &work->fd, refusal);
}

static int read_dirty(struct control *control, struct call *call, struct refusal *refusal)
{
	static const struct call_job_ops ops = {
		.run = read_run,
		.reply = dirty_reply,
		.done = dirty_done,
	};
	const json_t *acknowledge = json_object_get(call->parameters, "acknowledge");
	_cleanup_(dirty_work_freep) struct dirty_work *work = NULL;
	int r = dirty_work_of_call(control, call, &work, refusal);

	if (r < 0)
		return r;
	work->acknowledge = UFD_DIRTY_LAST;
	if (json_is_integer(acknowledge)) {
		if (json_integer_value(acknowledge) < 0)
			return refuse_parameter("acknowledge", "no epoch has such a number",
						refusal);
		work->acknowledge = (uint64_t)json_integer_value(acknowledge);
	}
	if (dirty_format_parse(text_of(call, "format"), &work->format) < 0)
		return refuse_parameter("format", "ranges or bitmap", refusal);
	return call_job_start(control, call, &ops, NO_TIMEOUT, TAKE_PTR(work), refusal);
}

/* ---- Stop, List ---- */

static int stop_run(struct job *job, void *data, struct refusal *refusal)
{
	struct dirty_work *work = data;

	return tracking_stop(work->registration, work->consumer, refusal);
}

static int stop(struct control *control, struct call *call, struct refusal *refusal)
{
	static const struct call_job_ops ops = {
		.run = stop_run,
		.reply = dirty_reply,
		.done = dirty_done,
	};
	_cleanup_(dirty_work_freep) struct dirty_work *work = NULL;
	int r = dirty_work_of_call(control, call, &work, refusal);

	if (r < 0)
		return r;
	return call_job_start(control, call, &ops, NO_TIMEOUT, TAKE_PTR(work), refusal);
}

static int list_run(struct job *job, void *data, struct refusal *refusal)
{
	struct dirty_work *work = data;

	return tracking_list(work->registration, &work->reply, refusal);
}

static int list(struct control *control, struct call *call, struct refusal *refusal)
{
	static const struct call_job_ops ops = {
		.run = list_run,
		.reply = dirty_reply,
		.done = dirty_done,
	};
	const char *name = text_of(call, "name");
	struct registration *registration = registry_find(control->registry, name);
	_cleanup_(dirty_work_freep) struct dirty_work *work = NULL;
	int r = registration ? dirty_work_new(registration, call, &work)
			     : refuse_no_guest(name, refusal);

	if (r < 0)
		return r;
	return call_job_start(control, call, &ops, CALL_TIMEOUT_NS, TAKE_PTR(work), refusal);
}

const struct method dirty_methods[] = {
	{ "Start", ACCESS_GUEST, false, false, start },
	{ "Read", ACCESS_GUEST, false, false, read_dirty },
	{ "Stop", ACCESS_GUEST, false, false, stop },
	{ "List", ACCESS_READ, false, false, list },
	{},
};
