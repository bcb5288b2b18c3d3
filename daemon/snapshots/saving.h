/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A save under way, for the files of this room.
 *
 * Context of all: the save's job.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "dirty/pause.h"
#include "image/image-writer.h"
#include "snapshot/copy.h"
#include "snapshots/base.h"
#include "snapshots/files.h"
#include "snapshots/inputs.h"
#include "snapshots/save.h"
#include "snapshots/stranger.h"

struct driver;

/* Readable. */
struct saving {
	const struct snapshot_request *request;
	struct refusal *refusal;
	struct snapshot_inputs inputs;
	struct snapshot_files files;
	struct image_writer *writer; /* owned */
	struct snapshot_manifest manifest;
	struct snapshot_manifest parent; /* if the request names one */
	struct base base;
	json_t *machine;     /* owned */
	json_t *warnings;    /* owned */
	bool has_record;     /* in the guest's ledger: record_put_saving() */
	uint64_t live_epoch; /* of LIVE_CONSUMER, the last that we read */
};

/* The guest stands still. Readable. */
struct still {
	struct pause pause;	  /* of a guest of ours */
	struct qmp *qmp;	  /* owned; of any other */
	struct stranger stranger; /* of any other that ran before */
	struct driver *driver;	  /* NULL: nobody is asked */
	uint64_t since_ns;	  /* CLOCK_MONOTONIC */
	bool was_running;
	bool is_locked; /* the guest's dirty_lock is held */
};

/* Readable. What such work is given, if a copy is all that it needs. */
struct still_copy {
	struct saving *saving;
	struct copy *copy; /* borrowed */
};

/*
 * It is paused for this work, unless it was or only memory is saved, and goes on afterwards, if it
 * ran. How long it stood is in the manifest. Return: 0, -ECANCELED.
 */
int saving_while_still(struct saving *saving, int (*work)(void *userdata, struct still *still),
		       void *userdata);

/* Its devices into the file. Return: 0, -ECANCELED. */
int saving_save_devices(struct saving *saving, struct still *still);

/*
 * What the guest wrote since its base, with the dirty_lock; the moment is now. Return: 0,
 * -ECANCELED.
 */
int saving_read_base(struct saving *saving);

/*
 * What the guest's tracker watches, as the moment needs it: a layer's dirty pages, else all.
 * Return: 0, -ECANCELED.
 */
int saving_copy_watched(struct saving *saving, struct copy *copy);

/*
 * All else, whole: memory of the process that the guest does not map. While it stands still.
 * Return: the same.
 */
int saving_copy_unwatched(struct saving *saving, struct copy *copy);

/*
 * The pages that we read last as @consumer, of one memory. *@ret_words: the caller's to free.
 * Return: 0, -ESTALE (somebody else has read it since), other -errno.
 */
int saving_get_marks(struct saving *saving, const char *consumer,
		     const struct snapshot_input *input, uint64_t **ret_words);

/* The pages of the guest that @consumer read last. Return: 0, -ECANCELED. */
int saving_copy_marked(struct saving *saving, struct copy *copy, const char *consumer);

/* What went wrong while pages were copied. Return: always -ECANCELED. */
int saving_refuse_copy(struct saving *saving, const struct copy *copy, int r);

/*
 * Settings of a copy into its image; one with such. @ret: owned by the caller. Return: 0,
 * -ECANCELED.
 */
struct copy_opts saving_copy_opts(struct saving *saving);
int saving_new_copy(struct saving *saving, const struct copy_opts *opts, struct copy **ret);

/* A record in the ledger of what is to be undone; NULLs: as it is. Return: 0, -ECANCELED. */
int saving_note(struct saving *saving, const char *consumer, struct driver *driver);

/* Warn if the guest stood still for longer than was asked for. */
void saving_judge_pause(struct saving *saving);

/* ---- the ways ---- */

int saving_paused(struct saving *saving);
int saving_by_rounds(struct saving *saving);
int saving_before_write(struct saving *saving);
