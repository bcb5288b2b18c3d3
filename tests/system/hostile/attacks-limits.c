/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A daemon that is short of what others take. */
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "attacks.h"
#include "kernel/features.h"
#include "kernel/uffd.h"
#include "party.h"

#define N_GUESTS 24

/* As many guests as it takes, each with a userfaultfd and a piece of its own. */
static void take_all(struct party *party)
{
	int uffds[N_GUESTS];

	for (int i = 0; i < N_GUESTS; i++)
		if (uffd_open(&uffds[i], UFFD_WAY_SYSCALL, features_wanted(false)) < 0)
			_exit(2);
	party_begin(party);
	for (int round = 0; party_goes_on(party); round++) {
		int i = round % N_GUESTS;
		uint64_t first = (uint64_t)i * 8;
		char name[16];

		snprintf(name, sizeof(name), "greedy%d", i);
		party->fds[FD_UFFD] = uffds[i];
		if (round / N_GUESTS % 2) {
			(void)party_call(party, "io.ufd.guest.Detach",
					 json_pack("{s:s}", "name", name), NULL, 0);
			(void)madvise(party->bytes + first * PAGE, 8 * PAGE, MADV_REMOVE);
		} else {
			(void)party_call(
				party, "io.ufd.guest.Attach",
				party_attach_call(name,
						  json_pack("[o]", party_region(party, first, 8)),
						  false),
				party->fds, N_FDS);
		}
	}
}

/* Handles that stay in flight, by the hundred. */
static void take_all_handles(struct party *party)
{
	int fds[250];

	party_begin(party);
	for (int i = 0; i < 250; i++)
		fds[i] = party->fds[FD_SOURCE];
	while (party_goes_on(party)) {
		(void)party_call(party, "io.ufd.manager.Status", json_object(), fds, 250);
		(void)party_call(
			party, "io.ufd.guest.Attach",
			party_attach_call("greedy",
					  json_pack("[o]", party_region(party, 0, PARTY_N_PAGES)),
					  true),
			party->fds, N_FDS);
		(void)party_call(party, "io.ufd.guest.Detach", json_pack("{s:s}", "name", "greedy"),
				 NULL, 0);
		(void)madvise(party->bytes, PARTY_BYTES, MADV_REMOVE);
	}
}

const struct attack attacks_at_limits[] = {
	{ "few handles, many messages with some", take_all_handles, { .nofile = 256 } },
	{ "few handles, many guests", take_all, { .nofile = 256 } },
	{ "little address space", take_all, { .as_bytes = 8 * GIB } },
	{ "no memory to lock", take_all, { .no_memlock = true } },
	{},
};
