/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A guest on disk: full or incremental, paused or live. docs/architecture.md says which way is
 * taken when.
 */
#pragma once

#include <jansson.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "image/format.h"
#include "snapshots/manifest.h"

struct job;
struct refusal;
struct registration;

#define SNAPSHOT_MAX_PAUSE_NS (300 * NSEC_PER_MSEC) /* of a live one, if nobody says */

enum snapshot_phase { SNAPSHOT_STARTING, SNAPSHOT_COPYING, SNAPSHOT_FINISHING };
const char *snapshot_phase_name(enum snapshot_phase phase);

/* What others may look at while it is made. Relaxed. */
struct snapshot_progress {
	_Atomic uint64_t done_bytes;
	_Atomic uint64_t total_bytes; /* grows, when a guest writes what was copied already */
	_Atomic uint32_t phase;	      /* enum snapshot_phase */
};

/* All borrowed; zero is every field's default. */
struct snapshot_request {
	struct registration *guest; /* the one that is named; may be NULL: only what @qmp says */
	struct registration **registrations; /* all that serve */
	size_t n_registrations;
	const char *qmp; /* NULL: only memory is saved, and whoever asked has paused the guest */
	const char *directory;
	const char *state_dir; /* NULL: nothing outlives us */
	const char *parent;    /* directory; NULL: a full one */
	const char *consumer;  /* NULL: the parent's, or BASE_CONSUMER */
	enum image_codec codec;
	int level;
	bool is_live;
	bool is_strict;	   /* a pause longer than @max_pause_ns is an error, not a warning */
	bool is_untracked; /* nothing is tracked for it: the next one is a full one */
	uint64_t max_pause_ns;
	struct snapshot_progress *progress;
	const struct job *job; /* given up when it is cancelled; may be NULL */
};

/* Readable. What was saved. */
struct snapshot_saved {
	uint64_t length_bytes;	  /* of all memories */
	uint64_t populated_bytes; /* of them, written into the image, and not zero */
	uint64_t state_bytes;
	uint64_t paused_ns; /* how long the guest stood still, if it ran before */
	uint64_t file_bytes;
	uint8_t digest[IMAGE_DIGEST_BYTES];
	enum snapshot_way way;
	unsigned int n_rounds;
	char consumer[64]; /* "": nothing is tracked */
	uint64_t epoch;
	json_t *warnings; /* owned; array of texts */
};
void snapshot_saved_done(struct snapshot_saved *saved);

/**
 * snapshot_save() - write a snapshot
 * @request->directory: made if missing; refused if it holds a snapshot already
 *
 * Until manifest.json is there, which comes last, there is no snapshot. A failure leaves nothing
 * behind, the guest as it was found, and what it wrote untold to nobody.
 *
 * Context: job, whose thread runs at THREAD_BULK_NICE from then on; blocks for seconds. Return: 0, or -ECANCELED with @refusal set
 * (io.ufd.guest.BadSnapshot for the directory, DriverFailed for the VMM, WrongParent, PauseTooLong;
 * errors of io.ufd.dirty).
 */
int snapshot_save(const struct snapshot_request *request, struct snapshot_saved *ret_saved,
		  struct refusal *refusal);
