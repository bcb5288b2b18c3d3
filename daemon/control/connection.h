/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One client's socket: frames in, frames out, never blocking, never without bound.
 *
 * Context of all: loop.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>

#include "base/cleanup.h"
#include "control/credentials.h"

struct call;
struct connection;
struct server;

/*
 * Shared; all on the loop. It is
 *   reading   frames are taken one by one. Leaves by a call, a broken frame, the client's end;
 *   working   on one call, reads nothing, looks only whether the client goes away;
 *   draining  says its last words and reads nothing. Leaves when they are written, or by time;
 *   dropped   the fd is closed; nothing happens any more.
 */

/* @fd: consumed, non-blocking. The server holds the one reference until connection_drop(). Return:
 * 0 or -ENOMEM. */
int connection_new(struct connection **ret, struct server *server, int fd,
		   const struct credentials *credentials);
struct connection *connection_ref(struct connection *connection);
struct connection *connection_unref(struct connection *connection);
DEFINE_CLEANUP(struct connection, connection_unref)

/* Close now. Tells the call at work that its client has gone. */
void connection_drop(struct connection *connection);

/* Borrowed; -EBADF once dropped. */
int connection_socket(const struct connection *connection);
const struct credentials *connection_credentials(const struct connection *connection);

/*
 * @message: borrowed. @fd: consumed; goes along, -EBADF for none. A client that lets more pile up
 * than the limit is dropped.
 */
void connection_send(struct connection *connection, const json_t *message, int fd);

/* @call has had its last reply. */
void connection_call_done(struct connection *connection, struct call *call);
