/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The listening sockets, and who is connected. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/cleanup.h"

struct connection;
struct control;
struct event_base;
struct server;
struct upgrade_fd;

/* @control outlives the server. Return: 0 or -ENOMEM. Context: loop, like everything here. */
int server_new(struct server **ret, struct control *control, struct event_base *base);

/* Drops every connection. */
struct server *server_free(struct server *server);
DEFINE_CLEANUP(struct server, server_free)

/* A listening Unix stream socket, consumed (also on failure); it becomes non-blocking. Return: 0 or
 * -errno. */
int server_listen(struct server *server, int fd);

/**
 * server_listen_path() - bind and listen
 *
 * Takes over a socket that nobody listens on any more. The lock file beside it (PATH.lock) decides
 * between two of us.
 * Return: 0, -EADDRINUSE (another ufdd has it), other -errno.
 */
int server_listen_path(struct server *server, const char *path);

/* Nobody is let in meanwhile: who connects waits in the backlog. */
void server_pause(struct server *server, bool is_paused);

/* What a successor needs to listen in our place: `varlink`, and `own-lock` if the socket is one of our own.
 * @ret: SERVER_MAX_FDS; borrowed. Return: how many. */
#define SERVER_MAX_FDS 5
size_t server_fds(const struct server *server, struct upgrade_fd *ret);

/* The `own-lock` of the program before, which comes after its socket: that one is our own, and goes with us. Consumed. */
void server_keep_lock(struct server *server, int fd);

size_t server_n_connections(const struct server *server);

/* For connections. */
struct event_base *server_base(const struct server *server);
struct control *server_control(const struct server *server);
size_t server_backlog_bytes(const struct server *server);
void server_remove(struct server *server, struct connection *connection);
