/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One of Cloud Hypervisor's migration connections: whole messages, with a deadline for silence.
 *
 * Context of all: whoever owns it; block.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "attach/cloud-hypervisor.h"

struct refusal;

/* Embedded. The fd is borrowed, and need not be O_NONBLOCK. */
struct stream {
	int fd;
	uint64_t idle_ns; /* how long nothing may move; 0: for ever */
	/* Asked now and then while waiting; NULL: nobody ends it. */
	bool (*is_cancelled)(void *userdata);
	void *userdata;
};

/* Beside 0 and -errno (-ETIMEDOUT: silence; -ECONNRESET: it ended in the middle). */
enum { STREAM_ENDED = 1 };

/*
 * @ret_fd: NULL, or -EBADF in which the first fd that comes is left, owned by the caller; others are closed.
 * Return: 0, STREAM_ENDED before the first byte, -errno.
 */
int stream_receive(const struct stream *stream, void *bytes, size_t n_bytes, int *ret_fd);

/* @fd: -EBADF for none; borrowed. */
int stream_send(const struct stream *stream, const void *bytes, size_t n_bytes, int fd);

/* Return: 0, STREAM_ENDED, -ECANCELED with @refusal set. */
int stream_receive_request(const struct stream *stream, struct ch_request *ret,
			   struct refusal *refusal);

/* A response without payload. Return: 0 or -errno. */
int stream_answer(const struct stream *stream, bool is_ok);

/*
 * A request with its payload, and what is answered. @bytes: @n_bytes of them; @fd: goes with them.
 * Return: 0, -ECANCELED: io.ufd.handoff.OffloadFailed, also if it is answered by an error.
 */
int stream_ask(const struct stream *stream, enum ch_command command, const void *bytes,
	       size_t n_bytes, int fd, struct refusal *refusal);

/* What became of a connection, for people. @r: what a call above returned. Always -ECANCELED. */
int stream_refuse(int r, const char *doing, struct refusal *refusal);
