/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What guests write, for consumers: the engine's epochs, taken at moments when nothing writes
 * unseen.
 *
 * Context of all but tracking_reason(): job, without a lock; they block. One at a time for each
 * guest: they hold its dirty_lock. Each return: 0, or -ECANCELED with an error of io.ufd.dirty,
 * NoSuchGuest or SystemError in @refusal. After each of them pause_settle() is due on the loop.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include <ufd/pager-dirty.h>
#include <ufd/pager.h>

#include "attach/arrival.h"

struct refusal;
struct registration;

#define TRACKING_CONSUMER "default" /* who does not name himself */

/* When the VMM is paused around the first protection and each scan. */
enum quiesce {
	QUIESCE_AUTO, /* while a process of it may write to memory that it has pinned */
	QUIESCE_ALWAYS,
	QUIESCE_NEVER,
};
const char *quiesce_word(uint32_t quiesce);
/* NULL is auto. Return: 0, -EINVAL. */
int quiesce_parse(const char *word, uint32_t *ret);

/* Borrowed texts. */
struct tracking_opts {
	const char *consumer;
	const char *qmp; /* NULL: the one that the guest was attached by */
	uint32_t quiesce;
	bool has_all_mappers;
	struct arrival_rights rights; /* whose processes may be attached to */
};

/* Readable. */
struct tracking_started {
	bool is_quiesced;
	json_t *warnings; /* owned; array of texts */
};
int tracking_start(struct registration *registration, const struct tracking_opts *opts,
		   struct tracking_started *ret, struct refusal *refusal);
void tracking_started_done(struct tracking_started *started);

/*
 * Bring a guest with a consumer: @arrive attaches it, with paging.consumer set if the engine can
 * begin before the first fill. What ran before (settings.populated=keep) may have pages pinned, so
 * that it is started as any other, when it serves; if that fails the guest is the caller's to take
 * down. @consumer NULL: nobody.
 */
int tracking_arrive(struct registration *registration, const char *consumer,
		    const struct arrival_rights *rights,
		    int (*arrive)(void *userdata, struct refusal *refusal), void *userdata,
		    struct refusal *refusal);

/* Readable. */
struct tracking_memory {
	char name[UFD_NAME_BYTES];
	uint64_t base_bytes; /* where it begins, in the count of whoever named it */
	uint64_t length_bytes, page_bytes;
	uint64_t *words; /* owned; one bit a page */
	size_t n_words;
};

/* Readable. */
struct tracking_epoch {
	struct ufd_dirty_epoch epoch;
	uint64_t paused_ns;
	struct tracking_memory *memories; /* owned */
	size_t n_memories;
	json_t *warnings; /* owned; array of texts */
};

/* @acknowledge: see ufd_pager_guest_dirty_read(). */
int tracking_read(struct registration *registration, const char *consumer, uint64_t acknowledge,
		  struct tracking_epoch *ret, struct refusal *refusal);
void tracking_epoch_done(struct tracking_epoch *epoch);

/* Of files that were written by somebody who did not say where, a warning. Context: any. */
void tracking_warn_strange(const struct ufd_dirty_epoch *epoch, json_t *warnings);

int tracking_stop(struct registration *registration, const char *consumer, struct refusal *refusal);

/* @ret: owned; the reply of List. */
int tracking_list(struct registration *registration, json_t **ret, struct refusal *refusal);

/* Which tracker the guest has (or will have), and why, in words. With the engine's lock. */
const char *tracking_kind(struct registration *registration);
const char *tracking_reason(struct registration *registration);
