/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a guest wrote since the snapshot before: the consumer that snapshots read.
 *
 * It starts with the first save. Each save reads it at the moment that it shows, and acknowledges
 * nothing: the next one does, when this one's manifest is on disk. So what a save that failed had
 * read comes again.
 *
 * Context of all: job, without the engine's lock; base_read() with the guest's dirty_lock.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "snapshots/record.h"

struct refusal;
struct registration;
struct snapshot_manifest;

#define BASE_CONSUMER "snapshot"      /* who is not named */
#define LIVE_CONSUMER "snapshot.live" /* of the rounds of a live save; it never outlives that */

/* Readable. Zero: nothing is tracked. */
struct base {
	struct registration *registration; /* borrowed; NULL: nothing is tracked */
	struct record_base record;
	const char *parent_path; /* borrowed; NULL: a full one, which needs no older epoch */
	bool is_new;		 /* the consumer was started for this save */
};

/* Borrowed. */
struct base_opts {
	const char *consumer; /* NULL: the parent's, or BASE_CONSUMER */
	const char *qmp;      /* for quiescing; NULL: the one that the guest was attached by */
	const char *parent_path;
	const struct snapshot_manifest *parent; /* NULL: a full one */
	bool is_needed;				/* a guest that cannot be tracked is refused */
};

/**
 * base_open() - the consumer of a save that begins
 * @warnings: array of texts, appended to
 *
 * Return: 0, or -ECANCELED with @refusal set (io.ufd.guest.WrongParent: the guest is not tracked
 * since that snapshot; errors of io.ufd.dirty).
 */
int base_open(struct base *ret, struct registration *registration, const struct base_opts *opts,
	      json_t *warnings, struct refusal *refusal);

/*
 * The moment is now. Its bits are the consumer's until the next read. Return: as above; WrongParent
 * if others have read it since.
 */
int base_read(struct base *base, struct ufd_dirty_epoch *ret, struct refusal *refusal);

/* Is what the consumer read last what we read? With the engine's lock. */
bool base_is_current(const struct base *base);

/* There will be no snapshot: what was started for it is stopped. Without the dirty_lock. */
void base_abandon(const struct base *base);

/*
 * The same for saves that died with a former process. Is there one? With the engine's lock.
 */
bool base_find_abandoned(struct ufd_pager_guest *guest, struct record_base *ret);
void base_abandon_adopted(struct registration *registration);

/*
 * A client is about to start a consumer of this name. Unless there is one, what is known of a former one
 * of ours is forgotten: the new one is the client's, to be read and stopped by nobody else.
 */
void base_disown(struct registration *registration, const char *consumer);

/* It is about to be on disk: from now on a manifest may know it that the ledger does not. */
void base_begin_commit(struct base *base);

/* The snapshot is on disk, and is the base of the next one. */
void base_commit(struct base *base, const uint8_t digest[IMAGE_DIGEST_BYTES]);

/*
 * A guest that was restored from a snapshot: @consumer, started before its first fill, counts from
 * there. Return: 0 or -errno.
 */
int base_restored(struct registration *registration, const char *consumer,
		  const uint8_t digest[IMAGE_DIGEST_BYTES]);
