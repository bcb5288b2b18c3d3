/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A thread of a soak guest: it touches, compares, rewrites and discards the pages that are its own. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct soak_board;
struct soak_guest;
struct soak_memory;
struct soak_paging;
struct soak_thread;

/* One round of one thread. */
struct soak_worker {
	const struct soak_board *all;
	struct soak_guest *board;
	struct soak_thread *thread;
	struct soak_paging *paging;
	struct soak_memory *memory;
	unsigned int index; /* pages are its own modulo SOAK_N_THREADS */
	uint64_t chance;    /* where its random numbers are */
};

/* Visit three quarters of the pages, in random order and in bursts, until told to stop. */
void soak_worker_run(struct soak_worker *worker);

/* Compare all pages, once the daemon has filled what nobody touched. */
void soak_worker_check(struct soak_worker *worker);
