/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A source that answers when it is told to, with the pattern of support/paged-child.h. */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "ufd/pager.h"

#define N_HELD 64

struct held {
	struct ufd_read *read;
	void *buffer;
	uint64_t offset, length;
};

struct gate {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct held held[N_HELD];
	unsigned int n;
	bool is_open;
	_Atomic int error;
	_Atomic int extent; /* what extent() answers */
	_Atomic uint64_t n_reads;
};

/* @gate is zero, and outlives the source. The caller holds the reference. */
struct ufd_source *gate_source(struct gate *gate, uint64_t length);

/* Until @n reads wait. */
void gate_wait_held(struct gate *gate, unsigned int n);

/* Answer what waits, and what comes from now on. */
void gate_open(struct gate *gate);
