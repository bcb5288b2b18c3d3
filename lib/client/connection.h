/* SPDX-License-Identifier: MIT */
/* The way to the daemon: a path that is connected to anew each time, or a socket that was passed
 * in. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "wire/varlink-client.h"

/* Embedded. Readable. */
struct connection {
	char *path;    /* owned; NULL: only sockets that are passed in */
	int inherited; /* owned; the socket for the next connection_open(), or -EBADF */
	int epoll;     /* owned; tells when an open connection is readable */
	struct varlink_client *varlink; /* owned; NULL while closed */
};

/**
 * connection_init() - closed, but with a way to open it
 * @path:      NULL for none
 * @inherited: duplicated; 0 or less for none
 *
 * Return: 0, -ENOTSOCK, -ENOMEM, other -errno.
 */
int connection_init(struct connection *connection, const char *path, int inherited);
void connection_done(struct connection *connection);

/* The next connection_open() uses @inherited, which is duplicated. Return: 0, -ENOTSOCK, other
 * -errno. */
int connection_set_inherited(struct connection *connection, int inherited);

/* Is there anything to open? */
bool connection_has_way(const struct connection *connection);

/**
 * connection_open() - connect, unless it is open
 *
 * Does not wait: a daemon that does not accept is -EAGAIN.
 * Return: 0, -ENOTCONN without a way, -EAGAIN, -ENOENT, -ECONNREFUSED, -EACCES, -ENAMETOOLONG,
 * other -errno.
 */
int connection_open(struct connection *connection);

/* The same, with patience for a daemon that does not accept. Return: also -ETIMEDOUT. */
int connection_open_wait(struct connection *connection, uint64_t deadline_ns);

void connection_close(struct connection *connection);

/* Let the epoll tell of another fd as well. Return: 0 or -errno. */
int connection_poll_also(struct connection *connection, int fd);
