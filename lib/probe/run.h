/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What an experiment and its runner share: memory that outlives the experiment's process. */
#pragma once

#include <stdatomic.h>

#include "probe/probe.h"

/* How an experiment ended, in its own words. None: its process ended before it said any. */
enum probe_ending {
	PROBE_ENDING_NONE,
	PROBE_ENDING_CLAIMED, /* somebody says it now; leaves by one of those below */
	PROBE_ENDING_RETURNED,
	PROBE_ENDING_SKIPPED,
	PROBE_ENDING_BROKEN,
};

#define PROBE_ANSWER_BYTES 64
#define PROBE_DETAIL_BYTES 256
#define PROBE_STEPS_BYTES  (16 * 1024)

/*
 * Shared by the runner, the experiment's process and its children; an experiment that went astray may
 * have written anything here, so that the runner takes no length and no end of a text from it.
 */
struct probe_run {
	/* enum probe_ending; stored with release behind the texts, pairs with acquire in the runner */
	_Atomic int ending;
	_Atomic size_t n_steps; /* bytes of @steps that are taken, or would be */
	char answer[PROBE_ANSWER_BYTES];
	char detail[PROBE_DETAIL_BYTES];
	char steps[PROBE_STEPS_BYTES]; /* lines */
};

/* Try @check and end the process that it runs in; experiment.c. */
_Noreturn void probe_run_try(struct probe_run *run, const struct probe_check *check);
