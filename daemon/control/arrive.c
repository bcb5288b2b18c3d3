/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Guests that arrive. */
#include "control/arrive.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

#include "config.h"
#include "control/call.h"
#include "control/control.h"
#include "control/guest-json.h"
#include "refusal.h"
#include "registry.h"

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

int arrive_register(struct control *control, struct call *call, const char *name,
		    const struct settings *settings, struct registration **ret,
		    struct refusal *refusal)
{
	int r;

	if (!is_name(name))
		return refusal_set(refusal, "org.varlink.service.InvalidParameter",
				   json_pack("{s:s}", "parameter", "name"), "bad name");
	r = registry_arrive(control->registry, name, call->peer.uid, settings, ret);
	if (r == -EEXIST)
		return refusal_set(refusal, "io.ufd.guest.GuestExists",
				   json_pack("{s:s}", "name", name), "guest `%s` exists already",
				   name);
	if (r == -EMFILE)
		return refusal_set(refusal, "io.ufd.manager.LimitReached",
				   json_pack("{s:s}", "limit", "guests"),
				   "as many guests as [limits] guests allows are there already");
	return r < 0 ? refusal_set_errno(refusal, r, "%s", strerror(-r)) : 0;
}

void arrive_reply(struct registration *registration, pid_t pid, uid_t owner, struct call *call)
{
	_cleanup_(refusal_done) struct refusal refusal = {};

	registration_commit(registration, pid, owner);
	if (registration->shown) {
		call_reply(call, json_pack("{s:o}", "guest", guest_json(registration)));
		return;
	}
	refusal_set(&refusal, "io.ufd.guest.CannotAttach", json_pack("{s:i}", "pid", pid),
		    "process %d has ended", pid);
	call_refuse(call, &refusal);
}
