/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Guests that arrive. */
#include "control/arrive.h"

#include <ctype.h>
#include <errno.h>
#include <event2/event.h>
#include <string.h>

#include "config.h"
#include "control/call.h"
#include "control/control.h"
#include "control/drain.h"
#include "control/guest-json.h"
#include "control/method.h"
#include "refusal.h"
#include "registry.h"

/* How long a call waits for the guest that had its name before to be gone. */
#define PATIENCE_SECONDS 5

int arrive_settings(struct control *control, struct call *call, struct settings *ret)
{
	struct settings settings = control->config->defaults;
	const char *wrong;

	if (settings_apply(&settings, json_object_get(call->parameters, "settings"), &wrong) < 0) {
		call_fail_parameter(call, wrong);
		return 1;
	}
	*ret = settings;
	return 0;
}

/* Names appear in paths, labels and log fields. */
static bool is_name(const char *name)
{
	size_t n = strlen(name);

	if (n == 0 || n >= UFD_NAME_BYTES || name[0] == '.' || name[0] == '-')
		return false;
	for (size_t i = 0; i < n; i++)
		if (!isalnum((unsigned char)name[i]) && !strchr("-_.:@+", name[i]))
			return false;
	return true;
}

int refuse_existing(const char *name, struct refusal *refusal)
{
	return refusal_set(refusal, "io.ufd.guest.GuestExists", json_pack("{s:s}", "name", name),
			   "guest `%s` exists already", name);
}

/* ---- names that are about to be free, and guests about to be there ---- */

struct latecomer {
	struct registry_waiter waiter;
	struct control *control;
	struct call *call;   /* a reference */
	struct event *timer; /* owned */
};

static void latecomer_free(struct latecomer *latecomer)
{
	registry_waiter_cancel(&latecomer->waiter);
	if (latecomer->timer)
		event_free(latecomer->timer);
	call_unref(latecomer->call);
	free(latecomer);
}

static void on_name_free(struct registry_waiter *waiter)
{
	struct latecomer *latecomer = (struct latecomer *)waiter;

	call_set_gone(latecomer->call, NULL, NULL);
	method_run(latecomer->control, latecomer->call);
	latecomer_free(latecomer);
}

static void on_call_gone(struct call *call, void *userdata)
{
	latecomer_free(userdata);
}

static void on_patience_ends(evutil_socket_t fd, short what, void *userdata)
{
	_cleanup_(refusal_done) struct refusal refusal = {};
	struct latecomer *latecomer = userdata;
	const json_t *parameters = latecomer->call->parameters;
	const char *name = json_string_value(json_object_get(parameters, "name"));

	if (latecomer->waiter.is_for_arrival)
		refusal_set_errno(&refusal, -EBUSY, "guest `%s` is being attached; try again",
				  name ? name : "");
	else
		refuse_existing(name ? name : "", &refusal);
	call_refuse(latecomer->call, &refusal);
	latecomer_free(latecomer);
}

/* Return: true if the method will run again. */
static bool run_later(struct control *control, struct call *call, const char *name,
		      bool is_for_arrival)
{
	const struct timeval patience = { .tv_sec = PATIENCE_SECONDS };
	struct latecomer *latecomer = calloc(1, sizeof(*latecomer));

	if (!latecomer)
		return false;
	latecomer->control = control;
	latecomer->call = call_ref(call);
	latecomer->waiter.on_free = on_name_free;
	latecomer->waiter.is_for_arrival = is_for_arrival;
	latecomer->timer = evtimer_new(control->base, on_patience_ends, latecomer);
	if (latecomer->timer && evtimer_add(latecomer->timer, &patience) == 0 &&
	    registry_wait(control->registry, name, &latecomer->waiter)) {
		call_set_gone(call, on_call_gone, latecomer);
		return true;
	}
	latecomer_free(latecomer);
	return false;
}

bool arrive_await(struct control *control, struct call *call, const char *name)
{
	return run_later(control, call, name, true);
}

int arrive_register(struct control *control, struct call *call, const char *name,
		    const struct settings *settings, struct registration **ret,
		    struct refusal *refusal)
{
	int r;

	if (!is_name(name))
		return refusal_set(refusal, "org.varlink.service.InvalidParameter",
				   json_pack("{s:s}", "parameter", "name"), "bad name");
	r = drain_check(control->drain, refusal);
	if (r < 0)
		return r;
	r = registry_arrive(control->registry, name, call->peer.uid, settings, ret);
	if (r == -EEXIST && run_later(control, call, name, false))
		return 1;
	if (r == -EEXIST)
		return refuse_existing(name, refusal);
	if (r == -EMFILE)
		return refusal_set(refusal, "io.ufd.manager.LimitReached",
				   json_pack("{s:s}", "limit", "guests"),
				   "as many guests as [limits] guests allows are there already");
	return r < 0 ? refusal_set_errno(refusal, r, "%s", strerror(-r)) : 0;
}

void arrive_reply(struct registration *registration, pid_t pid, int pidfd, uid_t owner,
		  struct call *call)
{
	_cleanup_(refusal_done) struct refusal refusal = {};

	registration_commit(registration, pid, pidfd, owner);
	if (registration->shown) {
		call_reply(call, json_pack("{s:o}", "guest", guest_json(registration)));
		registration_arrived(registration);
		return;
	}
	refusal_set(&refusal, "io.ufd.guest.CannotAttach", json_pack("{s:i}", "pid", pid),
		    "process %d has ended", pid);
	call_refuse(call, &refusal);
}
