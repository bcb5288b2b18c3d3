/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What of these ledgers could be taken over. */
#include "upgrade/check-ledgers.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "guest/ledger.h"
#include "guest/memory.h"
#include "guest/roster.h"
#include "upgrade/dry-run.h"
#include "upgrade/release.h"

#define MAX_REFUSED 16 /* that many are told by name */

enum { EXIT_USAGE = 2 };

/* Return: NULL if it fits, else what does not. */
static const char *check_records(const struct ledger *ledger)
{
	struct recorded_mapper mapper;
	struct recorded_mapping mapping;
	struct memory_config memory;
	uint32_t cursor = 0;
	int r;

	while ((r = roster_next(ledger, &cursor, &mapping)) == 0) {
		if (memory_recorded(ledger, mapping.memory, &memory) != 0)
			return "a mapping shows a memory that is not recorded";
		if (roster_get_mapper(ledger, mapping.mapper, &mapper) != 0)
			return "a mapping belongs to a process that is not recorded";
	}
	return r == -ENOENT ? NULL : "the records of its mappings are damaged";
}

static const char *check_ledger(int fd)
{
	_cleanup_(ledger_freep) struct ledger *ledger = NULL;
	int r = ledger_open_readonly(&ledger, fd);

	if (r == LEDGER_TOO_NEW)
		return "its ledger asks for a newer release";
	if (r == LEDGER_DAMAGED)
		return "its ledger is damaged";
	return r < 0 ? strerror(-r) : check_records(ledger);
}

int check_ledgers(const char *count)
{
	json_t *refused = json_array(), *answer;
	json_int_t n_adoptable = 0;
	unsigned long n;
	char *end;

	errno = 0;
	n = strtoul(count, &end, 10);
	if (errno || !*count || *end || n > INT_MAX - DRY_RUN_FIRST_FD) {
		fprintf(stderr, "ufdd: --check-ledgers wants a number, not `%s`\n", count);
		json_decref(refused);
		return EXIT_USAGE;
	}
	for (unsigned long i = 0; i < n; i++) {
		const char *why = check_ledger(DRY_RUN_FIRST_FD + (int)i);

		if (!why)
			n_adoptable++;
		else if (json_array_size(refused) < MAX_REFUSED)
			json_array_append_new(refused, json_pack("{s:I, s:s}", "ledger",
								 (json_int_t)i, "why", why));
	}
	answer = json_pack("{s:s, s:I, s:I, s:I, s:o}", "ufdd", release_version, "layout",
			   (json_int_t)ledger_layout, "oldest_layout", (json_int_t)LEDGER_OLDEST,
			   "adoptable", n_adoptable, "refused", refused);
	if (!answer || json_dumpf(answer, stdout, JSON_COMPACT) < 0)
		return EXIT_FAILURE;
	json_decref(answer);
	putchar('\n');
	return fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
