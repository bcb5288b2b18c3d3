/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Starting ufdd-offload, and what it says until its guest runs. */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "offload/restore.h"

struct job;
struct offloads;
struct refusal;

/*
 * @ret_number: of offloads; OFFLOAD_NONE if it came to nothing, also where an error is returned. Else the
 * caller owes it an offloads_begin().
 * Context: job; blocks until the guest runs, or is loaded and paused. Return: 0, or -ECANCELED with @refusal set.
 */
#define OFFLOAD_NONE UINT32_MAX
int offload_start(struct job *job, struct offloads *offloads, const struct restore_wish *wish,
		  uint32_t *ret_number, struct refusal *refusal);

/* One that goes on with a bundle. @ret_pidfd: owned by the caller. Context: any. Return: 0 or -errno. */
int offload_start_again(int bundle, int *ret_pidfd);
