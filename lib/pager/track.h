/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Tracking, as the other files of this room need it. All hold model_lock; they block on the kernel.
 */
#pragma once

#include "pager/paged.h"

/* The log of a guest whose options are known. */
void track_init(struct ufd_pager_guest *paged);

/* Does anybody want to know what is written? Such a guest does not graduate. */
bool track_is_on(const struct ufd_pager_guest *paged);

/* Modes that a mapping is registered with: all that it ever needs. */
unsigned int track_modes(const struct mapping *mapping);

/* A memory came: it gets its maps. Return: 0, -ENOSPC, -errno. */
int track_memory(struct ufd_pager_guest *paged, struct memory *memory);
void track_forget_memory(struct ufd_pager_guest *paged, struct memory *memory);

/*
 * A mapping came, and is not served yet: it is protected; what exists in a memory that came while
 * it was tracked counts as written. Return: 0, -errno.
 */
int track_mapping(struct ufd_pager_guest *paged, struct mapping *mapping);
/* One is about to go. */
void track_leave(struct ufd_pager_guest *paged, struct mapping *mapping);

/* What the ledger says of consumers. Return: 0, LEDGER_DAMAGED, -errno. */
int track_adopt(struct ufd_pager_guest *paged);
/* What the former process had begun is taken back. Before the demand thread is made. */
void track_recover(struct ufd_pager_guest *paged);

/* ---- track-check.c ---- */

/* Say why in the guest's refusal. Return: always -EOPNOTSUPP. */
__attribute__((format(printf, 2, 3))) int track_refuse(struct ufd_pager_guest *paged,
						       const char *format, ...);
/*
 * All of the guest; a process that came; a memory that came. Return: 0, -EOPNOTSUPP, -ESRCH,
 * -errno.
 */
int track_check(struct ufd_pager_guest *paged);
int track_check_mapper(struct ufd_pager_guest *paged, struct mapper *mapper);
int track_check_memory(struct ufd_pager_guest *paged, const struct memory *memory);

/* ---- bulk.c ---- */

/* Unregister what is complete and tracked by nobody. Takes model_lock itself. */
void bulk_graduate(struct ufd_pager_guest *paged);
