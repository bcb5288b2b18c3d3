/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* SnapshotSave of io.ufd.guest. */
#include <errno.h>
#include <event2/event.h>
#include <string.h>

#include "base/clock.h"
#include "base/units.h"
#include "control/call-job.h"
#include "control/control.h"
#include "control/guest-json.h"
#include "control/method.h"
#include "control/methods-guest.h"
#include "dirty/pause.h"
#include "image/image-reader.h"
#include "image/image-writer.h"
#include "log-ids.h"
#include "log.h"
#include "registry.h"
#include "snapshots/save.h"
#include "store/store.h"

#define SAVE_TIMEOUT_NS (3600 * NSEC_PER_SEC)
#define PERIOD_US	100000
#define MAX_PAUSE_MS	INT64_C(3600000)

struct save {
	struct call *call;		     /* a reference: texts are borrowed from it */
	struct registration *guest;	     /* a reference; NULL: named by its monitor only */
	struct registration **registrations; /* owned; references to all that serve */
	struct snapshot_request request;
	struct snapshot_progress progress;
	struct snapshot_saved saved;
	struct event *timer; /* owned; while somebody wants progress */
};

static void stop_timer(struct save *save)
{
	if (save->timer)
		event_free(save->timer);
	save->timer = NULL;
}

static void save_free(struct save *save)
{
	if (!save)
		return;
	stop_timer(save);
	for (size_t i = 0; i < save->request.n_registrations; i++)
		registration_unref(save->registrations[i]);
	free(save->registrations);
	snapshot_saved_done(&save->saved);
	registration_unref(save->guest);
	call_unref(save->call);
	free(save);
}
DEFINE_CLEANUP(struct save, save_free)

/* ---- progress ---- */

static json_t *progress_json(const struct save *save)
{
	const struct snapshot_progress *progress = &save->progress;
	uint32_t phase = atomic_load_explicit(&progress->phase, memory_order_relaxed);

	return json_pack(
		"{s:i,s:i,s:i,s:i,s:s,s:I,s:I}", "length_bytes", 0, "populated_bytes", 0,
		"state_bytes", 0, "paused_ns", 0, "phase", snapshot_phase_name(phase), "done_bytes",
		(json_int_t)atomic_load_explicit(&progress->done_bytes, memory_order_relaxed),
		"total_bytes",
		(json_int_t)atomic_load_explicit(&progress->total_bytes, memory_order_relaxed));
}

static void on_timer(evutil_socket_t fd, short what, void *userdata)
{
	struct save *save = userdata;

	call_notify(save->call, progress_json(save));
}

/* The save goes on without whoever asked. */
static void on_gone(struct call *call, void *userdata)
{
	stop_timer(userdata);
}

static int start_timer(struct control *control, struct save *save)
{
	const struct timeval period = { .tv_usec = PERIOD_US };

	if (!save->call->request.is_more)
		return 0;
	save->timer = event_new(control->base, -1, EV_PERSIST, on_timer, save);
	if (!save->timer || event_add(save->timer, &period) < 0)
		return -ENOMEM;
	call_set_gone(save->call, on_gone, save);
	return 0;
}

/* ---- the job ---- */

static int save_run(struct job *job, void *data, struct refusal *refusal)
{
	struct save *save = data;

	save->request.job = job;
	return snapshot_save(&save->request, &save->saved, refusal);
}

static void tell(const struct save *save)
{
	const struct snapshot_saved *saved = &save->saved;

	log_info(
		LOG_FIELDS(.guest = save->guest ? save->guest->paging.name : NULL,
			   .message_id = LOG_ID_SAVED),
		"%s: a snapshot of %llu MiB, of them %llu MiB written to disk; the guest stood still "
		"for %llu ms",
		save->request.directory, (unsigned long long)(saved->length_bytes / MIB),
		(unsigned long long)(saved->file_bytes / MIB),
		(unsigned long long)(saved->paused_ns / NSEC_PER_MSEC));
}

static void save_reply(void *data, struct call *call)
{
	struct save *save = data;
	const struct snapshot_saved *saved = &save->saved;
	char digest[IMAGE_DIGEST_TEXT];
	json_t *reply;

	stop_timer(save);
	image_digest_text(saved->digest, digest);
	reply = json_pack("{s:I,s:I,s:I,s:I,s:I,s:s,s:s,s:i,s:O}", "length_bytes",
			  (json_int_t)saved->length_bytes, "populated_bytes",
			  (json_int_t)saved->populated_bytes, "state_bytes",
			  (json_int_t)saved->state_bytes, "paused_ns", (json_int_t)saved->paused_ns,
			  "file_bytes", (json_int_t)saved->file_bytes, "digest", digest, "way",
			  snapshot_way_name(saved->way), "rounds", (int)saved->n_rounds, "warnings",
			  saved->warnings);
	if (saved->consumer[0]) {
		json_object_set_new(reply, "consumer", json_string(saved->consumer));
		json_object_set_new(reply, "epoch", json_integer((json_int_t)saved->epoch));
	}
	tell(save);
	call_reply(call, reply);
}

