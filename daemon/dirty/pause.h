/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A guest stands still for a moment, and goes on whatever happens meanwhile.
 *
 * Theory of operation: before a VMM that runs is told to stop, its ledger says that it is to go on
 * (record_put_pause()); the record goes when it does. If we die in between, the successor finds the
 * record and lets the VMM go on. If its monitor does not answer, because its main thread waits for
 * a page or a disk, nobody knows whether it has stopped: `cont` is sent behind `stop`, and until it
 * is known to run it is asked again, by a job of its own (pause_settle()). No lock is held while we
 * wait for a monitor, but the guest's dirty_lock, so that nobody resumes what another one has
 * paused.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/units.h"

struct qmp;
struct refusal;
struct registration;

/* Longest wait for one answer of a monitor, and for the engine while the guest stands still. */
#define PAUSE_TIMEOUT_NS (5 * NSEC_PER_SEC)

/* Readable. */
struct pause {
	struct registration *registration; /* borrowed */
	struct qmp *qmp;		   /* owned */
	uint64_t since_ns;		   /* CLOCK_MONOTONIC; 0: it stood still before */
	int nice;			   /* of the thread, which gives way to nobody meanwhile */
};

/**
 * pause_begin() - the VMM behind a monitor stops its processors and finishes its I/O
 * @path: of the monitor; its process must be one of the guest's
 *
 * Context: job, with the guest's dirty_lock, without the engine's. Waits for the monitor.
 * Return: 0; -ECANCELED with io.ufd.dirty.CannotQuiesce, and the guest goes on.
 */
int pause_begin(struct pause *ret, struct registration *registration, const char *path,
		struct refusal *refusal);

/**
 * pause_end() - it goes on, if it ran before
 * @ret_paused_ns: how long it stood still; 0 if it did before
 * @warnings:	   told if its monitor does not answer; then pause_settle() is due
 *
 * Context: as pause_begin().
 */
void pause_end(struct pause *pause, uint64_t *ret_paused_ns, json_t *warnings);

/*
 * Have a guest go on that owes it, if there is one: after each job that may have paused it, and
 * after its adoption. Context: loop.
 */
void pause_settle(struct registration *registration);

/* It is a former process's. Does its ledger say that that paused it? Context: whoever has the engine's lock. */
void pause_adopt(struct registration *registration);
