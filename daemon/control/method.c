/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Dispatch: a call reaches its function only if it fits the interface. */
#include "control/method.h"

#include <errno.h>
#include <string.h>

#include "control/control.h"
#include "control/methods-upgrade.h"
#include "log.h"

static const struct method *find_method(const struct method *methods, const char *name)
{
	for (const struct method *method = methods; method->name; method++)
		if (strcmp(method->name, name) == 0)
			return method;
	return NULL;
}

/* Return: true if found; else the error is sent. */
static bool call_find(struct control *control, struct call *call)
{
	const char *name = call->request.method;
	const char *dot = strrchr(name, '.');
	const struct interface *interface;

	interface = dot ? control_find_interface(control, name, (size_t)(dot - name)) : NULL;
	if (!interface) {
		call_fail(call, "org.varlink.service.InterfaceNotFound",
			  json_pack("{s:o}", "interface",
				    json_stringn(name, dot ? (size_t)(dot - name) : strlen(name))));
		return false;
	}
	call->method = find_method(interface->methods, dot + 1);
	if (!call->method) {
		call_fail(call, "org.varlink.service.MethodNotFound",
			  json_pack("{s:s}", "method", dot + 1));
		return false;
	}
	call->idl = interface->idl;
	return true;
}

/* Return: true if it may run; else the error is sent. */
static bool call_check(struct control *control, struct call *call)
{
	const char *field;

	if (!credentials_may(&call->peer, control->own_uid, call->method->access)) {
		call_fail(call, "org.varlink.service.PermissionDenied", NULL);
		return false;
	}
	if (call->request.is_upgrade) {
		call_fail_parameter(call, "upgrade");
		return false;
	}
	if (idl_check(call->idl, call->method->name, IDL_INPUT, call->parameters, &field) != 0) {
		call_fail_parameter(call, field);
		return false;
	}
	if (call->method->needs_more && !call->request.is_more) {
		call_fail(call, "org.varlink.service.ExpectedMore", NULL);
		return false;
	}
	return true;
}

void method_run(struct control *control, struct call *call)
{
	_cleanup_(refusal_done) struct refusal refusal = {};
	int r = call->method->run(control, call, &refusal);

	if (r == 0)
		return;
	if (r != -ECANCELED)
		refusal_set_errno(&refusal, r, "%s failed: %s", call->method->name, strerror(-r));
	log_debug(LOG_SWITCH_CONTROL, LOG_FIELDS(), "%s is answered by %s", call->request.method,
		  refusal.error);
	call_refuse(call, &refusal);
}

void method_dispatch(struct control *control, struct call *call)
{
	call->parameters = call->request.parameters ? json_incref(call->request.parameters)
						    : json_object();
	if (!call_find(control, call) || !call_check(control, call))
		return;
	log_debug(LOG_SWITCH_CONTROL, LOG_FIELDS(), "pid %d, uid %u calls %s with %zu fds",
		  call->peer.pid, call->peer.uid, call->request.method, call->frame.n_fds);
	/* a stream may last for days, and what it holds can be the client's own end of the socket */
	if (!call->method->takes_fds)
		frame_drop_fds(&call->frame);
	if (!upgrade_holds(control, call))
		method_run(control, call);
}
