/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What became of an upgrade: told by the program that serves now, to the log and to whoever waits.
 *
 * How long guests stalled is counted from the moment their threads were parked to the one when every
 * guest was served again, and a fault that had waited was resolved. Whether one waited, nobody knows;
 * if there was one it comes at once, so a short while without any ends the count where it began.
 */
#include <errno.h>
#include <event2/event.h>
#include <inttypes.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/units.h"
#include "control/control.h"
#include "control/drain.h"
#include "control/methods-upgrade.h"
#include "log-ids.h"
#include "log.h"
#include "registry.h"
#include "upgrade/release.h"
#include "upgrade/upgrade.h"
#include "wire/frame.h"
#include "wire/varlink.h"

#define TICK_US	    1000
#define PATIENCE_NS (20 * NSEC_PER_MSEC)

struct report {
	struct control *control;
	struct event *timer; /* owned */
	uint64_t served_ns;  /* CLOCK_MONOTONIC: since then every guest is */
};

/* A socket that nobody has written to takes so little at once. */
static void reply(struct control *control, json_t *message)
{
	_cleanup_(closep) int socket = upgrade_take_reply(control->upgrade);
	_cleanup_(freep) char *bytes = NULL;
	size_t n_bytes, n_sent;

	if (socket >= 0 && message && frame_encode(message, &bytes, &n_bytes) == 0)
		frame_send(socket, bytes, n_bytes, NULL, 0, &n_sent);
	json_decref(message);
}

static void tell(struct control *control, uint64_t stall_ns)
{
	const struct upgrade_past *past = upgrade_past(control->upgrade);
	uint64_t n_guests = registry_totals(control->registry).n_guests;
	double stall_ms = (double)stall_ns / (double)NSEC_PER_MSEC;

	if (past->kind == UPGRADE_BACK)
		log_info(LOG_FIELDS(.message_id = LOG_ID_ROLLED_BACK),
			 "rolled back from %s to %s: %" PRIu64 " of %" PRIu64
			 " guests are served again after %.1f ms",
			 past->from, release_version, n_guests, past->n_guests, stall_ms);
	else
		log_info(LOG_FIELDS(.message_id = LOG_ID_UPGRADED),
			 "upgraded from %s to %s: %" PRIu64 " of %" PRIu64
			 " guests are served again after %.1f ms; `ufdctl upgrade --rollback` goes "
			 "back, `--commit` keeps it",
			 past->from, release_version, n_guests, past->n_guests, stall_ms);
	reply(control,
	      varlink_reply_new(json_pack("{s:s, s:I, s:I}", "version", release_version, "guests",
					  (json_int_t)n_guests, "stall_ns", (json_int_t)stall_ns),
				false));
}

static void tell_failure(struct control *control)
{
	const struct upgrade_past *past = upgrade_past(control->upgrade);

	log_error(LOG_FIELDS(.message_id = LOG_ID_UPGRADE_FAILED),
		  "%s could not be executed: %s; %s goes on, with %" PRIu64 " of %" PRIu64
		  " guests",
		  past->binary, past->error, release_version,
		  registry_totals(control->registry).n_guests, past->n_guests);
	reply(control, varlink_error_new("io.ufd.manager.UpgradeRefused",
					 json_pack("{s:o}", "message",
						   json_sprintf("%s could not be executed: %s; "
								"every guest is served as before",
								past->binary, past->error))));
}

static bool has_served(struct control *control)
{
	struct registration *registration = NULL;

	while ((registration = registry_next(control->registry, registration))) {
		UFD_OPTS(ufd_guest_stats, stats);

		if (ufd_pager_guest_stats(registration->shown, &stats) == 0 && stats.pages_demand)
			return true;
	}
	return false;
}

static void report_free(struct report *report)
{
	if (report->timer)
		event_free(report->timer);
	free(report);
}

static void on_tick(evutil_socket_t fd, short what, void *userdata)
{
	const struct timeval tick = { .tv_usec = TICK_US };
	struct report *report = userdata;
	uint64_t now_ns = clock_now_ns(), end_ns = report->served_ns;
	uint64_t parked_ns = upgrade_past(report->control->upgrade)->parked_ns;

	if (has_served(report->control))
		end_ns = now_ns;
	else if (now_ns < report->served_ns + PATIENCE_NS &&
		 registry_next(report->control->registry, NULL)) {
		event_add(report->timer, &tick);
		return;
	}
	tell(report->control, end_ns > parked_ns ? end_ns - parked_ns : 0);
	report_free(report);
}

void upgrade_report(struct control *control)
{
	struct report *report;

	if (upgrade_past(control->upgrade)->is_draining)
		drain_start(control->drain);
	if (upgrade_past(control->upgrade)->kind == UPGRADE_NONE)
		return;
	if (upgrade_past(control->upgrade)->kind == UPGRADE_FAILED) {
		tell_failure(control);
		return;
	}
	report = calloc(1, sizeof(*report));
	if (!report)
		return;
	report->control = control;
	report->served_ns = clock_now_ns();
	report->timer = evtimer_new(control->base, on_tick, report);
	if (report->timer)
		event_active(report->timer, EV_TIMEOUT, 0);
	else
		report_free(report);
}
