/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Drain and Upgrade.
 *
 * An upgrade passes through these:
 *   trying    a job asks the other program what it is, without a guest. Everything goes on. Leaves by a
 *             refusal, or to
 *   waiting   calls are held, connections wait in the backlog, calls at work come to their end.
 *             Leaves by time (refused), or to
 *   checking  the other program looks at every guest; none comes, goes or changes meanwhile, for a
 *             ledger in the middle of a change may look damaged. Leaves by a refusal, the end of a
 *             dry run, to waiting (a process has ended), or to
 *   going     guests are parked and the other program is executed.
 */
#include "control/methods-upgrade.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include "base/clock.h"
#include "base/units.h"
#include "control/call-job.h"
#include "control/control.h"
#include "control/drain.h"
#include "control/method.h"
#include "control/server.h"
#include "handoff/handoff.h"
#include "offload/offloads.h"
#include "log-ids.h"
#include "log.h"
#include "registry.h"
#include "upgrade/dry-run.h"
#include "upgrade/hung.h"
#include "upgrade/release.h"
#include "upgrade/upgrade.h"

#define TICK_US	   1000
#define PATIENCE_S UINT64_C(20) /* for calls at work */

/* ---- Drain ---- */

int method_drain(struct control *control, struct call *call, struct refusal *refusal)
{
	if (json_is_true(json_object_get(call->parameters, "cancel")))
		drain_cancel(control->drain);
	else
		drain_start(control->drain);
	return drain_reply(control->drain, call);
}

/* ---- Upgrade ---- */

struct held {
	TAILQ_ENTRY(held) held_link;
	struct call *call; /* a reference */
	struct upgrading *upgrading;
};

/* At most one. */
struct upgrading {
	struct control *control;
	struct call *call; /* a reference */
	struct upgrade_target target;
	struct dry_run answer;
	struct refusal refusal;	      /* the other program's, in place of an answer */
	struct dry_run_guest *guests; /* owned, and what is in it; while a job asks */
	size_t n_guests;
	struct event *timer; /* owned; while calls are waited for */
	uint64_t deadline_ns;
	TAILQ_HEAD(, held) held_list;
	bool is_dry_run;
	bool is_waiting; /* or checking: calls are held */
	bool is_over;
};

static void drop_guests(struct upgrading *upgrading)
{
	for (size_t i = 0; i < upgrading->n_guests; i++)
		closep(&upgrading->guests[i].ledger);
	free(upgrading->guests);
	upgrading->guests = NULL;
	upgrading->n_guests = 0;
}

static void held_free(struct held *held)
{
	TAILQ_REMOVE(&held->upgrading->held_list, held, held_link);
	call_unref(held->call);
	free(held);
}

/* It did not come to it: everything goes on. */
static void upgrading_free(struct upgrading *upgrading)
{
	struct control *control = upgrading->control;
	struct held *held;

	control->upgrading = NULL;
	if (upgrading->is_waiting) {
		server_pause(control->server, false);
		handoffs_pause(control->handoffs, HANDOFFS_UPGRADING, false);
		if (drain_is_on(control->drain))
			drain_start(control->drain);
	}
	while ((held = TAILQ_FIRST(&upgrading->held_list))) {
		call_set_gone(held->call, NULL, NULL);
		method_run(control, held->call);
		held_free(held);
	}
	if (upgrading->timer)
		event_free(upgrading->timer);
	drop_guests(upgrading);
	upgrade_target_done(&upgrading->target);
	refusal_done(&upgrading->refusal);
	call_unref(upgrading->call);
	free(upgrading);
}

static void held_on_gone(struct call *call, void *userdata)
{
	held_free(userdata);
}

bool upgrade_holds(struct control *control, struct call *call)
{
	struct held *held;

	if (!control->upgrading || !control->upgrading->is_waiting)
		return false;
	held = calloc(1, sizeof(*held));
	if (!held)
		return false;
	held->call = call_ref(call);
	held->upgrading = control->upgrading;
	TAILQ_INSERT_TAIL(&control->upgrading->held_list, held, held_link);
	call_set_gone(call, held_on_gone, held);
	return true;
}

/* Is anybody at work whom parking would cut short? */
static bool is_busy(struct control *control)
{
	return jobs_count(control->jobs) || registry_is_busy(control->registry) ||
	       handoffs_are_busy(control->handoffs);
}

