/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where ledgers and handles outlive us.
 *
 *	systemd		$NOTIFY_SOCKET and a store ($FDSTORE, which systemd sets since 254, or
 *			$UFD_FDSTORE_MAX, which the unit sets): two fds a guest, its ledger (`l` and a
 *			number in base 36) and its bundle (`b` and the same number): names of at most 5
 *			characters, for all names of the service together are one environment string of
 *			at most 128 KiB
 *	directory	--state-dir on a tmpfs: the ledger is a file GUEST.ledger there; the handles are
 *			fetched from the guest's processes again (refetch.h)
 *	none		guests do not outlive us; clients attach anew
 *
 * With both, systemd keeps guests while the service runs or restarts, and on the way out
 * (store_park()) ledgers are copied into the directory, for a manager that drops the store of a
 * stopped service (systemd before 254).
 *
 * Whatever the back end, each guest has a number and a bundle, so that all of them can be handed to
 * a successor that is exec()ed in our place (store_list()).
 *
 * Context: main thread or job, one call at a time (the registry's engine lock).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <ufd/pager.h>

#include "base/cleanup.h"
#include "store/number.h"

struct sockets;
struct store;

/* One guest that was kept. */
struct stored {
	char number[STORE_NUMBER_BYTES]; /* "" if only the directory has it */
	char *path;			 /* owned; of the file in the directory, else NULL */
	int ledger;			 /* owned */
	int bundle;			 /* owned; -EBADF if there is none */
};
void stored_free(struct stored *stored, size_t n_stored);
/* The fds only. */
void stored_close(struct stored *stored);

/* @state_dir: NULL or "" for none; made if missing. Return: 0, -EMEDIUMTYPE (no tmpfs), -EBUSY (another ufdd has it), -errno. */
int store_new(struct store **ret, const char *state_dir);
struct store *store_free(struct store *store); /* forgets; drops nothing */
DEFINE_CLEANUP(struct store, store_free)

/* Does the service manager keep them? */
bool store_is_systemd(const struct store *store);
/* Do they outlive that the service is stopped, too? What systemd keeps may go then. */
bool store_outlives_stop(const struct store *store);
/* `systemd`, `directory`, `none` */
const char *store_word(const struct store *store);
/* The directory; NULL if there is none. */
const char *store_directory(const struct store *store);

/* Listening sockets, which have places of their own. Borrowed. */
struct sockets *store_sockets(struct store *store);

/* What is taken up. @ret_name_bytes: of all names of stored fds and sockets, each with a `:`. */
void store_count(const struct store *store, size_t *ret_n_fds, size_t *ret_name_bytes);
/* As many fds as systemd keeps for us; 0 without it. */
size_t store_most_fds(const struct store *store);

/**
 * store_offer() - an fd that we were started with
 *
 * Return: true if it is the store's by its name; consumed then.
 */
bool store_offer(struct store *store, const char *name, int fd);

/**
 * store_take() - after the last store_offer(): what was left, also in the directory
 * @ret:    owned array, for stored_free(); its fds are duplicates: the store keeps its own
 * @report: told in a sentence of each fd without its partner, or of another kind than its name says
 *
 * What nobody adopts and nobody drops stays where it is. Return: 0 or -errno.
 */
int store_take(struct store *store, struct stored **ret, size_t *ret_n,
	       void (*report)(void *userdata, const char *sentence), void *userdata);

/* It cannot be adopted, and stays: until its process hands the guest over anew. "" is fine. */
void store_leave(struct store *store, const char *number);
/* Is one left whose guest has the name of this ledger's? */
bool store_has_left(const struct store *store, int ledger);

/* Never to be asked for again: its processes have ended. */
void store_discard(struct store *store, const struct stored *stored);

/**
 * store_keep() - the guest's ledger and handles, as they are now
 * @number: the guest's place in the store; made if empty, kept for the guest's life
 *
 * The first time both fds are sent, then a barrier (sd_notify_barrier) says that the manager has
 * them; later only what is in the bundle is replaced, which needs nobody. What was left of the same
 * memory goes: it would be stale. Return: 0, -ETIMEDOUT
 * (the manager does not answer), -errno; then nothing new is in the store.
 */
int store_keep(struct store *store, struct ufd_pager_guest *guest,
	       char number[static STORE_NUMBER_BYTES]);

/*
 * What the ledgers of our guests ask of whoever reads them, from now on: those that are kept, and
 * those to come. While an upgrade can be rolled back it is the layout of the program before; what
 * nobody adopted is left alone.
 */
void store_set_min_reader(struct store *store, uint32_t layout);

/* The guest is gone for good: after it was unregistered and freed. "" is fine. */
void store_drop(struct store *store, const char *number);

/**
 * store_park() - copy a guest's ledger into the directory
 *
 * After ufd_pager_guest_leave(): nobody writes into it any more. Does nothing without a directory, or
 * if the ledger is a file there anyway. Return: 0 or -errno.
 */
int store_park(struct store *store, const char *guest_name, const char *number);

/**
 * store_list() - everything, for a successor that is exec()ed
 * @ret: owned array; the fds are borrowed, and O_CLOEXEC. He gives each to store_offer()
 */
struct store_fd {
	char name[16];
	int fd;
};
int store_list(const struct store *store, struct store_fd **ret, size_t *ret_n);
