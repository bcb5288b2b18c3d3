/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The first half of the end of a guest. */
#pragma once

struct ufd_pager_guest;

/**
 * pager_halt() - what ufd_pager_guest_free() does to the guest's processes
 *
 * Nothing is registered any more, but the ledger still says whose it was: for who has more to undo by
 * that. All that may follow is ufd_pager_guest_free().
 * Context: as ufd_pager_guest_free().
 */
void pager_halt(struct ufd_pager_guest *paged);
