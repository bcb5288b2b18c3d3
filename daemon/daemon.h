/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The daemon, put together. */
#pragma once

#include "base/cleanup.h"

struct config;
struct daemon;
struct options;

/**
 * daemon_new() - everything but the loop: listens, but answers nobody yet
 * @options: borrowed until daemon_free(), for a reload
 *
 * Context: main thread. Return: 0, or a negative errno; the reason has been logged.
 */
int daemon_new(struct daemon **ret, const struct options *options, const struct config *config);

/**
 * daemon_run() - serve until SIGTERM or SIGINT, then fill every guest
 *
 * Return: 0; -EBUSY if some could not be filled, or another -errno: exit then without
 *         daemon_free(): whoever cannot be left is not let go either.
 */
int daemon_run(struct daemon *daemon);

struct daemon *daemon_free(struct daemon *daemon);
DEFINE_CLEANUP(struct daemon, daemon_free)
