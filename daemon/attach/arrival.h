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
 * arrival_begin() - an engine guest for a paging, carrying out a plan
 *
 * After a failure paging->guest is NULL, and the processes are as they were.
 * Context: job, without the lock; blocks. Return: 0, or -ECANCELED with @refusal set.
 */
int arrival_begin(struct paging *paging, const struct plan *plan, const struct plan_mapper *mapper,
		  const struct arrival_rights *rights, struct refusal *refusal);
