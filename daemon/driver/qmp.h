/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The driver for QEMU: its machine protocol over a Unix socket. */
#pragma once

#include <sys/types.h>

#include "driver/driver.h"

struct qmp;

/**
 * qmp_connect() - connect, greet, negotiate
 * @path:       the socket of QEMU's `-qmp unix:PATH,server=on,wait=off`
 * @timeout_ns: for this, and for each command later; 0: 10 seconds
 *
 * QEMU serves one client of a monitor at a time: if another one is connected, this waits in its
 * queue until the deadline, and the refusal says so.
 *
 * Context: job; blocks. Return: 0, or -ECANCELED with @refusal set.
 */
int qmp_connect(struct qmp **ret, const char *path, uint64_t timeout_ns, struct refusal *refusal);

/* The same over a connected socket, which is consumed. */
int qmp_adopt(struct qmp **ret, int socket, uint64_t timeout_ns, struct refusal *refusal);

struct qmp *qmp_free(struct qmp *qmp);
DEFINE_CLEANUP(struct qmp, qmp_free)

/* Borrowed; lives as long as @qmp. driver_close() of it frees @qmp. */
struct driver *qmp_driver(struct qmp *qmp);

/*
 * The process that made the socket listen (peer credentials): QEMU itself, unless a launcher opened
 * the socket and handed it down. Whoever pages by this pid checks that it maps the guest's memory.
 */
pid_t qmp_pid(const struct qmp *qmp);
/* Borrowed. */
int qmp_pidfd(const struct qmp *qmp);

/**
 * qmp_call() - one command
 * @arguments: object, consumed; NULL for none
 * @fd:        sent along (getfd), borrowed; -EBADF for none
 * @ret:       new reference to what QEMU returned; may be NULL
 *
 * A late answer to a command that ran into its deadline is dropped when it comes.
 *
 * Context: job; blocks up to call_timeout_ns. Return: 0, or -ECANCELED with @refusal set.
 */
int qmp_call(struct qmp *qmp, const char *command, json_t *arguments, int fd, json_t **ret,
	     struct refusal *refusal);

/* As `query-status` names it: running, paused, inmigrate, postmigrate, ... */
struct qmp_status {
	char name[32];
	bool is_running;
};
int qmp_query_status(struct qmp *qmp, struct qmp_status *ret, struct refusal *refusal);

/**
 * qmp_check_pageable() - is there anything in QEMU that would fight with a pager
 *
 * Its own post-copy and its background snapshots register userfaultfd on the same memory: the guest
 * would be lost. Refuses with io.ufd.guest.CannotAttach, naming the capability and how to turn it
 * off.
 */
int qmp_check_pageable(struct qmp *qmp, struct refusal *refusal);

/*
 * Put an open file into QEMU under @name (`getfd`), for instance /dev/userfaultfd into a QEMU that
 * may not open it; and close it again. A second file of the same name replaces the first.
 */
int qmp_push_fd(struct qmp *qmp, const char *name, int fd, struct refusal *refusal);
int qmp_drop_fd(struct qmp *qmp, const char *name, struct refusal *refusal);
