/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A consumer of what a soak guest writes: it keeps a copy of the guest's memory by nothing but what io.ufd.dirty
 * tells, through any number of deaths of the daemon. What was not answered is asked again.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct soak_guest;
struct soak_memory;

/* Fields are private. */
struct soak_consumer {
	const char *guest, *socket_path;
	struct soak_guest *board;
	const struct soak_memory *memory;
	char *copy;
	uint64_t epoch; /* that it has */
	bool is_lost;	/* the daemon that knew of it is gone, and none took over */
	_Atomic bool must_end;
	pthread_t thread;
};

/* Begin, with a memory that nobody has touched; from then on a thread reads. */
void soak_consumer_start(struct soak_consumer *consumer, const char *guest, const char *socket_path,
			 struct soak_guest *board, const struct soak_memory *memory);

/* Nobody writes any more: read a last time, and compare. Wrong pages are on the board. */
void soak_consumer_end(struct soak_consumer *consumer);
