/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How a guest comes into being, whatever front end brings it: a plan, other mappers, the start. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "attach/plan.h"

struct refusal;

/* Whose processes may be attached to on the way (settings.other_mappers = attach). */
struct arrival_rights {
	uid_t caller;
	bool is_admin;
};

/**
 * arrival_prepare() - an engine guest for a paging, if it still fits; nothing is in it yet
 * @uffd: of its first process, which says how writes can be tracked; -EBADF: is made later, by us
 *
 * After a failure paging->guest is NULL.
 * Context: job, without the lock. Return: 0, or -ECANCELED with @refusal set.
 */
int arrival_prepare(struct paging *paging, const struct plan *plan, pid_t pid, int uffd,
		    struct refusal *refusal);

/**
 * arrival_begin() - carry out the plan, and serve
 *
 * After arrival_prepare(). After a failure paging->guest is NULL, and the processes are as they were.
 * Context: job, without the lock; blocks. Return: 0, or -ECANCELED with @refusal set.
 */
int arrival_begin(struct paging *paging, const struct plan *plan, const struct plan_mapper *mapper,
		  const struct arrival_rights *rights, struct refusal *refusal);
