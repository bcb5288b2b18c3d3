/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a support bundle has of guests and processes: how they are, and nothing of what they hold. */
#pragma once

#include <sys/types.h>

struct bundle;
struct ledger;

/*
 * Of a process: status, limits, maps, threads, fds by name, control groups, once in processes/PID.
 * Never its memory, its command line or its environment.
 */
void bundle_add_process(struct bundle *bundle, pid_t pid);

/* The ledger of a guest, decoded: board, flight recorder, memories; then its processes. @path: where
 * it was found. */
void bundle_add_ledger(struct bundle *bundle, struct ledger *ledger, const char *path);
