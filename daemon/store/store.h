/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where ledgers and handles outlive us.
 *
 *	systemd		$NOTIFY_SOCKET: two fds a guest, its ledger (`l` and a number in base 36) and its
 *			bundle (`b` and the same number): names of at most 5 characters, for all names
 *			of the service together are one environment string of at most 128 KiB
 *	directory	--state-dir on a tmpfs: the ledger is a file GUEST.ledger there; the handles are
 *			fetched from the guest's processes again (refetch.h)
 *	none		guests do not outlive us; clients attach anew
 *
 * With both, systemd keeps guests while the service runs or restarts, and on the way out
 * (store_park()) ledgers are copied into the directory, for a manager that drops the store of a
 * stopped service (systemd before 254).
 *
 * Context: main thread or job, one call at a time (the registry's engine lock).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include <ufd/pager.h>

#include "base/cleanup.h"

struct store;

/* One guest that was kept. @ledger, @bundle: owned; @bundle is -EBADF if there is none. */
struct stored {
	char number[5]; /* "" in a directory */
	char *path;	/* owned; of the file, else NULL */
	int ledger;
	int bundle;
};

/* @state_dir: NULL or "" for none; made if missing. Return: 0, -EMEDIUMTYPE (no tmpfs), -errno. */
int store_new(struct store **ret, const char *state_dir);
struct store *store_free(struct store *store); /* forgets; drops nothing */
DEFINE_CLEANUP(struct store, store_free)

/* Do guests outlive our death? (systemd with a store, or a directory) */
bool store_is_there(const struct store *store);
bool store_is_systemd(const struct store *store);

/**
 * store_offer() - an fd that we were started with
 *
 * Return: true if it is the store's by its name; consumed then.
 */
bool store_offer(struct store *store, const char *name, int fd);

/* After the last store_offer(): what was left, also in the directory. An fd without its partner is told by @report.
 * @ret: owned array; the caller frees each entry's members. Return: 0 or -errno. */
int store_take(struct store *store, struct stored **ret, size_t *ret_n,
	       void (*report)(void *userdata, const char *sentence), void *userdata);

/**
 * store_keep() - the guest's ledger and handles, as they are now
 * @number: the guest's place in the store; made if empty, kept for the guest's life
 *
 * The first time both fds are sent, then a barrier (sd_notify_barrier) says that the manager has
 * them; later only what is in the bundle is replaced, which needs nobody. Return: 0, -ETIMEDOUT
 * (the manager does not answer), -errno; then nothing new is in the store.
 */
int store_keep(struct store *store, struct ufd_pager_guest *guest, char number[static 5],
	       int *bundle);

/* The guest is gone for good: after it was unregistered and freed. */
void store_drop(struct store *store, const char *guest_name, const char *number);

/* See above; false if there is no directory. Return: 0 or -errno. */
int store_park(struct store *store, struct ufd_pager_guest *guest);

/* Duplicates without O_CLOEXEC and LISTEN_FDS-style environment for a successor that is exec()ed: see upgrade.h.
 * @names: owned text for LISTEN_FDNAMES; fds are numbered from SD_LISTEN_FDS_START on by the caller. */
struct store_fd {
	char name[16];
	int fd; /* borrowed */
};
int store_list(struct store *store, struct store_fd **ret, size_t *ret_n);
