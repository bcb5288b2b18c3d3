/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Attach and AddRegions of io.ufd.guest: processes that hand over their own memory. */
#include <errno.h>
#include <string.h>

#include "attach/again.h"
#include "attach/arrival.h"
#include "attach/client.h"
#include "control/arrive.h"
#include "control/call-job.h"
#include "control/control.h"
#include "control/guest-json.h"
#include "control/method.h"
#include "control/methods-guest.h"
#include "dirty/tracking.h"
#include "kernel/pidfd.h"
#include "refusal.h"
#include "registry.h"

struct hand_over {
	struct call *call;		   /* a reference: the plan borrows from it */
	struct registration *registration; /* a reference */
	struct plan plan;
	struct plan_mapper mapper; /* its pidfd is owned */
	struct arrival_rights rights;
	const char *consumer; /* NULL: none */
	uid_t owner;
	bool is_new;   /* Attach, not AddRegions */
	bool is_again; /* Attach of a guest that this process has already */
};

static void hand_over_free(struct hand_over *work)
{
	if (!work)
		return;
	plan_done(&work->plan);
	closep(&work->mapper.pidfd);
	registration_unref(work->registration);
	call_unref(work->call);
	free(work);
}
DEFINE_CLEANUP(struct hand_over, hand_over_free)

static int open_sender(struct hand_over *work, struct refusal *refusal)
{
	int r = pidfd_open_pid(&work->mapper.pidfd, work->mapper.pid);

	if (r < 0)
		return refusal_set(refusal, "io.ufd.guest.CannotAttach",
				   json_pack("{s:i}", "pid", work->mapper.pid),
				   "process %d, which sent the call, cannot be opened: %s",
				   work->mapper.pid, strerror(-r));
	return 0;
}

static int add_regions_run(struct hand_over *work, struct refusal *refusal)
{
	struct paging *paging = &work->registration->paging;
	int r;

	paging_lock(paging);
	if (!paging->guest)
		r = refuse_no_guest(paging->name, refusal);
	else
		r = paging_admit(paging, &work->plan, work->mapper.pid, refusal);
	if (r == 0)
		r = plan_apply(&work->plan, paging, &work->mapper, refusal);
	paging_unlock(paging);
	return r;
}

static int again_run(struct hand_over *work, struct refusal *refusal)
{
	struct paging *paging = &work->registration->paging;
	bool is_same;

	paging_lock(paging);
	is_same = paging->guest && again_is_same(paging, &work->plan, &work->mapper);
	paging_unlock(paging);
	return is_same ? 0 : refuse_existing(paging->name, refusal);
}

static int hand_over_begin(void *userdata, struct refusal *refusal)
{
	struct hand_over *work = userdata;

	return arrival_begin(&work->registration->paging, &work->plan, &work->mapper, &work->rights,
			     refusal);
}

static int hand_over_run(struct job *job, void *data, struct refusal *refusal)
{
	struct hand_over *work = data;
	struct registration *registration = work->registration;
	int r;

	if (work->is_again)
		return again_run(work, refusal);
	r = open_sender(work, refusal);
	if (r == 0 && !work->rights.is_admin)
		r = plan_check_sources(&work->plan, refusal);
	if (r == 0)
		r = plan_check_maps(&work->plan, work->mapper.pid, refusal);
	if (r < 0)
		return r;
	if (!work->is_new)
		return add_regions_run(work, refusal);
	registration->owner = work->owner;
	registration->pid = work->mapper.pid;
	r = arrival_prepare(&registration->paging, &work->plan, work->mapper.pid, work->mapper.uffd,
			    refusal);
	if (r < 0)
		return r;
	return tracking_arrive(registration, work->consumer, &work->rights, hand_over_begin, work,
			       refusal);
}

static void hand_over_reply(void *data, struct call *call)
{
	_cleanup_(refusal_done) struct refusal refusal = {};
	struct hand_over *work = data;

	if (work->is_again && work->registration->shown) {
		call_reply(call, json_pack("{s:o}", "guest", guest_json(work->registration)));
		return;
	}
	if (work->is_again) {
		refuse_no_guest(work->registration->paging.name, &refusal);
		call_refuse(call, &refusal);
		return;
	}
	if (!work->is_new) {
		call_reply(call, NULL);
		return;
	}
	arrive_reply(work->registration, work->mapper.pid, work->mapper.pidfd, work->owner, call);
}

static void commit_late(struct hand_over *work)
{
	registration_commit(work->registration, work->mapper.pid, work->mapper.pidfd, work->owner);
	registration_arrived(work->registration);
}

static void hand_over_done(void *data, bool is_kept)
{
	struct hand_over *work = data;

	struct registration *registration = work->registration;

	/* Too late for the call, but it serves by now: who runs already is not let go, and finds it. */
	if (work->is_new && !is_kept && registration->paging.guest &&
	    paging_may_run_already(&registration->paging))
		commit_late(work);
	else if (work->is_new && !is_kept)
		registration_abandon(registration);
	hand_over_free(work);
}