static void save_done(void *data, bool is_kept)
{
	struct save *save = data;

	if (save->guest) {
		if (is_kept)
			atomic_fetch_add_explicit(&save->guest->n_snapshots, 1,
						  memory_order_relaxed);
		else
			atomic_fetch_add_explicit(&save->guest->n_snapshots_failed, 1,
						  memory_order_relaxed);
		pause_settle(save->guest);
	}
	save_free(save);
}

/* ---- the call ---- */

static const char *text_of(const struct call *call, const char *name)
{
	return json_string_value(json_object_get(call->parameters, name));
}

static bool flag_of(const struct call *call, const char *name)
{
	return json_is_true(json_object_get(call->parameters, name));
}

/* Return: true, or false after the call was answered. */
static bool read_parameters(struct control *control, struct save *save, struct call *call)
{
	static const char *const paths[] = { "directory", "incremental", "qmp" };
	const json_t *max_pause = json_object_get(call->parameters, "max_pause_ms");
	struct snapshot_request *request = &save->request;
	const char *compress = text_of(call, "compress");
	json_int_t pause_ms = json_integer_value(max_pause);

	request->directory = text_of(call, "directory");
	request->parent = text_of(call, "incremental");
	request->consumer = text_of(call, "consumer");
	request->qmp = text_of(call, "qmp");
	request->is_live = flag_of(call, "live");
	request->is_strict = flag_of(call, "strict");
	request->is_untracked = flag_of(call, "untracked");
	request->state_dir = control->store ? store_directory(control->store) : NULL;
	request->max_pause_ns = SNAPSHOT_MAX_PAUSE_NS;
	request->progress = &save->progress;
	request->codec = IMAGE_LZ4;
	for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
		const char *path = text_of(call, paths[i]);

		if (path && path[0] != '/') { /* from which folder? */
			call_fail_parameter(call, paths[i]);
			return false;
		}
	}
	if (json_is_integer(max_pause) && (pause_ms < 1 || pause_ms > MAX_PAUSE_MS)) {
		call_fail_parameter(call, "max_pause_ms");
		return false;
	}
	if (json_is_integer(max_pause))
		request->max_pause_ns = pause_ms * NSEC_PER_MSEC;
	if (compress && image_codec_parse(compress, &request->codec, &request->level) < 0) {
		call_fail_parameter(call, "compress");
		return false;
	}
	return true;
}

/* Of several guests in one process none is meant; of one, it is. */
static struct registration *only_guest_of(struct save *save, const char *qmp)
{
	struct registration *found = NULL;

	for (size_t i = 0; i < save->request.n_registrations; i++) {
		struct registration *registration = save->registrations[i];

		if (strcmp(registration->qmp, qmp))
			continue;
		if (found)
			return NULL;
		found = registration;
	}
	return found;
}

static int choose_guest(struct control *control, struct save *save, struct refusal *refusal)
{
	struct snapshot_request *request = &save->request;
	bool is_memory_only = flag_of(save->call, "memory_only");
	struct registration *guest = NULL;
	int r;

	request->n_registrations = registry_collect(control->registry, &save->registrations);
	request->registrations = save->registrations;
	if (text_of(save->call, "name")) {
		r = guest_of_call(control, save->call, &guest, refusal);
		if (r < 0)
			return r;
	} else if (request->qmp) {
		guest = only_guest_of(save, request->qmp);
	}
	if (guest) {
		save->guest = registration_ref(guest);
		request->guest = guest;
		if (!request->qmp && guest->qmp[0])
			request->qmp = guest->qmp;
	}
	if (is_memory_only && !guest)
		return refusal_set(refusal, "io.ufd.guest.DriverFailed", NULL,
				   "memory alone is saved of a guest that ufdd pages: name it");
	if (is_memory_only)
		request->qmp = NULL;
	else if (!request->qmp || !request->qmp[0])
		return refusal_set(
			refusal, "io.ufd.guest.DriverFailed", NULL,
			"the guest was not attached by a QMP socket: name one (qmp), or pause "
			"it yourself and save its memory alone (memory_only)");
	return 0;
}

int method_snapshot_save(struct control *control, struct call *call, struct refusal *refusal)
{
	static const struct call_job_ops ops = {
		.run = save_run,
		.reply = save_reply,
		.done = save_done,
	};
	_cleanup_(save_freep) struct save *save = calloc(1, sizeof(*save));
	int r;

	if (!save)
		return -ENOMEM;
	save->call = call_ref(call);
	if (!read_parameters(control, save, call))
		return 0;
	r = choose_guest(control, save, refusal);
	if (r == 0)
		r = start_timer(control, save);
	if (r < 0)
		return r;
	return call_job_start(control, call, &ops, SAVE_TIMEOUT_NS, TAKE_PTR(save), refusal);
}
