/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One invocation: its options, its connection, how it calls and how it fails. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "wire/varlink-client.h"

/* Exit statuses, as in ufdctl(1). */
enum exit_status {
	EXIT_DONE = 0,
	EXIT_FAILED = 1,
	EXIT_USAGE = 2,
	EXIT_NO_DAEMON = 3,
	EXIT_NO_GUEST = 4,
	EXIT_DENIED = 5,
	EXIT_TIMEOUT = 6,
};

enum json_style { JSON_OFF, JSON_SHORT, JSON_PRETTY };

/* Readable. */
struct session {
	const char *socket_path;
	enum json_style json;
	bool no_legend;
	bool is_quiet;
	bool with_bytes;	       /* raw numbers instead of K, M, G */
	uint64_t timeout_ns;	       /* of one call; 0 waits for ever */
	struct varlink_client *client; /* owned; made by the first call */
};

void session_done(struct session *session);

/**
 * session_call() - one call and its one reply
 * @parameters: consumed; NULL for none
 * @fds:        borrowed
 * @ret:        the reply's parameters, owned by the caller
 *
 * On failure the error was printed. Return: an exit status.
 */
int session_call(struct session *session, const char *method, json_t *parameters, const int *fds,
		 size_t n_fds, json_t **ret);

/**
 * session_call_fd() - the same, with the fd that the reply names as `fd`
 * @ret_fd: owned by the caller; -EBADF if it names none
 */
int session_call_fd(struct session *session, const char *method, json_t *parameters, json_t **ret,
		    int *ret_fd);

/* Called for each reply. Return: false to stop listening. */
typedef bool (*reply_fn)(const json_t *parameters, void *userdata);

/* A call with several replies. Return: an exit status. */
int session_follow(struct session *session, const char *method, json_t *parameters,
		   reply_fn on_reply, void *userdata);

/* Say what is wrong with the command line. Return: EXIT_USAGE. */
int session_usage(const char *message, ...) __attribute__((format(printf, 1, 2)));
