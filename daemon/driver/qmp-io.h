/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One QMP connection as its own room sees it: messages in, messages out, deadlines.
 *
 * Context of all: job; block until their deadlines.
 */
#pragma once

#include "driver/qmp.h"

#define QMP_DRIVER_FAILED "io.ufd.guest.DriverFailed"

struct qmp {
	struct driver driver; /* first: the vtable's functions get this */
	int socket;	      /* owned, O_NONBLOCK */
	int pidfd;	      /* owned */
	pid_t pid;
	uint64_t last_id; /* of the last command sent */
	json_t *answer;	  /* owned; to that command, NULL until it came */
	bool is_greeted;
	char version[32];
	char migration[32]; /* what the last MIGRATION event said; emptied by who waits for one */
	char *input;	    /* owned; bytes of unfinished lines */
	size_t n_input;
	size_t n_allocated;
};

/* Send one message, with @fd attached if there is one. Return: 0, or -ECANCELED with @refusal set.
 */
int qmp_send(struct qmp *qmp, json_t *message, int fd, uint64_t deadline_ns,
	     struct refusal *refusal);

/* Take in what is there, without waiting: events, greeting, the answer. */
int qmp_receive(struct qmp *qmp, struct refusal *refusal);

/**
 * qmp_wait() - sleep until QEMU said something or @other can go on
 * @other:         a second fd to watch; -EBADF for none
 * @events:        what to watch it for
 * @ret_is_ready:  @other has one of @events; may be NULL
 * @doing:         words for the refusal at the deadline
 */
int qmp_wait(struct qmp *qmp, int other, short events, bool *ret_is_ready, uint64_t deadline_ns,
	     const char *doing, struct refusal *refusal);

/* qmp-state.c */
int qmp_save(struct driver *driver, int state_fd, uint64_t *ret_bytes, struct refusal *refusal);
int qmp_remember(struct driver *driver, uint32_t *ret_state, struct refusal *refusal);
int qmp_recall(struct driver *driver, uint32_t state, struct refusal *refusal);
int qmp_load(struct driver *driver, int state_fd, struct refusal *refusal);
