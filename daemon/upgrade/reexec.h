/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Becoming another program without ending: the process, its pid, its place under the service manager
 * and the file descriptors that matter stay, everything else is new.
 *
 * Theory of operation: fds are handed over as a service manager would (LISTEN_FDS, LISTEN_FDNAMES,
 * LISTEN_PID; from 3 on), so a program that can be started by one can be started by us. All that can
 * fail is done by reexec_prepare(), while guests are still served; reexec_go() renumbers and executes.
 * What the service manager gave us before ($NOTIFY_SOCKET, the watchdog) stays in the environment.
 *
 * Context: main thread.
 */
#pragma once

#include <jansson.h>

#include "base/cleanup.h"

struct reexec;

#define REEXEC_VARIABLE "UFD_UPGRADE" /* what the program before tells: a JSON object */

int reexec_new(struct reexec **ret);
struct reexec *reexec_free(struct reexec *reexec);
DEFINE_CLEANUP(struct reexec, reexec_free)

/* @fd: borrowed until reexec_prepare(), which duplicates it. Return: 0 or -ENOMEM. */
int reexec_add(struct reexec *reexec, const char *name, int fd);

/*
 * @binary, @fallback: programs; the latter is executed if the former cannot be.
 * Return: 0, -EMFILE (RLIMIT_NOFILE), -ENOMEM, -errno of reading our arguments.
 */
int reexec_prepare(struct reexec *reexec, int binary, int fallback);

/**
 * reexec_go() - the end of this program
 * @past: for the successor; the fallback finds `error` in it, too
 *
 * Other threads, if any, keep their fds, and end with this program. SIGTERM, SIGINT and SIGHUP are blocked until
 * the successor unblocks them (reexec_unblock_signals()): they wait for it.
 */
_Noreturn void reexec_go(struct reexec *reexec, json_t *past);

/* Of a successor, when its handlers are there. Harmless in any other process. */
void reexec_unblock_signals(void);

/* How this program was called, with the name of its file first. Borrowed texts in @ret_block; both owned. */
int reexec_arguments(char ***ret, char **ret_block);
