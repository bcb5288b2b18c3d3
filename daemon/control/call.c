/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Calls and their replies. */
#include "control/call.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "control/connection.h"
#include "control/method.h"
#include "log.h"

int call_new(struct call **ret, struct connection *connection, struct frame *frame)
{
	struct call *call = calloc(1, sizeof(*call));

	if (!call) {
		frame_done(frame);
		return -ENOMEM;
	}
	call->n_refs = 1;
	call->connection = connection_ref(connection);
	call->peer = *connection_credentials(connection);
	call->frame = *frame;
	call->sender = frame->sender.pid ? frame->sender.pid : call->peer.pid;
	*frame = (struct frame){};
	*ret = call;
	return 0;
}

struct call *call_ref(struct call *call)
{
	call->n_refs++;
	return call;
}

struct call *call_unref(struct call *call)
{
	if (!call || --call->n_refs)
		return NULL;
	connection_unref(call->connection);
	frame_done(&call->frame);
	json_decref(call->parameters);
	free(call);
	return NULL;
}

void call_set_gone(struct call *call, void (*on_gone)(struct call *call, void *userdata),
		   void *userdata)
{
	call->on_gone = on_gone;
	call->userdata = userdata;
}

/*
 * Is what we are about to say what the interface promises? It is not when memory ran out while it was
 * put together, jansson says so nowhere; or by our bug. @parameters is consumed if not.
 */
static bool fits(const struct call *call, const char *member, enum idl_part part,
		 json_t *parameters)
{
	const char *field = "";

	if (!call->idl || !member || idl_check(call->idl, member, part, parameters, &field) == 0)
		return true;
	log_error(LOG_FIELDS(), "%s: the reply is not whole (%s): the client loses its connection",
		  member, field ? field : "");
	json_decref(parameters);
	return false;
}

static void call_send(struct call *call, json_t *message, int given)
{
	_cleanup_(closep) int fd = given;

	if (call->connection && !message)
		connection_drop(call->connection); /* who waits for it must not wait for ever */
	else if (call->connection && !call->request.is_oneway)
		connection_send(call->connection, message, TAKE_FD(fd));
	json_decref(message);
}

/* After the last reply: the connection may read its next call. */
static void call_finish(struct call *call)
{
	_cleanup_(connection_unrefp) struct connection *connection = TAKE_PTR(call->connection);

	if (connection)
		connection_call_done(connection, call);
}

void call_reply(struct call *call, json_t *parameters)
{
	call_reply_fd(call, parameters, -EBADF);
}

void call_reply_fd(struct call *call, json_t *parameters, int fd)
{
	if (!parameters)
		parameters = json_object();
	call->on_gone = NULL; /* also when these words are what makes the client go */
	if (fits(call, call->method ? call->method->name : NULL, IDL_OUTPUT, parameters))
		call_send(call, varlink_reply_new(parameters, false), fd);
	else
		call_send(call, NULL, fd);
	call_finish(call);
}

void call_notify(struct call *call, json_t *parameters)
{
	assert(call->request.is_more);
	if (fits(call, call->method->name, IDL_OUTPUT, parameters))
		call_send(call, varlink_reply_new(parameters, true), -EBADF);
	else
		call_send(call, NULL, -EBADF);
}

void call_fail(struct call *call, const char *error, json_t *parameters)
{
	const char *dot = strrchr(error, '.');
	bool is_ours;

	if (!parameters)
		parameters = json_object();
	is_ours = call->idl && strncmp(error, idl_name(call->idl), (size_t)(dot - error)) == 0;
	call->on_gone = NULL;
	if (fits(call, is_ours ? dot + 1 : NULL, IDL_ERROR, parameters))
		call_send(call, varlink_error_new(error, parameters), -EBADF);
	else
		call_send(call, NULL, -EBADF);
	call_finish(call);
}

void call_refuse(struct call *call, const struct refusal *refusal)
{
	json_t *parameters = json_deep_copy(refusal->parameters);

	/* that interface is not ours to add a message to */
	if (strncmp(refusal->error, "org.varlink.service.", strlen("org.varlink.service.")) == 0)
		json_object_del(parameters, "message");
	call_fail(call, refusal->error, parameters);
}

void call_fail_parameter(struct call *call, const char *name)
{
	call_fail(call, "org.varlink.service.InvalidParameter",
		  json_pack("{s:s}", "parameter", name));
}

int call_socket(const struct call *call)
{
	return call->connection ? connection_socket(call->connection) : -EBADF;
}

int call_borrow_fd(struct call *call, json_int_t index, int *ret_fd, struct refusal *refusal)
{
	if (index < 0 || (size_t)index >= call->frame.n_fds)
		return refusal_set(refusal, "io.ufd.guest.BadFd",
				   json_pack("{s:I}", "index", index),
				   "no file descriptor %lld came with the call, which has %zu",
				   (long long)index, call->frame.n_fds);
	*ret_fd = call->frame.fds[index];
	return 0;
}
