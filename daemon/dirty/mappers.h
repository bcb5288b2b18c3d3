/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Processes that map a guest's memory: what those write that are not the guest's, nobody sees. */
#pragma once

#include <jansson.h>

struct arrival_rights;
struct refusal;
struct registration;

/**
 * mappers_attach() - every other process that maps a memory becomes one of the guest's
 *
 * Context: job, without the lock; traces processes. Return: 0, or -ECANCELED with @refusal set.
 */
int mappers_attach(struct registration *registration, const struct arrival_rights *rights,
		   struct refusal *refusal);

/*
 * A warning for each memory that others map. To look reads all of /proc, so it is done in a
 * twentieth of the time at most; in between, what was seen last is told. @warnings: array of texts.
 * Context: job, with the guest's dirty_lock, without the engine's.
 */
void mappers_warn(struct registration *registration, json_t *warnings);