/* A uffd and a pagemap that the call names. Return: 0 or -ECANCELED. */
static int take_fds(struct hand_over *work, const struct settings *settings,
		    struct refusal *refusal)
{
	const json_t *uffd = json_object_get(work->call->parameters, "uffd");
	const json_t *pagemap = json_object_get(work->call->parameters, "pagemap");
	int r;

	work->mapper.uffd = -EBADF;
	work->mapper.pagemap = -1;
	if (json_is_integer(uffd)) {
		r = call_borrow_fd(work->call, json_integer_value(uffd), &work->mapper.uffd,
				   refusal);
		if (r == 0)
			r = client_check_uffd(work->mapper.uffd, json_integer_value(uffd),
					      settings->track == SETTINGS_TRACK_WP, refusal);
		if (r < 0)
			return r;
	}
	if (json_is_integer(pagemap)) {
		r = call_borrow_fd(work->call, json_integer_value(pagemap), &work->mapper.pagemap,
				   refusal);
		if (r == 0)
			r = client_check_pagemap(work->mapper.pagemap, json_integer_value(pagemap),
						 refusal);
		if (r < 0)
			return r;
	}
	return 0;
}

/* What Attach and AddRegions have in common, up to the point where a registration is needed. */
static int hand_over_new(struct control *control, struct call *call,
			 const struct settings *settings, struct hand_over **ret,
			 struct refusal *refusal)
{
	_cleanup_(hand_over_freep) struct hand_over *work = calloc(1, sizeof(*work));
	int r;

	if (!work)
		return -ENOMEM;
	work->call = call_ref(call);
	work->mapper.pidfd = -EBADF;
	work->mapper.pid = call->sender;
	work->consumer = json_string_value(json_object_get(call->parameters, "consumer"));
	work->owner = call->sender == call->peer.pid ? call->peer.uid : call->frame.sender.uid;
	work->rights = (struct arrival_rights){
		.caller = call->peer.uid,
		.is_admin = credentials_are_admin(&call->peer, control->own_uid),
	};
	if (!credentials_may_touch(&call->peer, control->own_uid, work->owner))
		return refuse_permission(refusal);
	r = take_fds(work, settings, refusal);
	if (r < 0)
		return r;
	r = client_plan(
		json_object_get(call->parameters, "regions"), call->frame.fds, call->frame.n_fds,
		credentials_may_name_paths(&call->peer, control->own_uid), &work->plan, refusal);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(work);
	return 0;
}

static const struct call_job_ops hand_over_ops = {
	.run = hand_over_run,
	.reply = hand_over_reply,
	.done = hand_over_done,
};

int method_attach(struct control *control, struct call *call, struct refusal *refusal)
{
	const char *name = json_string_value(json_object_get(call->parameters, "name"));
	_cleanup_(hand_over_freep) struct hand_over *work = NULL;
	struct registration *known;
	struct settings settings;
	enum front_end front_end;
	int r;

	r = arrive_settings(control, call, &settings);
	if (r != 0)
		return r < 0 ? r : 0;
	r = hand_over_new(control, call, &settings, &work, refusal);
	if (r < 0)
		return r;
	for (size_t i = 0; i < work->plan.n_memories; i++)
		if (!work->plan.memories[i].spec)
			return refusal_set(
				refusal, "io.ufd.guest.BadSource", json_pack("{s:s}", "source", ""),
				"memory `%s` needs a source", work->plan.memories[i].name);
	known = registry_find(control->registry, name);
	if (known && known->paging.front_end != FRONT_END_PROCESS && known->pid == call->sender &&
	    known->owner == work->owner) {
		work->is_again = true;
		work->registration = registration_ref(known);
		return call_job_start(control, call, &hand_over_ops, CALL_TIMEOUT_NS,
				      TAKE_PTR(work), refusal);
	}
	work->is_new = true;
	r = front_end_of_call(call, &front_end, refusal);
	if (r < 0)
		return r;
	r = arrive_register(control, call, name, &settings, &work->registration, refusal);
	if (r != 0)
		return r < 0 ? r : 0;
	work->registration->paging.front_end = front_end;
	return call_job_start(control, call, &hand_over_ops, ARRIVE_TIMEOUT_NS, TAKE_PTR(work),
			      refusal);
}

int method_add_regions(struct control *control, struct call *call, struct refusal *refusal)
{
	_cleanup_(hand_over_freep) struct hand_over *work = NULL;
	struct registration *registration;
	int r;

	r = guest_of_call(control, call, &registration, refusal);
	if (r < 0)
		return r;
	r = hand_over_new(control, call, &registration->paging.settings, &work, refusal);
	if (r < 0)
		return r;
	work->registration = registration_ref(registration);
	return call_job_start(control, call, &hand_over_ops, CALL_TIMEOUT_NS, TAKE_PTR(work),
			      refusal);
}
