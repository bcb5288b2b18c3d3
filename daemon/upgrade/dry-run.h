/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Would that program take our guests over? It is run as `ufdd --check-ledgers=N` with the ledgers as
 * its fds 3 to N + 2, open for reading only, and says so in one line of JSON on its stdout:
 *
 *	{"ufdd":"0.2.0", "layout":2, "oldest_layout":1, "adoptable":11,
 *	 "refused":[{"ledger":0, "why":"..."}]}
 *
 * `layout` is the newest layout of a ledger that it reads, `oldest_layout` the oldest one that it can
 * write. Whatever says anything else, or nothing in time, is no ufdd that we can go on as.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct refusal;

/* One guest that is to be taken over. */
struct dry_run_guest {
	char name[64];
	int ledger; /* owned by whoever made it */
};

#define DRY_RUN_FIRST_FD   3
#define DRY_RUN_TIMEOUT_NS UINT64_C(10000000000)

/* Readable. */
struct dry_run {
	char version[64];
	uint32_t layout;
	uint32_t oldest_layout;
	size_t n_adoptable;
};

/**
 * dry_run() - start it, listen, end it
 * @binary:  fd of the program
 * @name:    what people call it
 * @guests:  borrowed
 *
 * Context: job; blocks until the program has answered, @timeout_ns at most.
 * Return: 0 if it can take over every guest; -ECANCELED with UpgradeRefused in @refusal.
 */
int dry_run(int binary, const char *name, const struct dry_run_guest *guests, size_t n_guests,
	    uint64_t timeout_ns, struct dry_run *ret, struct refusal *refusal);

/* What it prints. Return: 0, or -ECANCELED with @refusal set. */
int dry_run_parse(const char *text, size_t n_text, const char *name,
		  const struct dry_run_guest *guests, size_t n_guests, struct dry_run *ret,
		  struct refusal *refusal);
