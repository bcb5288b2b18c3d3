/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* io.ufd.guest: the table, and what is asked of guests that are there. */
#include <errno.h>
#include <string.h>

#include "control/arrive.h"
#include "control/call-job.h"
#include "control/control.h"
#include "control/guest-json.h"
#include "control/method.h"
#include "control/methods-guest.h"
#include "control/progress.h"
#include "registry.h"

static int list(struct control *control, struct call *call, struct refusal *refusal)
{
	struct registration *registration = NULL;
	json_t *guests = json_array();

	while ((registration = registry_next(control->registry, registration)))
		json_array_append_new(guests, guest_json(registration));
	call_reply(call, json_pack("{s:o}", "guests", guests));
	return 0;
}

/* ---- one guest's engine, asked from a job ---- */

struct question {
	struct registration *registration; /* a reference */
	/* Job, with the lock held and an engine behind the registration. */
	int (*ask)(struct question *question, struct refusal *refusal);
	/* Loop: the last reply. */
	void (*answer)(struct question *question, struct call *call);
	struct control *control;
	const char *memory; /* borrowed from the call; NULL for all */
	pid_t sender;
	json_int_t first;
	json_int_t count;
	json_t *result; /* owned */
	struct progress_range range;
};

static int question_run(struct job *job, void *data, struct refusal *refusal)
{
	struct question *question = data;
	struct registration *registration = question->registration;
	int r;

	paging_lock(&registration->paging);
	if (registration->paging.guest)
		r = question->ask(question, refusal);
	else
		r = refuse_no_guest(registration->paging.name, refusal);
	paging_unlock(&registration->paging);
	return r;
}

static void question_reply(void *data, struct call *call)
{
	struct question *question = data;

	question->answer(question, call);
}

static void question_done(void *data, bool is_kept)
{
	struct question *question = data;

	registration_unref(question->registration);
	json_decref(question->result);
	free(question);
}

static void answer_nothing(struct question *question, struct call *call)
{
	call_reply(call, NULL);
}

static int question_start(struct control *control, struct call *call,
			  struct registration *registration, const struct question *form,
			  struct refusal *refusal)
{
	static const struct call_job_ops ops = {
		.run = question_run,
		.reply = question_reply,
		.done = question_done,
	};
	struct question *question = calloc(1, sizeof(*question));

	if (!question)
		return -ENOMEM;
	*question = *form;
	question->control = control;
	question->registration = registration_ref(registration);
	question->sender = call->sender;
	return call_job_start(control, call, &ops, CALL_TIMEOUT_NS, question, refusal);
}

/* Ask about `memory`, `offset_bytes` and `length_bytes` of the call; what is not given is NULL or 0. */
static int question_start_range(struct control *control, struct call *call, struct question form,
				struct refusal *refusal)
{
	struct registration *registration;
	int r;

	r = guest_of_call(control, call, &registration, refusal);
	if (r < 0)
		return r;
	form.memory = json_string_value(json_object_get(call->parameters, "memory"));
	form.first = json_integer_value(json_object_get(call->parameters, "offset_bytes"));
	form.count = json_integer_value(json_object_get(call->parameters, "length_bytes"));
	return question_start(control, call, registration, &form, refusal);
}

/* An offset and a length of the client, in the memory `memory` of the call. */
static struct paging_memory *question_memory(struct question *question, uint64_t *ret_offset,
					     uint64_t *ret_length, struct refusal *refusal)
{
	struct paging_memory *memory = paging_memory(&question->registration->paging,
						     question->memory);
	uint64_t first = (uint64_t)question->first, count = (uint64_t)question->count;

	if (!memory) {
		refusal_set(refusal, "org.varlink.service.InvalidParameter",
			    json_pack("{s:s}", "parameter", "memory"), "no such memory");
		return NULL;
	}
	if (question->first < 0 || question->count < 0 || first < memory->base_bytes ||
	    count > memory->length_bytes ||
	    first - memory->base_bytes > memory->length_bytes - count) {
		refusal_set(refusal, "org.varlink.service.InvalidParameter",
			    json_pack("{s:s}", "parameter", "offset_bytes"), "outside the memory");
		return NULL;
	}
	*ret_offset = first - memory->base_bytes;
	*ret_length = count;
	return memory;
}

static int refuse_engine(int r, struct refusal *refusal)
{
	if (r == -EINVAL)
		return refusal_set(refusal, "org.varlink.service.InvalidParameter",
				   json_pack("{s:s}", "parameter", "offset_bytes"),
				   "not a range of whole pages");
	return refusal_set_errno(refusal, r, "%s", strerror(-r));
}

/* ---- Show ---- */

static int show_ask(struct question *question, struct refusal *refusal)
{
	question->result = guest_memories_json(question->registration);
	return question->result ? 0 : -ENOMEM;
}

