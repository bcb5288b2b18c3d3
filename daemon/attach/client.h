/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Front end `client`: a process hands over its own memory, as Attach and AddRegions of io.ufd.guest
 * say. */
#pragma once

#include <jansson.h>
#include <stddef.h>

#include "attach/plan.h"

struct refusal;

/**
 * client_plan() - from a message to a plan
 * @regions:       fits []Region of the interface; borrowed, and must outlive the plan
 * @fds:           what came with the message; borrowed, likewise
 * @may_use_paths: a SPEC may name a path
 *
 * Looks at the fds (fstat), not at the process.
 * Context: any. Return: 0 with @ret for plan_done(), or -ECANCELED with BadFd, BadRegion, BadSource
 *          or PermissionDenied.
 */
int client_plan(const json_t *regions, const int *fds, size_t n_fds, bool may_use_paths,
		struct plan *ret, struct refusal *refusal);

/**
 * client_check_uffd() - is it one, ready, and as the settings want it
 * @index: as the client counts it, for the refusal
 *
 * Context: any. Return: 0, or -ECANCELED with BadFd.
 */
int client_check_uffd(int uffd, json_int_t index, bool is_wp_sync, struct refusal *refusal);

/* The same for a pagemap. */
int client_check_pagemap(int pagemap, json_int_t index, struct refusal *refusal);
