/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What ufdd is told at its start, and reads again when it is told to. */
#pragma once

#include <stdbool.h>

#include "config.h"

/* What the command line says; it wins over the environment, which wins over the file. */
struct options {
	const char *config_path; /* NULL: the default, which may be missing */
	const char *socket;	 /* NULL: $UFD_SOCKET, the file, the default */
	const char *state_dir;
	const char *log_level;
	const char *debug;
	bool is_user; /* sockets and files of the calling user */
};

/**
 * options_load_config() - defaults, file, environment and command line, in this order
 *
 * Return: 0, or a negative errno; what is wrong has been reported.
 */
int options_load_config(const struct options *options, struct config *ret);
