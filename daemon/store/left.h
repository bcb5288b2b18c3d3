/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Is what was left another's state of the same guest? Asked of what cannot be adopted, so as little as
 * possible is believed: neither records nor a layout that we know.
 */
#pragma once

#include <stdbool.h>

/* Is it a file of the kind that ledgers are: regular, open for reading and writing? */
bool left_is_ledger(int fd);

/* Of two bundles. A userfaultfd stands for its memory. */
bool left_has_same_uffd(int bundle, int other);

/* Of two ledgers. */
bool left_has_same_name(int ledger, int other);
