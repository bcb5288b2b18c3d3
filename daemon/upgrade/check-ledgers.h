/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* `ufdd --check-ledgers=N`: the other side of dry-run.h. */
#pragma once

/**
 * check_ledgers() - look at the ledgers at fds 3 and up, and say on stdout what could be taken over
 * @count: how many, as text
 *
 * Nothing is written to a ledger, and no process or userfaultfd is touched. Return: exit status.
 */
int check_ledgers(const char *count);
