/* SPDX-License-Identifier: MIT */
/*
 * The client's inside, shared by the files of this room only.
 *
 * Context of every function of this room: the one thread that calls ufd_client_*() at that time.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "client/connection.h"
#include "client/memories.h"
#include "client/request.h"
#include "client/verdict.h"
#include "ufd/ufd.h"

/* Where the way back to a daemon has got to; meaningful while the state is UFD_CLIENT_AWAY. */
enum recovery {
	RECOVERY_PAUSING, /* no connection; leaves by the timer: to ASKING */
	RECOVERY_ASKING,  /* Show is sent; leaves by its answer: attached, or to ZEROING */
	RECOVERY_ZEROING, /* discarded bytes get zero pages, step by step; then Attach: to HANDING
			   */
	RECOVERY_HANDING, /* Attach is sent; leaves by its answer: attached */
			  /* Each leaves by trouble or time-out: to PAUSING. */
};

struct ufd_client {
	struct ufd_client_opts opts; /* guest is owned; socket_path and connection are not kept */
	struct memories memories;
	struct connection connection;
	int uffd;	/* owned */
	int pagemap;	/* owned; -EBADF if /proc/self/pagemap cannot be read */
	int timer;	/* owned; polled through the connection's epoll */
	uint32_t state; /* enum ufd_client_state */
	enum recovery recovery;
	bool is_scan;	      /* the uffd has asynchronous write-protection */
	bool is_again;	      /* it was attached before: existing pages count as present */
	bool is_uncertain;    /* an Attach was sent and not answered */
	bool is_refusal_told; /* since the daemon was lost */
	json_int_t pid_there; /* our pid as the daemon sees it; 0 if it never said */
	uint64_t pause_ns;    /* before the next attempt to reconnect */
	uint32_t events;      /* bit N: event N is to be told */
	char error[VERDICT_TEXT_BYTES + 64];
};

DEFINE_CLEANUP(struct ufd_client, ufd_client_free)

/* Remember what went wrong. Return: @error. */
int client_fail(struct ufd_client *client, int error, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* For a call that starts now. Return: CLOCK_MONOTONIC nanoseconds, 0 for ever. */
uint64_t client_deadline(const struct ufd_client *client, uint64_t timeout_ns);

/**
 * client_call() - ask the daemon, and wait
 * @what:       begins the sentence of ufd_client_error()
 * @ret_answer: may be NULL; overwritten on success only
 *
 * Return: 0; the errno of a refusal, with the connection intact; -ENOTCONN with nothing sent; or
 *         -ETIMEDOUT, -ECONNRESET, -EPROTO, other -errno, and then the daemon is lost.
 */
int client_call(struct ufd_client *client, const char *what, const char *method,
		const struct request *request, uint64_t deadline_ns,
		struct varlink_answer *ret_answer);

/* The connection is of no further use; an attached guest goes looking for its daemon. */
void client_lose(struct ufd_client *client);

/* The guest is in the daemon's hands. */
void client_set_attached(struct ufd_client *client, const struct varlink_answer *answer);

/* What Attach hands over. */
struct handover client_handover(const struct ufd_client *client);

void client_disarm(struct ufd_client *client);
