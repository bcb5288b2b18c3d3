/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What snapshots remember of a guest in its ledger.
 *
 * Context of all: whoever has the engine's lock.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <ufd/pager-dirty.h>

#include "image/format.h"
#include "snapshots/manifest.h"

/*
 * Which snapshot a consumer counts from: what it has not acknowledged was written since that one.
 *
 * A save reads the consumer without acknowledging anything that is not on disk, so that a save
 * which fails, or dies, loses nothing. @expected tells whether somebody else read meanwhile: then
 * what was written since the base cannot be told any more. It is put before a read (with
 * @is_reading) and after it.
 */
struct record_base {
	char consumer[UFD_NAME_BYTES];
	uint8_t tracking[SNAPSHOT_TRACKING_BYTES]; /* random; of this consumer since its start */
	uint8_t digest[IMAGE_DIGEST_BYTES];	   /* of the base's image */
	uint64_t base_epoch;			   /* which ended at the base */
	uint64_t expected;			   /* the epoch that was read last */
	uint64_t begun_ns;			   /* of that one, as the engine says it */
	bool has_base;
	bool is_reading;
};
int record_put_base_of(struct ufd_pager_guest *guest, const struct record_base *record);
/* @place: 0 to UFD_MAX_CONSUMERS - 1. Return: 0, -ENOENT. */
int record_get_base_at(const struct ufd_pager_guest *guest, uint32_t place,
		       struct record_base *ret);
/* By the consumer's name. Return: 0, -ENOENT. */
int record_get_base_of(const struct ufd_pager_guest *guest, const char *consumer,
		       struct record_base *ret);
void record_drop_base_of(struct ufd_pager_guest *guest, const char *consumer);
/* The one whose base this is. Return: 0, -ENOENT. */
int record_find_base(const struct ufd_pager_guest *guest, const uint8_t digest[IMAGE_DIGEST_BYTES],
		     struct record_base *ret);

/*
 * What a memory is called in the images of the guest, for life: VMMs give other names after a
 * restore.
 */
struct record_name {
	char name[IMAGE_NAME_BYTES];
	uint64_t device, inode; /* of its file; 0 without one: numbers come again */
};
int record_put_name(struct ufd_pager_guest *guest, uint32_t memory,
		    const struct record_name *record);
int record_get_name(const struct ufd_pager_guest *guest, uint32_t memory, struct record_name *ret);

/* A save is under way: whoever finds this undoes what it did to the guest. */
struct record_saving {
	char consumer[UFD_NAME_BYTES]; /* that was started for the save only; "": none */
	char qmp[112];		       /* the monitor; "": none was asked for anything */
	uint32_t driver_state;	       /* see driver_ops.remember */
	bool has_driver_state;
};
int record_put_saving(struct ufd_pager_guest *guest, const struct record_saving *record);
int record_get_saving(const struct ufd_pager_guest *guest, struct record_saving *ret);
void record_drop_saving(struct ufd_pager_guest *guest);
