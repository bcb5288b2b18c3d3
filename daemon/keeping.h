/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Guests are kept: what struct paging_keeper asks for, by the store. */
#pragma once

#include <stdbool.h>

#include "base/cleanup.h"

struct keeping;
struct paging;
struct registration;
struct registry;
struct store;

/**
 * keeping_new() - from now on
 * @registry:  borrowed
 * @state_dir: as for store_new()
 *
 * Context: main. Return: 0, or -errno of store_new().
 */
int keeping_new(struct keeping **ret, struct registry *registry, const char *state_dir);
struct keeping *keeping_free(struct keeping *keeping); /* after the registry */
DEFINE_CLEANUP(struct keeping, keeping_free)

struct store *keeping_store(struct keeping *keeping);

/*
 * Write everything that is known of a guest into its ledger, and its handles into its bundle.
 * Context: who has the engine's lock. Return: 0 or -errno.
 */
int keeping_write(struct keeping *keeping, struct registration *registration);

/**
 * keeping_may_leave() - can we end now without harm to this guest?
 *
 * Every living process of it holds a copy of its userfaultfd (asked now, for a process may have closed
 * it), and somebody will serve it again: a successor that finds its ledger, or the client itself,
 * which attaches anew. A guest that is complete and has no copies loses nothing when ours go, but
 * must be taken down, for nobody could adopt it.
 * For ending_drain(), with a struct keeping as userdata.
 * Context: who has the engine's lock; reads /proc.
 */
bool keeping_may_leave(void *keeping, struct registration *registration);
