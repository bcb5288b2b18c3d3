/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * VMMs that ufdd does not page, paused by a save: they go on, too, if we die.
 *
 * Theory of operation: a guest's ledger says that it is to go on (dirty/pause.h); who has no ledger
 * has a file in the state directory, PID.paused, with the monitor and what a save changes there. It
 * is there before the VMM is told to stop, and goes when it has gone on. A successor that finds it
 * asks the monitor, if the same process still listens there, until it answers or a minute is over.
 * Without a state directory nothing outlives us, and nobody knows.
 *
 * Context of all but the last: job; they block.
 */
#pragma once

#include <stdint.h>
#include <sys/types.h>

struct driver;
struct job;
struct jobs;
struct refusal;

/* Readable. Zero is none. */
struct stranger {
	pid_t pid; /* who listens at the monitor */
	char qmp[112];
	uint32_t driver_state; /* see driver_ops.remember */
};

/*
 * It is to be paused. @state_dir: NULL: there is none. Return: 0 with @ret, -ECANCELED (nothing was
 * asked of it).
 */
int stranger_note(struct stranger *ret, const char *state_dir, pid_t pid, const char *qmp,
		  struct driver *driver, struct refusal *refusal);

/* It runs. */
void stranger_forget(const struct stranger *stranger, const char *state_dir);

/*
 * It was told to go on, and did not answer. Forgotten afterwards; the log says so if it was in vain.
 * @job: given up when it is cancelled, and kept for a successor.
 */
void stranger_let_go(const struct stranger *stranger, const char *state_dir, const struct job *job);

/* Those that a former process paused, each by a job of its own. Context: loop, once. */
void strangers_adopt(struct jobs *jobs, const char *state_dir);