static void show_answer(struct question *question, struct call *call)
{
	_cleanup_(refusal_done) struct refusal refusal = {};
	struct registration *registration = question->registration;

	if (!registration->shown) { /* it went between the job and us */
		refuse_no_guest(registration->paging.name, &refusal);
		call_refuse(call, &refusal);
		return;
	}
	call_reply(call,
		   json_pack("{s:o, s:o, s:o, s:O}", "guest", guest_json(registration), "settings",
			     settings_to_json(&registration->paging.settings), "counters",
			     guest_counters_json(registration), "memories", question->result));
}

static int show(struct control *control, struct call *call, struct refusal *refusal)
{
	const char *name = json_string_value(json_object_get(call->parameters, "name"));
	struct registration *registration = registry_find(control->registry, name);

	if (!registration)
		return arrive_await(control, call, name) ? 0 : refuse_no_guest(name, refusal);
	return question_start(control, call, registration,
			      &(struct question){ .ask = show_ask, .answer = show_answer },
			      refusal);
}

/* ---- RemoveRegion ---- */

/* The caller's own mapping if it has one there, else that of any process of the guest. */
static int remove_region_ask(struct question *question, struct refusal *refusal)
{
	struct registration *registration = question->registration;

	for (int is_own = 1; is_own >= 0; is_own--)
		for (size_t i = 0; i < registration->paging.n_mappers; i++) {
			const struct paging_mapper *mapper = &registration->paging.mappers[i];
			int r;

			if ((mapper->pid == question->sender) != is_own)
				continue;
			r = ufd_pager_guest_remove_mapping(
				registration->paging.guest, mapper->number,
				(uint64_t)question->first, (uint64_t)question->count);
			if (r != -ENOENT)
				return r < 0 ? refuse_engine(r, refusal) : 0;
		}
	return refusal_set(refusal, "io.ufd.guest.BadRegion",
			   json_pack("{s:I}", "address", question->first),
			   "no region of the guest begins there and is that long");
}

static int remove_region(struct control *control, struct call *call, struct refusal *refusal)
{
	struct question question = { .ask = remove_region_ask, .answer = answer_nothing };
	struct registration *registration;
	int r;

	r = guest_of_call(control, call, &registration, refusal);
	if (r < 0)
		return r;
	question.first = json_integer_value(json_object_get(call->parameters, "address"));
	question.count = json_integer_value(json_object_get(call->parameters, "length_bytes"));
	return question_start(control, call, registration, &question, refusal);
}

/* ---- NoteDiscard, NoteWrite ---- */

typedef int (*note_fn)(struct ufd_pager_guest *guest, uint32_t memory, uint64_t offset,
		       uint64_t length);

static int note_ask(struct question *question, note_fn note, struct refusal *refusal)
{
	struct paging_memory *memory;
	uint64_t offset, length;
	int r;

	memory = question_memory(question, &offset, &length, refusal);
	if (!memory)
		return -ECANCELED;
	r = note(question->registration->paging.guest, memory->number, offset, length);
	return r < 0 ? refuse_engine(r, refusal) : 0;
}

static int note_discard_ask(struct question *question, struct refusal *refusal)
{
	return note_ask(question, ufd_pager_guest_note_discard, refusal);
}

static int note_write_ask(struct question *question, struct refusal *refusal)
{
	return note_ask(question, ufd_pager_guest_note_write, refusal);
}

static int note_discard(struct control *control, struct call *call, struct refusal *refusal)
{
	const struct question form = { .ask = note_discard_ask, .answer = answer_nothing };

	return question_start_range(control, call, form, refusal);
}

static int note_write(struct control *control, struct call *call, struct refusal *refusal)
{
	const struct question form = { .ask = note_write_ask, .answer = answer_nothing };

	return question_start_range(control, call, form, refusal);
}

/* ---- Prefetch ---- */

static int prefetch_one(struct registration *registration, uint32_t memory, uint64_t offset,
			uint64_t length, struct refusal *refusal)
{
	int r = ufd_pager_guest_prefetch(registration->paging.guest, memory, offset, length);

	if (r == -EBUSY)
		return refusal_set(refusal, "io.ufd.manager.LimitReached",
				   json_pack("{s:s}", "limit", "prefetches"),
				   "the guest has 64 prefetches queued already");
	return r < 0 ? refuse_engine(r, refusal) : 0;
}

static int prefetch_ask(struct question *question, struct refusal *refusal)
{
	struct registration *registration = question->registration;
	struct paging_memory *memory;
	int r;

	question->range.memory = UINT32_MAX;
	for (size_t i = 0; !question->memory && i < registration->paging.n_memories; i++) {
		r = prefetch_one(registration, registration->paging.memories[i].number, 0, 0,
				 refusal);
		if (r < 0)
			return r;
	}
	if (!question->memory)
		return 0;
	memory = paging_memory(&registration->paging, question->memory);
	if (memory && question->count == 0 && question->first >= 0 &&
	    (uint64_t)question->first < memory->base_bytes + memory->length_bytes)
		question->count = (json_int_t)(memory->base_bytes + memory->length_bytes) -
				  question->first;
	memory = question_memory(question, &question->range.offset_bytes,
				 &question->range.length_bytes, refusal);
	if (!memory)
		return -ECANCELED;
	question->range.memory = memory->number;
	return prefetch_one(registration, memory->number, question->range.offset_bytes,
			    question->range.length_bytes, refusal);
}

