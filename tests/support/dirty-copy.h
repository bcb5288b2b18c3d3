/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Consumers that keep a copy of a guest's memory by what they are told is dirty, whatever becomes of the pager. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "support/dirty-verify.h"
#include "support/dirty-writer.h"
#include "support/mortal-pager.h"
#include "ufd/pager-dirty.h"

#define N_COPIES 3

/* One consumer. Shared with the pager's processes. Readable. */
struct copy {
	char name[16];
	uint64_t epoch;	      /* what it has of it */
	unsigned char *bytes; /* the memory, as far as it was told */
	uint64_t *words;      /* pages of the last epoch that it took */
	bool is_started;
};

/* What the pager is asked, and answers. Shared. */
struct question {
	struct copy *copy;
	const struct writer *writer;
	bool is_from_file;
	bool is_write; /* else: discard */
	uint64_t page; /* of a note */
	uint64_t acknowledge;
	struct ufd_dirty_epoch answer;
	uint64_t n_mappings;
	uint64_t n_absent; /* pages of an epoch that are absent */
	int file_error;	   /* while the pages were copied */
};

/* One verification. */
struct verify {
	const struct verify_row *row;
	struct verdict *verdict;
	struct writer writer;
	struct mortal mortal;
	int source;
	struct question *question; /* shared */
	struct copy *copies;	   /* shared */
	unsigned int n_consumers;
	bool is_tracked;
	uint64_t random;
	uint64_t kill_after_ns; /* the next call; UINT64_MAX: it lives */
	char refusal[128];
};

/* The copies, and a pager that serves; tracking has begun if the row says so. */
void verify_begin(struct verify *verify);
void verify_end(struct verify *verify);

void verify_fail(struct verify *verify, const char *what, int error);

/* Adopt the guest, if its pager is dead. */
void verify_revive(struct verify *verify);

/* Read, and perhaps lose the reply; else copy what is dirty. */
void verify_read_some(struct verify *verify, uint64_t consumer);
/* Read and copy. Return: how many pages were told that cannot be explained by what is uncertain. */
uint64_t verify_take(struct verify *verify, struct copy *copy);

/* Nobody writes: the copy is the memory. */
void verify_start(struct verify *verify, struct copy *copy);
void verify_stop(struct verify *verify, struct copy *copy);

/* A page was written through the file, or punched. */
void verify_note(struct verify *verify, bool is_write, uint64_t page);
void verify_plug(struct verify *verify, bool is_in);
