/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The daemon, put together. */
#pragma once

#include <stdbool.h>

#include "base/cleanup.h"
#include "config.h"

struct daemon;

/* What the command line says; it wins over the environment, which wins over the file. */
struct daemon_options {
	const char *config_path; /* NULL: the default, which may be missing */
	const char *socket;	 /* NULL: $UFD_SOCKET, the file, the default */
	const char *state_dir;
	const char *log_level;
	const char *debug;
	bool is_user; /* sockets and files of the calling user */
};

/**
 * daemon_load_config() - defaults, file, environment and command line, in this order
 *
 * Return: 0, or a negative errno; what is wrong has been reported.
 */
int daemon_load_config(const struct daemon_options *options, struct config *ret);

/**
 * daemon_new() - everything but the loop: listens, but answers nobody yet
 * @options: borrowed until daemon_free(), for a reload
 *
 * Context: main thread. Return: 0, or a negative errno; the reason has been logged.
 */
int daemon_new(struct daemon **ret, const struct daemon_options *options,
	       const struct config *config);

/**
 * daemon_run() - serve until SIGTERM or SIGINT, then fill every guest
 *
 * Return: 0; -EBUSY if some could not be filled, or another -errno: exit then without
 *         daemon_free(): whoever cannot be left is not let go either.
 */
int daemon_run(struct daemon *daemon);

struct daemon *daemon_free(struct daemon *daemon);
DEFINE_CLEANUP(struct daemon, daemon_free)
