/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ufdd.conf and its drop-ins. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "log.h"
#include "settings.h"

/* Readable. A section [handoff NAME]: what is served at a socket of the service manager. */
#define CONFIG_MAX_HANDOFFS 16
struct config_handoff {
	char name[40];
	char dialect[32];
	char source[1024];
	char guest_name[UFD_NAME_BYTES]; /* "": from the socket's path */
	uint64_t owner;			 /* user id */
};

/* Readable. */
struct config {
	char socket[108];     /* fits sun_path */
	char state_dir[4096]; /* "" until the command line, the file or the default says */
	enum log_level log_level;
	unsigned int debug; /* enum log_switch */
	uint64_t log_prefix;
	uint64_t stop_timeout_s;
	uint64_t n_connections;
	uint64_t n_connections_per_user;
	uint64_t backlog_bytes;
	uint64_t n_guests;
	uint64_t n_jobs;
	uint64_t n_jobs_per_user; /* administrators have no such limit */
	uint64_t may_experiment;  /* dialects that are proposals */
	struct settings defaults;
	struct config_handoff handoffs[CONFIG_MAX_HANDOFFS];
	size_t n_handoffs;
};

/* Everything as built in. */
struct config config_built_in(void);

/* Told of each thing that is odd; @is_error: the file cannot be used. The text names file and line.
 */
typedef void (*config_report_fn)(void *userdata, bool is_error, const char *text);

/**
 * config_load() - a file, then its drop-ins (those in PATH.d that end in .conf, by name) over it
 * @config:     changed; undefined after a failure
 * @must_exist: a missing file is an error
 *
 * An unknown section or key is reported and skipped; a bad value or syntax is an error.
 * Context: any; blocks. Return: 0, -EINVAL (all reported), or -errno of a file (reported).
 */
int config_load(struct config *config, const char *path, bool must_exist, config_report_fn report,
		void *userdata);

/* One file's text, @name only for reports. Return: 0 or -EINVAL (reported). */
int config_parse(struct config *config, const char *name, const char *text, config_report_fn report,
		 void *userdata);
