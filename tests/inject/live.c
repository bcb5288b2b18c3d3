/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A hash table of fixed size: it must not allocate what it counts. */
#include "inject/live.h"

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define N_ENTRIES 65536

extern const char __executable_start[];

static struct entry {
	const void *at;
	const void *caller;
} entries[N_ENTRIES];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static size_t place_of(const void *at)
{
	return (size_t)(((uintptr_t)at >> 4) * UINT64_C(0x9e3779b97f4a7c15) >> 48) % N_ENTRIES;
}

void live_add(const void *at, const void *caller)
{
	size_t i = place_of(at);

	pthread_mutex_lock(&lock);
	for (size_t n = 0; entries[i].at; n++, i = (i + 1) % N_ENTRIES)
		if (n == N_ENTRIES)
			abort();
	entries[i] = (struct entry){ at, caller };
	pthread_mutex_unlock(&lock);
}

/* What follows in a row moves up, so that no search ends too early. */
static void take_out(size_t hole)
{
	for (size_t i = (hole + 1) % N_ENTRIES; entries[i].at; i = (i + 1) % N_ENTRIES) {
		size_t home = place_of(entries[i].at);

		if ((i - home) % N_ENTRIES < (i - hole) % N_ENTRIES)
			continue;
		entries[hole] = entries[i];
		hole = i;
	}
	entries[hole] = (struct entry){};
}

void live_remove(const void *at)
{
	size_t i = place_of(at);

	pthread_mutex_lock(&lock);
	while (entries[i].at && entries[i].at != at)
		i = (i + 1) % N_ENTRIES;
	if (entries[i].at)
		take_out(i);
	pthread_mutex_unlock(&lock);
}

size_t live_report(void)
{
	size_t n = 0;

	for (size_t i = 0; i < N_ENTRIES; i++) {
		if (!entries[i].at)
			continue;
		fprintf(stderr, "still there: %p, asked for at @%#lx\n", entries[i].at,
			(unsigned long)((const char *)entries[i].caller - __executable_start));
		n++;
	}
	return n;
}
