/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Draining. */
#include "control/drain.h"

#include <errno.h>
#include <event2/event.h>
#include <stdlib.h>
#include <sys/queue.h>

#include "control/call.h"
#include "control/control.h"
#include "handoff/handoff.h"
#include "job.h"
#include "log-ids.h"
#include "log.h"
#include "refusal.h"
#include "registry.h"

#define PERIOD_US 100000

/* A client that follows. */
struct follower {
	LIST_ENTRY(follower) follower_link;
	struct call *call; /* a reference */
};

struct drain {
	struct control *control;
	LIST_HEAD(, follower) follower_list;
	struct event *timer; /* owned; runs until everything is filled */
	struct job *job;     /* that fills; NULL for none */
	bool is_on;
};

/* One round. */
struct round {
	struct drain *drain;
	struct registration **registrations; /* owned; references */
	int *results;			     /* owned; of paging_finish() */
	size_t n_registrations;
};

/* ---- filling ---- */

static void round_run(struct job *job, void *data)
{
	struct round *round = data;

	/* a turn for each sets its thread to work; nobody waits behind one that stalls */
	for (size_t i = 0; i < round->n_registrations; i++)
		paging_finish(&round->registrations[i]->paging, 1, job);
	for (size_t i = 0; i < round->n_registrations; i++)
		round->results[i] = paging_finish(&round->registrations[i]->paging, 0, job);
}

static void round_free(struct round *round)
{
	for (size_t i = 0; i < round->n_registrations; i++)
		registration_unref(round->registrations[i]);
	free(round->registrations);
	free(round->results);
	free(round);
}

static void round_done(void *data)
{
	struct round *round = data;

	for (size_t i = 0; i < round->n_registrations; i++)
		round->registrations[i]->is_filled = round->results[i] == 0;
	round->drain->job = NULL;
	round_free(round);
}

/* Who is not filled yet. */
static int round_new(struct drain *drain, struct round **ret)
{
	struct round *round = calloc(1, sizeof(*round));
	size_t n, n_kept = 0;

	if (!round)
		return -ENOMEM;
	round->drain = drain;
	n = registry_collect(drain->control->registry, &round->registrations);
	round->results = calloc(n + 1, sizeof(*round->results));
	for (size_t i = 0; i < n; i++) {
		if (round->registrations[i]->is_filled)
			registration_unref(round->registrations[i]);
		else
			round->registrations[n_kept++] = round->registrations[i];
	}
	round->n_registrations = n_kept;
	if (!round->registrations || !round->results) {
		round_free(round);
		return -ENOMEM;
	}
	*ret = round;
	return 0;
}

/* Without a thread now there is one at the next tick. */
static void drain_fill(struct drain *drain)
{
	static const struct job_ops ops = { .run = round_run, .done = round_done };
	struct round *round;

	if (drain->job || round_new(drain, &round) < 0)
		return;
	if (!round->n_registrations ||
	    job_start(drain->control->jobs, &ops, 0, round, &drain->job) < 0)
		round_free(round);
}

/* ---- how far it is ---- */

struct drain_state {
	uint64_t n_guests;
	uint64_t absent_bytes;
	bool is_complete;
};

static struct drain_state drain_look(struct drain *drain)
{
	struct registration *registration = NULL;
	struct drain_state state = { .is_complete = drain->is_on };

	while ((registration = registry_next(drain->control->registry, registration))) {
		UFD_OPTS(ufd_guest_stats, stats);

		state.n_guests++;
		if (registration->is_filled ||
		    ufd_pager_guest_stats(registration->shown, &stats) < 0)
			continue;
		state.absent_bytes += stats.absent_bytes;
		state.is_complete &= stats.absent_bytes == 0;
	}
	/* a call at work may bring one */
	state.is_complete &= jobs_count(drain->control->jobs) == (drain->job ? 1 : 0);
	return state;
}

static json_t *drain_json(const struct drain_state *state)
{
	return json_pack("{s:I, s:I, s:b}", "guests", (json_int_t)state->n_guests, "absent_bytes",
			 (json_int_t)state->absent_bytes, "complete", state->is_complete);
}

static void follower_free(struct follower *follower)
{
	LIST_REMOVE(follower, follower_link);
	call_unref(follower->call);
	free(follower);
}

