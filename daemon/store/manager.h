/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The service manager's fd store. Context of all: any thread; a message may wait for the manager to read. */
#pragma once

#include <stddef.h>

/* How many fds it keeps for us; 0: none, or nobody says. */
size_t manager_store_max(void);

/*
 * Give it a duplicate under a name. It is kept whatever poll() says of it (FDPOLL=0): the manager
 * drops other fds when poll() tells of an error, as it does for the pidfd of an ended process.
 * Return: 0 (sent), -errno.
 */
int manager_keep(const char *name, int fd);
int manager_remove(const char *name);

/* Wait until it has worked through what was sent. Return: 0, -ETIMEDOUT, -errno. */
int manager_barrier(void);