/* The connection as well: the answer comes from the other side. */
static int upgrading_go(struct upgrading *upgrading, struct refusal *refusal)
{
	struct control *control = upgrading->control;
	struct upgrade_fd fds[SERVER_MAX_FDS + HANDOFF_MAX_LISTENERS + OFFLOADS_MAX + 1];
	size_t n = server_fds(control->server, fds);

	n += handoffs_fds(control->handoffs, fds + n);
	n += offloads_fds(control->offloads, fds + n);
	if (!upgrading->call->request.is_oneway && call_socket(upgrading->call) >= 0)
		fds[n++] = (struct upgrade_fd){ "reply", call_socket(upgrading->call) };
	return upgrade_go(control->upgrade,
			  &(struct upgrade_go){
				  .target = &upgrading->target,
				  .fds = fds,
				  .n_fds = n,
				  .n_guests = registry_totals(control->registry).n_guests,
				  .is_draining = drain_is_on(control->drain),
				  .park = registry_park,
				  .userdata = control->registry,
			  },
			  refusal);
}

static void upgrading_wait(struct upgrading *upgrading)
{
	const struct timeval tick = { .tv_usec = TICK_US };

	if (!upgrading->is_waiting) {
		upgrading->is_waiting = true;
		upgrading->deadline_ns = clock_now_ns() + PATIENCE_S * NSEC_PER_SEC;
		server_pause(upgrading->control->server, true);
		handoffs_pause(upgrading->control->handoffs, HANDOFFS_UPGRADING, true);
		drain_pause(upgrading->control->drain);
	}
	event_add(upgrading->timer, &tick);
}

static int upgrading_run(struct job *job, void *data, struct refusal *refusal)
{
	struct upgrading *upgrading = data;
	int r = 0;

	if (upgrading->is_waiting)
		r = hung_check(upgrading->guests, upgrading->n_guests, &upgrading->refusal);
	if (r == 0)
		r = dry_run(upgrading->target.binary, upgrading->target.name, upgrading->guests,
			    upgrading->n_guests, DRY_RUN_TIMEOUT_NS, &upgrading->answer,
			    &upgrading->refusal);
	return r == -ECANCELED ? 0 : r;
}

/* A process may end at any moment, and its guest's ledger with it. */
static bool has_changed(const struct upgrading *upgrading)
{
	return is_busy(upgrading->control) ||
	       registry_totals(upgrading->control->registry).n_guests != upgrading->n_guests;
}

static void upgrading_reply(void *data, struct call *call)
{
	_cleanup_(refusal_done) struct refusal refusal = {};
	struct upgrading *upgrading = data;

	if (upgrading->is_waiting ? has_changed(upgrading) : !upgrading->refusal.parameters) {
		refusal_done(&upgrading->refusal);
		upgrading_wait(upgrading);
		return;
	}
	upgrading->is_over = true;
	if (upgrading->refusal.parameters) {
		call_refuse(call, &upgrading->refusal);
		return;
	}
	if (upgrading->is_dry_run) {
		call_reply(call, json_pack("{s:s, s:I}", "version", upgrading->answer.version,
					   "guests", (json_int_t)upgrading->answer.n_adoptable));
		return;
	}
	upgrading_go(upgrading, &refusal);
	log_error(LOG_FIELDS(.message_id = LOG_ID_UPGRADE_FAILED), "no upgrade: %s",
		  json_string_value(json_object_get(refusal.parameters, "message")));
	call_refuse(call, &refusal);
}

static void upgrading_done(void *data, bool is_kept)
{
	struct upgrading *upgrading = data;

	drop_guests(upgrading);
	if (!is_kept || upgrading->is_over)
		upgrading_free(upgrading);
}

/* What there is to be taken over now. */
static int take_guests(struct upgrading *upgrading)
{
	struct registry *registry = upgrading->control->registry;
	struct registration *registration = NULL;
	size_t n = 0;

	while ((registration = registry_next(registry, registration)))
		n++;
	upgrading->guests = calloc(n + 1, sizeof(*upgrading->guests));
	if (!upgrading->guests)
		return -ENOMEM;
	while ((registration = registry_next(registry, registration))) {
		int fd = fcntl(ufd_pager_guest_ledger(registration->shown), F_DUPFD_CLOEXEC, 3);

		if (fd < 0)
			return -errno;
		upgrading->guests[upgrading->n_guests] = (struct dry_run_guest){ .ledger = fd };
		strcpy(upgrading->guests[upgrading->n_guests++].name, registration->paging.name);
	}
	return 0;
}

/* @upgrading is consumed on failure. */
static int upgrading_ask(struct upgrading *upgrading, struct refusal *refusal)
{
	static const struct call_job_ops ops = {
		.run = upgrading_run,
		.reply = upgrading_reply,
		.done = upgrading_done,
	};
	int r = upgrading->is_waiting ? take_guests(upgrading) : 0;

	if (r == 0)
		return call_job_start(upgrading->control, upgrading->call, &ops, 0, upgrading,
				      refusal);
	upgrading_free(upgrading);
	return r;
}

