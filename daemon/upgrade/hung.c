/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sources that do not answer. */
#include "upgrade/hung.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/files.h"
#include "base/units.h"
#include "guest/flight.h"
#include "guest/ledger.h"
#include "refusal.h"
#include "upgrade/dry-run.h"

#define DEMAND_THREAD "ufd-demand"
#define LOOK_NS	      (2 * NSEC_PER_MSEC)

/* Since when the oldest read of the guest's waits; 0: none does. */
static uint64_t oldest_read_us(int fd)
{
	_cleanup_(ledger_freep) struct ledger *ledger = NULL;
	uint64_t oldest_us = 0;
	struct board *board;

	if (ledger_open_readonly(&ledger, fd) != 0)
		return 0;
	board = ledger_board(ledger);
	for (size_t i = 0; i < BOARD_N_FILLS; i++) {
		uint64_t read_us = board->fills[i].read_us;

		if (board->fills[i].state == BOARD_READING && read_us &&
		    (!oldest_us || read_us < oldest_us))
			oldest_us = read_us;
	}
	return oldest_us;
}

/* A guest that was detached leaves its thread behind if that waits. */
static size_t count_demand_threads(void)
{
	_cleanup_(closedirp) DIR *tasks = opendir("/proc/self/task");
	struct dirent *entry;
	size_t n = 0;

	while (tasks && (entry = readdir(tasks))) {
		_cleanup_(fclosep) FILE *file = NULL;
		char path[300], name[32] = "";

		snprintf(path, sizeof(path), "/proc/self/task/%s/comm", entry->d_name);
		file = fopen(path, "re");
		if (file && fgets(name, sizeof(name), file))
			n += strcmp(name, DEMAND_THREAD "\n") == 0;
	}
	return n;
}

/* One with a read that began before; NULL if there is none. */
static const struct dry_run_guest *find_waiting(const struct dry_run_guest *guests, size_t n_guests,
						uint64_t before_us, uint64_t *ret_since_us)
{
	for (size_t i = 0; i < n_guests; i++) {
		uint64_t since_us = oldest_read_us(guests[i].ledger);

		if (since_us && since_us < before_us) {
			*ret_since_us = since_us;
			return &guests[i];
		}
	}
	return NULL;
}

/* Reads that are under way now have their time; those of a disk end within it. */
int hung_check(const struct dry_run_guest *guests, size_t n_guests, struct refusal *refusal)
{
	const struct timespec moment = { .tv_nsec = (long)LOOK_NS };
	uint64_t began_us = clock_now_ns() / NSEC_PER_USEC, since_us = 0, now_us;
	const struct dry_run_guest *guest;

	while ((guest = find_waiting(guests, n_guests, began_us, &since_us))) {
		now_us = clock_now_ns() / NSEC_PER_USEC;
		if (now_us > began_us + HUNG_AFTER_MS * 1000)
			return refusal_set(
				refusal, "io.ufd.manager.UpgradeRefused", NULL,
				"the source of guest `%s` has not answered for %llu ms, and "
				"no program can take the place of one that waits for it; "
				"see `ufdctl why %s`",
				guest->name, (unsigned long long)(now_us - since_us) / 1000,
				guest->name);
		nanosleep(&moment, NULL);
	}
	if (count_demand_threads() > n_guests)
		return refusal_set(
			refusal, "io.ufd.manager.UpgradeRefused", NULL,
			"the source of a guest that is gone still owes an answer, and no "
			"program can take the place of one that waits for it");
	return 0;
}