static void follower_on_gone(struct call *call, void *userdata)
{
	follower_free(userdata);
}

static void drain_end(struct drain *drain, const struct drain_state *state)
{
	struct follower *follower;

	event_del(drain->timer);
	while ((follower = LIST_FIRST(&drain->follower_list))) {
		call_set_gone(follower->call, NULL, NULL);
		call_reply(follower->call, drain_json(state));
		follower_free(follower);
	}
}

static void on_timer(evutil_socket_t fd, short what, void *userdata)
{
	struct drain *drain = userdata;
	struct drain_state state = drain_look(drain);
	struct follower *follower, *next;

	if (state.is_complete) {
		log_info(LOG_FIELDS(.message_id = LOG_ID_DRAINED),
			 "drained: every page of %llu guests is there, and no new guest is taken",
			 (unsigned long long)state.n_guests);
		drain_end(drain, &state);
		return;
	}
	drain_fill(drain);
	for (follower = LIST_FIRST(&drain->follower_list); follower; follower = next) {
		next = LIST_NEXT(follower, follower_link); /* telling may find that it has gone */
		call_notify(follower->call, drain_json(&state));
	}
}

/* ---- for the methods ---- */

int drain_new(struct drain **ret, struct control *control)
{
	_cleanup_(drain_freep) struct drain *drain = calloc(1, sizeof(*drain));

	if (!drain)
		return -ENOMEM;
	drain->control = control;
	LIST_INIT(&drain->follower_list);
	drain->timer = event_new(control->base, -1, EV_PERSIST, on_timer, drain);
	if (!drain->timer)
		return -ENOMEM;
	*ret = TAKE_PTR(drain);
	return 0;
}

struct drain *drain_free(struct drain *drain)
{
	struct follower *follower;

	if (!drain)
		return NULL;
	while ((follower = LIST_FIRST(&drain->follower_list))) {
		call_set_gone(follower->call, NULL, NULL);
		follower_free(follower);
	}
	if (drain->timer)
		event_free(drain->timer);
	free(drain);
	return NULL;
}

void drain_start(struct drain *drain)
{
	const struct timeval period = { .tv_usec = PERIOD_US };
	struct registration *registration = NULL;

	/* memory may have been added since */
	while ((registration = registry_next(drain->control->registry, registration)))
		registration->is_filled = false;
	if (!drain->is_on)
		log_info(LOG_FIELDS(), "draining: every guest is filled, and no new one is taken");
	drain->is_on = true;
	handoffs_pause(drain->control->handoffs, HANDOFFS_DRAINING, true);
	event_add(drain->timer, &period);
	drain_fill(drain);
}

void drain_pause(struct drain *drain)
{
	event_del(drain->timer);
	if (drain->job)
		job_cancel(drain->job);
}

void drain_cancel(struct drain *drain)
{
	struct drain_state state;

	if (drain->is_on)
		log_info(LOG_FIELDS(), "no longer draining: new guests are taken");
	drain->is_on = false;
	handoffs_pause(drain->control->handoffs, HANDOFFS_DRAINING, false);
	drain_pause(drain);
	state = drain_look(drain);
	drain_end(drain, &state);
}

bool drain_is_on(const struct drain *drain)
{
	return drain->is_on;
}

int drain_reply(struct drain *drain, struct call *call)
{
	struct drain_state state = drain_look(drain);
	struct follower *follower;

	if (!call->request.is_more || state.is_complete || !drain->is_on) {
		call_reply(call, drain_json(&state));
		return 0;
	}
	follower = calloc(1, sizeof(*follower));
	if (!follower)
		return -ENOMEM;
	follower->call = call_ref(call);
	LIST_INSERT_HEAD(&drain->follower_list, follower, follower_link);
	call_set_gone(call, follower_on_gone, follower);
	call_notify(call, drain_json(&state));
	return 0;
}

int drain_check(const struct drain *drain, struct refusal *refusal)
{
	if (!drain->is_on)
		return 0;
	return refusal_set(refusal, "io.ufd.manager.Draining", NULL,
			   "ufdd is drained and takes no new guests; `ufdctl drain --cancel` ends "
			   "that");
}