static void on_tick(evutil_socket_t fd, short what, void *userdata)
{
	_cleanup_(refusal_done) struct refusal refusal = {};
	struct upgrading *upgrading = userdata;
	_cleanup_(call_unrefp) struct call *call = call_ref(upgrading->call);
	bool is_late = clock_now_ns() >= upgrading->deadline_ns;
	int r;

	if (is_busy(upgrading->control) && !is_late) {
		upgrading_wait(upgrading);
		return;
	}
	if (is_late) {
		upgrading_free(upgrading);
		r = refusal_set(&refusal, "io.ufd.manager.UpgradeRefused", NULL,
				"calls are still at work after %llu seconds; try again when they "
				"are done",
				(unsigned long long)PATIENCE_S);
	} else {
		r = upgrading_ask(upgrading, &refusal);
	}
	if (r == 0)
		return;
	if (r != -ECANCELED)
		refusal_set_errno(&refusal, r, "no upgrade: %s", strerror(-r));
	call_refuse(call, &refusal);
}

static int upgrading_new(struct control *control, struct call *call, struct upgrading **ret)
{
	struct upgrading *upgrading = calloc(1, sizeof(*upgrading));

	if (!upgrading)
		return -ENOMEM;
	upgrading->control = control;
	upgrading->call = call_ref(call);
	upgrading->target = UPGRADE_TARGET_NONE;
	TAILQ_INIT(&upgrading->held_list);
	upgrading->timer = evtimer_new(control->base, on_tick, upgrading);
	control->upgrading = upgrading;
	if (!upgrading->timer) {
		upgrading_free(upgrading);
		return -ENOMEM;
	}
	*ret = upgrading;
	return 0;
}

/* ---- committing ---- */

static int commit_run(struct job *job, void *data, struct refusal *refusal)
{
	struct control *control = data;

	registry_set_min_reader(control->registry, control->store,
				upgrade_min_reader(control->upgrade));
	return 0;
}

static void commit_reply(void *data, struct call *call)
{
	struct control *control = data;

	call_reply(call, json_pack("{s:s, s:I}", "version", release_version, "guests",
				   (json_int_t)registry_totals(control->registry).n_guests));
}

static void commit_done(void *data, bool is_kept)
{
}

/* The way back is closed first: a ledger that asks for us alone must not meet the program before. */
static int commit(struct control *control, struct call *call, struct refusal *refusal)
{
	static const struct call_job_ops ops = {
		.run = commit_run,
		.reply = commit_reply,
		.done = commit_done,
	};

	if (!upgrade_is_uncommitted(control->upgrade))
		return refusal_set(
			refusal, "io.ufd.manager.UpgradeRefused", NULL,
			"there is nothing to commit: no upgrade since the start, or it is "
			"committed");
	upgrade_commit(control->upgrade);
	log_info(LOG_FIELDS(.message_id = LOG_ID_COMMITTED),
		 "the upgrade to %s is committed: there is no way back", release_version);
	return call_job_start(control, call, &ops, 0, control, refusal);
}

int method_upgrade(struct control *control, struct call *call, struct refusal *refusal)
{
	const char *binary = json_string_value(json_object_get(call->parameters, "binary"));
	bool is_dry_run = json_is_true(json_object_get(call->parameters, "dry_run"));
	bool is_back = json_is_true(json_object_get(call->parameters, "rollback"));
	bool is_commit = json_is_true(json_object_get(call->parameters, "commit"));
	struct upgrading *upgrading;
	int r;

	if (is_dry_run + is_back + is_commit > 1 || (binary && (is_back || is_commit))) {
		call_fail_parameter(call, is_commit ? "commit" : "rollback");
		return 0;
	}
	if (control->upgrading)
		return refusal_set(refusal, "io.ufd.manager.UpgradeRefused", NULL,
				   "another upgrade is under way");
	if (is_commit)
		return commit(control, call, refusal);
	r = upgrading_new(control, call, &upgrading);
	if (r < 0)
		return r;
	upgrading->is_dry_run = is_dry_run;
	r = is_back ? upgrade_target_before(control->upgrade, &upgrading->target, refusal)
		    : upgrade_target_open(control->upgrade, binary, &upgrading->target, refusal);
	if (r == 0)
		return upgrading_ask(upgrading, refusal);
	upgrading_free(upgrading);
	return r;
}
