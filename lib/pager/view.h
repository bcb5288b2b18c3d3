/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A guest as those see it who copy its memory. */
#pragma once

struct guest_views;
struct ufd_pager_guest;

/**
 * pager_view() - the memories there are now
 * @ret: owned by the caller; good whatever becomes of the guest
 *
 * Context: any; blocks for the model's lock. Return: 0, -EBADMSG (its ledger), -errno.
 */
int pager_view(struct ufd_pager_guest *paged, struct guest_views *ret);
