/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Fillers and readers racing for the same pages.
 *
 * Two threads fill every page with bytes of their own, one page after the other and in step, while a
 * third one reads. Each page must go to exactly one filler, and nobody may see bytes of both. They race
 * in rounds of a few pages, for as long as there is time: an emulated CPU does not get far.
 */
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/units.h"
#include "probe/lab.h"
#include "probe/table.h"

#define MISSING	   UFFDIO_REGISTER_MODE_MISSING
#define N_FILLERS  2
#define N_PAGES	   256
#define N_ROUND	   16 /* pages of a round */
#define TIME_NS	   (100 * NSEC_PER_MSEC)
#define FIRST_BYTE 0x40 /* of the first filler; the next one's is one more */

struct race;

struct filler {
	struct race *race;
	uint8_t *bytes; /* a page of them */
	int results[N_PAGES];
};

struct race {
	struct lab_memory memory;
	int uffd;
	struct filler fillers[N_FILLERS];
	unsigned int first;    /* page of this round */
	atomic_uint n_arrived; /* at the starting line of all its pages so far */
};

/* A page of @at that holds bytes of one filler only; returns the filler, or -1. */
static int whose(const struct race *race, const uint8_t *at)
{
	for (size_t i = 1; i < race->memory.page_bytes; i++)
		if (at[i] != at[0])
			return -1;
	return at[0] >= FIRST_BYTE && at[0] < FIRST_BYTE + N_FILLERS ? at[0] - FIRST_BYTE : -1;
}

/* In step: nobody begins with page @i before the other one is ready for it. */
static intptr_t fill_all(void *argument)
{
	struct filler *filler = argument;
	struct race *race = filler->race;

	for (unsigned int i = 0; i < N_ROUND; i++) {
		unsigned int page = race->first + i;

		atomic_fetch_add(&race->n_arrived, 1);
		while (atomic_load(&race->n_arrived) < (i + 1) * N_FILLERS)
			sched_yield();
		filler->results[page] = lab_copy(race->uffd, lab_page(&race->memory, page),
						 filler->bytes, race->memory.page_bytes, 0, NULL);
	}
	return 0;
}

/* The number of pages that were torn when they were first seen. */
static intptr_t read_all(void *argument)
{
	struct race *race = argument;
	intptr_t n_torn = 0;

	for (unsigned int i = 0; i < N_ROUND; i++)
		n_torn += whose(race, lab_page(&race->memory, race->first + i)) < 0;
	return n_torn;
}

/* Pages for which the fillers' results are not one 0 and EEXIST else, or the winner's bytes are not there. */
static unsigned int count_disputed(const struct race *race, unsigned int n_pages)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < n_pages; i++) {
		int n_won = 0, n_lost = 0, winner = -1;

		for (int j = 0; j < N_FILLERS; j++) {
			n_lost += race->fillers[j].results[i] == -EEXIST;
			if (race->fillers[j].results[i] == 0) {
				n_won++;
				winner = j;
			}
		}
		n += n_won != 1 || n_lost != N_FILLERS - 1 ||
		     whose(race, lab_page(&race->memory, i)) != winner;
	}
	return n;
}

/* One round. Return: the pages that the reader saw torn. */
static intptr_t run_round(struct probe_run *run, struct race *race)
{
	struct lab_thread *threads[N_FILLERS], *reader;

	atomic_store(&race->n_arrived, 0);
	reader = lab_start(run, read_all, race);
	for (int j = 0; j < N_FILLERS; j++)
		threads[j] = lab_start(run, fill_all, &race->fillers[j]);
	for (int j = 0; j < N_FILLERS; j++)
		lab_join(run, threads[j]);
	return lab_join(run, reader);
}

static struct race *prepare(struct probe_run *run, enum lab_backing backing)
{
	struct race *race = calloc(1, sizeof(*race));

	probe_must(run, race, "calloc()");
	race->memory = lab_map(run, backing, N_PAGES);
	race->uffd = lab_uffd(run, 0);
	lab_register(run, race->uffd, &race->memory, MISSING);
	for (int j = 0; j < N_FILLERS; j++) {
		race->fillers[j].race = race;
		race->fillers[j].bytes = malloc(race->memory.page_bytes);
		probe_must(run, race->fillers[j].bytes, "malloc()");
		memset(race->fillers[j].bytes, FIRST_BYTE + j, race->memory.page_bytes);
	}
	return race;
}

static void try_race(struct probe_run *run, enum lab_backing backing)
{
	struct race *race = prepare(run, backing);
	uint64_t until_ns = clock_now_ns() + TIME_NS;
	unsigned int n_disputed;
	intptr_t n_torn = 0;

	do {
		n_torn += run_round(run, race);
		race->first += N_ROUND;
	} while (race->first < N_PAGES && clock_now_ns() < until_ns);
	n_disputed = count_disputed(race, race->first);
	probe_detail(run, "%d fillers and a reader raced through %u pages: %u disputed, %ld torn",
		     N_FILLERS, race->first, n_disputed, (long)n_torn);
	probe_answer(run, "%s", n_torn ? "torn" : n_disputed ? "disputed" : "one each");
}

static void try_anon(struct probe_run *run)
{
	try_race(run, LAB_ANON);
}

static void try_shmem(struct probe_run *run)
{
	try_race(run, LAB_SHMEM);
}

static const struct probe_check checks[] = {
	{
		.id = "fill.race-anon",
		.group = PROBE_FILL,
		.title = "Of two racing fills of an anonymous page one succeeds, and none is torn",
		.wanted = "one each",
		.is_needed = true,
		.consequence = "a guest could see bytes of two fills in one page",
		.run = try_anon,
	},
	{
		.id = "fill.race-shmem",
		.group = PROBE_FILL,
		.title = "Of two racing fills of a page of a memfd one succeeds, and none is torn",
		.wanted = "one each",
		.is_needed = true,
		.consequence = "a guest could see bytes of two fills in one page",
		.run = try_shmem,
	},
};

const struct probe_family probe_family_fill_race = PROBE_FAMILY(checks);
