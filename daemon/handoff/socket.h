/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The sockets of listeners, as files. Context of all: job or main; file systems may make them wait. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "handoff/wish.h"

struct refusal;

#define SOCKET_PATH_BYTES 108

/**
 * socket_make() - bind and listen
 *
 * A socket that nobody listens at any more is replaced. Its owner and mode are as wished before anybody
 * can connect. @ret_device, @ret_inode: of its file.
 * Return: 0 with *ret_fd owned by the caller, O_NONBLOCK; -ECANCELED: io.ufd.handoff.Exists, BadPath.
 */
int socket_make(const struct handoff_wish *wish, int *ret_fd, dev_t *ret_device, ino_t *ret_inode,
		struct refusal *refusal);

/* What lies at the path; inode 0 if that is no socket. */
void socket_identify(const char *path, dev_t *ret_device, ino_t *ret_inode);

/* Only the one that it was; inode 0: none. */
void socket_unlink(const char *path, dev_t device, ino_t inode);

/* Where a listening stream socket is bound. Return: false if it is none, or has no path. */
bool socket_path(int fd, char ret[static SOCKET_PATH_BYTES]);
