/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Unmodified processes become guests: found by pid or monitor, attached, planned, served. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "attach/plan.h"
#include "attach/process.h"
#include "driver/qmp.h"

struct arrival_rights;
struct refusal;

/* Readable. */
struct bring_target {
	pid_t pid;
	int pidfd;	 /* owned */
	struct qmp *qmp; /* owned; NULL for a process without a monitor */
};
#define BRING_TARGET_NONE       \
	{                       \
		.pidfd = -EBADF \
	}
void bring_target_done(struct bring_target *target);

/* Context of all: job; may block up to the monitor's time. Return: 0, or -ECANCELED with @refusal
 * set. */
int bring_target_by_pid(struct bring_target *ret, pid_t pid, struct refusal *refusal);
int bring_target_by_pidfd(struct bring_target *ret, int pidfd, struct refusal *refusal);
int bring_target_by_qmp(struct bring_target *ret, const char *path, struct refusal *refusal);
int bring_target_by_socket(struct bring_target *ret, int socket, struct refusal *refusal);

/* Context: any. */
bool bring_is_socket(int fd);

/**
 * bring_plan() - everything that was found, from one source
 *
 * A `file:` serves one memory only: nobody can guess how several would lie in it.
 * Context: any. Return: 0 with a plan that borrows from the others, or -ECANCELED.
 */
int bring_plan(const struct process_memories *memories, const char *source, int source_fd,
	       struct plan *ret, struct refusal *refusal);

/* One memory of a plan that is put together elsewhere. */
int bring_plan_add(struct plan *plan, const struct process_memory *memory, const char *source,
		   int source_fd);

/**
 * bring() - attach and serve
 *
 * After a failure the process is as it was. Context: job; blocks. Return: 0, or -ECANCELED.
 */
int bring(struct paging *paging, struct bring_target *target, const struct plan *plan,
	  const struct arrival_rights *rights, struct refusal *refusal);
