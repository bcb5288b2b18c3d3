/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The records of the façade in a ledger: what a guest was asked to be, and where its bytes come from.
 * For the façade, and for those who look at ledgers and start nothing.
 *
 * Context of all: any; may block on the ledger's mutex.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "source/source.h"
#include "ufd/pager.h"

struct ledger;

/* Readable. */
struct kept_guest {
	struct ufd_pager_guest_opts opts;
	bool is_started, is_graduated;
};

/* Return: 0, -ENOSPC. */
int kept_guest_put(struct ledger *ledger, const struct kept_guest *guest);

/*
 * Of any age: what an older release did not write is zero; nothing is checked against this host.
 * Return: 0, -ENOENT, LEDGER_DAMAGED, -E2BIG (an option in use that only a newer release knows).
 */
int kept_guest_get(const struct ledger *ledger, struct kept_guest *ret);

/* Readable. */
struct kept_source {
	struct source_identity identity; /* of a file, as it was when it was opened */
	bool is_file;
	char *spec; /* owned; "" if it cannot be made again */
};

/* The source of memory @id. Return: 0, -ENOSPC. */
int kept_source_put(struct ledger *ledger, uint32_t id, const struct kept_source *source);

/* Return: 0, -ENOENT, LEDGER_DAMAGED, -ENOMEM. */
int kept_source_get(const struct ledger *ledger, uint32_t id, struct kept_source *ret);
void kept_source_done(struct kept_source *source);
