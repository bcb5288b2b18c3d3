/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Other processes that map a guest's memories: each is attached by pid, so that it waits for its
 * pages, too. */
#pragma once

struct arrival_rights;
struct plan;
struct refusal;
struct paging;

/**
 * others_attach() - attach to every process that maps a memory of the plan and is no mapper yet
 *
 * Context: job, without the lock; blocks for seconds a process.
 * Return: 0, or -ECANCELED with @refusal set; those attached so far stay mappers.
 */
int others_attach(struct paging *paging, const struct plan *plan,
		  const struct arrival_rights *rights, struct refusal *refusal);
