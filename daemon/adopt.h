/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * On start: every guest that was left is served again before we say that we are ready.
 *
 *	1 gather	store_offer() for each fd, store_take()
 *	2 adopt		ufd_pager_guest_adopt() with the bundle's handles; what is missing is refetched.
 *			Guests whose processes have ended are dropped; one that was arriving or leaving
 *			is taken down (unregistered, an attached process let go); one that cannot be
 *			adopted is left in the store, untouched and reported: a later release or an
 *			operator may mend it
 *	3 describe	the registration from the daemon's own records (record.h)
 *	4 start		replay, WAKE, serve. Those of whose threads some wait already go first
 *	5 keep		what was refetched goes into the store, too
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct keeping;
struct registry;
struct store;

/* Readable. */
struct adopted {
	size_t n_served;
	size_t n_dropped; /* their processes had ended, or they had never been served */
	size_t n_left;	  /* could not be adopted */
	uint64_t took_ns;
};

/* Context: main, before the loop runs. Return: 0 or -errno of our own needs. */
int adopt_all(struct store *store, struct registry *registry, struct keeping *keeping,
	      struct adopted *ret);
