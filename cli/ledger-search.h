/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where a guest's ledger is found: the daemon hands it out if it answers at once; else whoever
 * holds it has it in /proc/PID/fd (a daemon that hangs or is stopped, the service manager that keeps
 * it for the next one); else it is a file in a state directory.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/cleanup.h"
#include "guest/ledger.h"

struct varlink_client;

enum ledger_origin {
	LEDGER_NOT_FOUND,
	LEDGER_OF_DAEMON,    /* method Ledger */
	LEDGER_OF_PROCESS,   /* /proc/PID/fd */
	LEDGER_OF_DIRECTORY, /* a file */
};

/* Readable. What the daemon behind the socket said, if anything. */
enum daemon_answer {
	DAEMON_ABSENT,	/* nobody listens */
	DAEMON_SILENT,	/* somebody listens, and does not answer in time */
	DAEMON_REFUSES, /* not to us */
	DAEMON_ANSWERS,
};

/* Is it the one we look for? */
typedef bool (*ledger_match_fn)(struct ledger *ledger, void *userdata);

/* Zero, then the first group filled in. */
struct ledger_search {
	const char *socket_path;
	const char *directory; /* where files may be; NULL: nowhere */
	const char *guest;     /* its name, or NULL */
	pid_t pid;	       /* of one of its processes, or 0 */
	ledger_match_fn matches;
	void *userdata;
	uint64_t deadline_ns; /* CLOCK_MONOTONIC */

	/* out */
	struct ledger *ledger; /* owned; NULL if none was found */
	enum ledger_origin origin;
	pid_t holder; /* LEDGER_OF_PROCESS */
	char path[512];
	enum daemon_answer answer;
	pid_t daemon_pid; /* if it answers */
	uint64_t answered_ns;
	char daemon_version[64];
	size_t n_hidden; /* processes whose fds we may not see */
	bool is_cut;	 /* the deadline came first */
};

/* Return: 0 (also if there is none), -ENOMEM. */
int ledger_search_run(struct ledger_search *search);
void ledger_search_done(struct ledger_search *search);

/* A connection to the daemon, soon or not at all. Return: 0, -EAGAIN (it does not take it), -errno. */
int ledger_search_connect(struct varlink_client **ret, const char *path);

/* Each ledger that can be seen without the daemon, once. @visit takes it over. */
void ledger_search_each(struct ledger_search *search,
			void (*visit)(struct ledger *ledger, const char *path, void *userdata),
			void *userdata);