static void prefetch_answer(struct question *question, struct call *call)
{
	if (progress_start(question->control, call, question->registration, question->range,
			   json_object()) < 0)
		call_fail(call, "io.ufd.manager.SystemError",
			  json_pack("{s:i, s:s, s:s}", "errno", ENOMEM, "name", "ENOMEM", "message",
				    "no memory"));
}

static int prefetch(struct control *control, struct call *call, struct refusal *refusal)
{
	const struct question form = { .ask = prefetch_ask, .answer = prefetch_answer };

	return question_start_range(control, call, form, refusal);
}

/* ---- Detach ---- */

struct detach {
	struct registration *registration; /* a reference */
	struct call *call;		   /* a reference, while it is taken down */
};

static int detach_run(struct job *job, void *data, struct refusal *refusal)
{
	struct registration *registration = ((struct detach *)data)->registration;
	int r = paging_finish(&registration->paging, 0, job);

	if (r == -ESRCH)
		return refuse_no_guest(registration->paging.name, refusal);
	return r;
}

static void detach_free(struct detach *detach)
{
	call_unref(detach->call);
	registration_unref(detach->registration);
	free(detach);
}

static void detach_on_gone(void *userdata)
{
	struct detach *detach = userdata;

	call_reply(detach->call, NULL);
	detach_free(detach);
}

/* Loop: every page is there, or need not be. */
static void detach_begin(struct registration *registration, struct call *call)
{
	_cleanup_(refusal_done) struct refusal refusal = {};
	struct detach *detach = calloc(1, sizeof(*detach));

	if (detach) {
		detach->registration = registration_ref(registration);
		detach->call = call_ref(call);
		if (registration_retire(registration, "detached", detach_on_gone, detach))
			return;
		detach_free(detach);
	}
	if (registration->state != REGISTRATION_SERVING) {
		call_reply(call, NULL); /* it is on its way out already */
		return;
	}
	refusal_set_errno(&refusal, -ENOMEM, "guest `%s` cannot be taken down now",
			  registration->paging.name);
	call_refuse(call, &refusal);
}

static void detach_reply(void *data, struct call *call)
{
	detach_begin(((struct detach *)data)->registration, call);
}

static void detach_done(void *data, bool is_kept)
{
	detach_free(data);
}

static int detach_at_once(struct registration *registration, struct call *call,
			  struct refusal *refusal)
{
	UFD_OPTS(ufd_guest_stats, stats);

	ufd_pager_guest_stats(registration->shown, &stats);
	if (stats.absent_bytes)
		return refusal_set(refusal, "io.ufd.guest.NotComplete",
				   json_pack("{s:s, s:I}", "name", registration->paging.name,
					     "absent_bytes", (json_int_t)stats.absent_bytes),
				   "%llu bytes are still absent and would read zero",
				   (unsigned long long)stats.absent_bytes);
	detach_begin(registration, call);
	return 0;
}

static int detach(struct control *control, struct call *call, struct refusal *refusal)
{
	static const struct call_job_ops ops = {
		.run = detach_run,
		.reply = detach_reply,
		.done = detach_done,
	};
	const char *name = json_string_value(json_object_get(call->parameters, "name"));
	struct registration *registration;
	struct detach *detach;
	int r;

	r = guest_of_call(control, call, &registration, refusal);
	if (r < 0)
		return arrive_await(control, call, name) ? 0 : r;
	if (json_is_false(json_object_get(call->parameters, "populate")))
		return detach_at_once(registration, call, refusal);
	detach = calloc(1, sizeof(*detach));
	if (!detach)
		return -ENOMEM;
	detach->registration = registration_ref(registration);
	return call_job_start(control, call, &ops, 0, detach, refusal);
}

const struct method guest_methods[] = {
	{ "List", ACCESS_READ, false, false, list },
	{ "Show", ACCESS_READ, false, false, show },
	{ "Attach", ACCESS_GUEST, false, true, method_attach },
	{ "Offer", ACCESS_GUEST, false, true, method_offer },
	{ "AttachProcess", ACCESS_GUEST, false, true, method_attach_process },
	{ "AddRegions", ACCESS_GUEST, false, true, method_add_regions },
	{ "RemoveRegion", ACCESS_GUEST, false, false, remove_region },
	{ "NoteDiscard", ACCESS_GUEST, false, false, note_discard },
	{ "NoteWrite", ACCESS_GUEST, false, false, note_write },
	{ "Detach", ACCESS_GUEST, false, false, detach },
	{ "Ledger", ACCESS_GUEST, false, false, method_ledger },
	{ "Prefetch", ACCESS_GUEST, false, false, prefetch },
	{ "SnapshotSave", ACCESS_ADMIN, false, false, method_snapshot_save },
	{ "Restore", ACCESS_ADMIN, false, false, method_restore },
	{},
};
