/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Does dirty tracking tell every page that was written?
 *
 * A guest (dirty-writer.h) writes pages at random, round after round, while consumers read what is dirty
 * and keep copies of its memory by nothing but that: the pages of each epoch are copied after the read has
 * returned. In between the engine is killed and adopted, replies are lost, pages are discarded and written
 * behind the guest's back, memory is unplugged and comes again. Every few rounds all is quiet for a moment, and each
 * copy must be the guest's memory, byte for byte.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "support/dirty-writer.h"
#include "ufd/pager-dirty.h"

/* One row of a table. */
struct verify_row {
	const char *what;
	enum child_memory kind;
	uint32_t track; /* enum ufd_track */
	unsigned int n_threads;
	int advice;
	bool is_populated; /* all pages exist before the attach, huge where that is to be had */
	bool is_kvm;	   /* a guest of KVM writes */
	bool is_sealed;	   /* a private mapping of a file that nobody may write */
	bool is_late;	   /* tracking starts when the guest has run for a while */
	bool is_split;	   /* the second half comes and goes */
	bool has_background;
	bool has_foreign;   /* writes and punches through the file */
	bool is_from_file;  /* copies are read from the file, not through the guest's mapping */
	bool is_brief;	    /* a sixth of the rounds of a long test */
	uint32_t kill_each; /* one round in so many, 0: never */
};

/* What became of it. Readable. */
struct verdict {
	uint64_t n_lost;   /* pages whose change nobody was told of */
	uint64_t n_wrong;  /* pages that the guest did not find as it left them */
	uint64_t n_absent; /* pages that were reported though nobody ever touched them */
	uint64_t n_noise;  /* pages that were reported while nothing happened */
	uint64_t n_rounds, n_epochs, n_pages_reported, n_uncertain, n_strange;
	uint64_t n_kills, n_lost_replies, n_checks;
	const char *refusal; /* such guests cannot be had here; NULL */
	char failure[256];   /* a call that failed; empty */
};

/* Stops at the first failure. @seed: of all random numbers. */
void verify_run(const struct verify_row *row, uint64_t n_rounds, uint64_t seed,
		struct verdict *ret);

static inline bool verdict_is_good(const struct verdict *verdict)
{
	return !verdict->n_lost && !verdict->n_wrong && !verdict->n_absent && !verdict->n_noise &&
	       !verdict->failure[0];
}

/* The row for what it has proved, as a comment of TAP. */
void verdict_print(const struct verify_row *row, const struct verdict *verdict);

/* Rounds of a test: 300; less under a sanitizer (UFD_TEST_SHORT), more before a release (UFD_TEST_LONG). */
uint64_t verify_n_rounds(void);
