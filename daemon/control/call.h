/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One call of a client, from the moment it is understood to its last reply.
 *
 * Context of all but call_borrow_fd(): loop; does not block. That one: any.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/cleanup.h"
#include "control/credentials.h"
#include "refusal.h"
#include "wire/frame.h"
#include "wire/idl.h"
#include "wire/varlink.h"

struct connection;
struct method;

/*
 * Shared; all on the loop. A call outlives its connection: whoever works on it replies as if
 * nothing had happened, and the words go nowhere. Its connection reads nothing more until the last
 * reply, so a client has at most one call at work.
 */
struct call {
	unsigned int n_refs;
	struct connection *connection; /* a reference; NULL after the last reply */
	struct frame frame;	       /* owned; with the fds that came */
	struct varlink_call request;   /* readable; points into @frame */
	json_t *parameters; /* readable, borrowed; always an object, and it fits the interface */
	struct credentials peer; /* readable; who connected */
	pid_t sender;		 /* readable; who wrote the call: differs for an inherited socket */
	const struct idl *idl;
	const struct method *method;
	void (*on_gone)(struct call *call, void *userdata);
	void *userdata;
};

/* Consumes the frame, also on failure. Return: 0 or -ENOMEM. */
int call_new(struct call **ret, struct connection *connection, struct frame *frame);
struct call *call_ref(struct call *call);
struct call *call_unref(struct call *call);
DEFINE_CLEANUP(struct call, call_unref)

/* Called at most once, if the client goes away before the last reply. */
void call_set_gone(struct call *call, void (*on_gone)(struct call *call, void *userdata),
		   void *userdata);

/* The last reply; @parameters is consumed, NULL is an empty object. */
void call_reply(struct call *call, json_t *parameters);

/* The same with an fd, which index 0 of a parameter means. @fd: consumed. */
void call_reply_fd(struct call *call, json_t *parameters, int fd);

/* A reply with more to come. Only where the client asked for more. */
void call_notify(struct call *call, json_t *parameters);

/* The last reply is an error; @parameters is consumed. */
void call_fail(struct call *call, const char *error, json_t *parameters);

/* The last reply is what @refusal says. */
void call_refuse(struct call *call, const struct refusal *refusal);

/* org.varlink.service.InvalidParameter. */
void call_fail_parameter(struct call *call, const char *name);

/* The fd of its connection, borrowed; -EBADF if the client has gone. */
int call_socket(const struct call *call);

/**
 * call_borrow_fd() - the fd that a parameter names by index
 * @ret_fd: stays the call's
 *
 * Return: 0, or -ECANCELED with io.ufd.guest.BadFd in @refusal.
 */
int call_borrow_fd(struct call *call, json_int_t index, int *ret_fd, struct refusal *refusal);
