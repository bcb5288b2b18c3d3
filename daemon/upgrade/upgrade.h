/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which program we are, which one we were before, and the way from one to the other.
 *
 * Theory of operation: an upgrade is a restart without an end. The other program is asked first
 * whether it could take over (dry-run.h). Then calls are waited for, demand threads leave their guests
 * as they are, and it is executed in this process (reexec.h), with the fds that a service manager's
 * store would give it, so that it adopts every guest as after a crash. If it cannot be executed, we
 * execute ourselves again in the same way.
 *
 * The program before is kept as an open file (it may be gone from disk), as `old` and the layout of
 * its ledgers: that is what a ledger may ask of its readers until the upgrade is committed. The
 * service manager keeps it, too, so that being killed does not commit.
 *
 * The two may be of different releases, so what is said between them only grows: names of fds (`old`N,
 * `own-lock`, `reply`, `varlink` and those of the store), and the members of REEXEC_VARIABLE.
 *
 * Context: main thread, unless said otherwise.
 */
#pragma once

#include <jansson.h>
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

struct refusal;
struct store;
struct upgrade;

enum upgrade_kind {
	UPGRADE_NONE, /* we were started, not executed in the place of another */
	UPGRADE_FORWARD,
	UPGRADE_BACK,
	UPGRADE_FAILED, /* the other program could not be executed; this is the one that was */
};

/* What the program before told. Readable. */
struct upgrade_past {
	enum upgrade_kind kind;
	char from[64];	    /* its version */
	char binary[256];   /* what people call the program that was to be executed */
	char error[128];    /* why it was not */
	uint64_t parked_ns; /* CLOCK_MONOTONIC: from then on nobody served */
	uint64_t n_guests;  /* that it served */
	bool is_draining;
};

/* First thing in main: what the program before left in the environment is taken out of it. Return: 0 or -errno. */
int upgrade_new(struct upgrade **ret);
struct upgrade *upgrade_free(struct upgrade *upgrade);
DEFINE_CLEANUP(struct upgrade, upgrade_free)

/* An fd that we were started with. Return: true if it is ours by its name; consumed then. */
bool upgrade_offer(struct upgrade *upgrade, const char *name, int fd);

/*
 * After the last upgrade_offer(): if nobody gave us the program before, it may lie in the state
 * directory; if we have gone back, the one that we come from is forgotten. @store: borrowed.
 */
void upgrade_settle(struct upgrade *upgrade, struct store *store);

const struct upgrade_past *upgrade_past(const struct upgrade *upgrade);

/* The connection on which somebody waits for what became of it. Owned by the caller; -EBADF if none does. */
int upgrade_take_reply(struct upgrade *upgrade);

/* Can we still go back? */
bool upgrade_is_uncommitted(const struct upgrade *upgrade);

/* The least layout that ledgers may ask of their readers now. */
uint32_t upgrade_min_reader(const struct upgrade *upgrade);

/* There is no way back from here on. */
void upgrade_commit(struct upgrade *upgrade);

/* ---- becoming another ---- */

/* Embedded. Readable. */
struct upgrade_target {
	int binary; /* owned */
	char name[256];
	bool is_back; /* the program before */
};
#define UPGRADE_TARGET_NONE ((struct upgrade_target){ .binary = -EBADF })
void upgrade_target_done(struct upgrade_target *target);

/* @path: NULL: what is on disk now where this program was started from. Return: 0, or -ECANCELED with @refusal set. */
int upgrade_target_open(struct upgrade *upgrade, const char *path, struct upgrade_target *ret,
			struct refusal *refusal);
int upgrade_target_before(struct upgrade *upgrade, struct upgrade_target *ret,
			  struct refusal *refusal);

/* One more fd for the successor. */
struct upgrade_fd {
	const char *name;
	int fd; /* borrowed */
};

/* Readable. */
struct upgrade_go {
	const struct upgrade_target *target;
	const struct upgrade_fd *fds;
	size_t n_fds;
	uint64_t n_guests;
	bool is_draining;
	/* Nobody serves from its return on. */
	void (*park)(void *userdata);
	void *userdata;
};

/* Return: only if it cannot be done, before anybody was parked: -ECANCELED with @refusal set. */
int upgrade_go(struct upgrade *upgrade, const struct upgrade_go *go, struct refusal *refusal);
