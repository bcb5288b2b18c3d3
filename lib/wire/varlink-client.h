/* SPDX-License-Identifier: MIT */
/*
 * A Varlink client that blocks, but never past its deadline.
 *
 * Context of all: one thread at a time for each client.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

/*
 * One connection, one call at a time. The deadlines are CLOCK_MONOTONIC nanoseconds as of
 * clock_now_ns(); 0 waits for ever, 1 only looks. After any failure but -ETIMEDOUT of
 * varlink_client_next() the connection is of no further use.
 */
struct varlink_client;

/* Readable. What came back. */
struct varlink_answer {
	char *error;	    /* owned; NULL for success, else as io.ufd.guest.NoSuchGuest */
	json_t *parameters; /* owned; always an object */
	bool has_more;	    /* call varlink_client_next() again */
	int *fds;	    /* owned array of owned fds; put -EBADF where you take one */
	size_t n_fds;
};

void varlink_answer_done(struct varlink_answer *answer);

enum varlink_client_flags {
	VARLINK_MORE = 1 << 0,	 /* several replies are welcome */
	VARLINK_ONEWAY = 1 << 1, /* no reply: never call varlink_client_next() for it */
};

/**
 * varlink_client_connect() - by the path of a Unix socket
 *
 * Return: 0, -ENOENT or -ECONNREFUSED (nobody listens), -EACCES, -ENAMETOOLONG, other -errno.
 */
int varlink_client_connect(struct varlink_client **ret, const char *path);

/* By a connected Unix stream socket, consumed (also on failure); it becomes non-blocking. */
int varlink_client_adopt(struct varlink_client **ret, int socket);

struct varlink_client *varlink_client_free(struct varlink_client *client);
DEFINE_CLEANUP(struct varlink_client, varlink_client_free)

/* To poll for POLLIN; stays the client's. */
int varlink_client_fd(const struct varlink_client *client);

/**
 * varlink_client_send() - begin a call
 * @parameters: borrowed; NULL for none
 * @fds:        borrowed; parameters name them by index
 * @flags:      enum varlink_client_flags
 *
 * Return: 0, -ETIMEDOUT, -EMSGSIZE, -EPIPE or -ECONNRESET (the service is gone), other -errno.
 */
int varlink_client_send(struct varlink_client *client, const char *method, json_t *parameters,
			const int *fds, size_t n_fds, unsigned int flags, uint64_t deadline_ns);

/**
 * varlink_client_next() - the next reply
 * @ret: overwritten; release with varlink_answer_done()
 *
 * Return: 0 (also for a reply that is an error: see @ret->error), -ETIMEDOUT (may be repeated),
 *         -ECONNRESET (closed), -EPROTO (what came is no Varlink), other -errno.
 */
int varlink_client_next(struct varlink_client *client, uint64_t deadline_ns,
			struct varlink_answer *ret);

/* varlink_client_send() and the one reply. */
int varlink_client_call(struct varlink_client *client, const char *method, json_t *parameters,
			const int *fds, size_t n_fds, uint64_t deadline_ns,
			struct varlink_answer *ret);
