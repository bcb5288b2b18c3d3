/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What guests write, for consumers. */
#include "dirty/tracking.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "dirty/hazards.h"
#include "dirty/mappers.h"
#include "dirty/pause.h"
#include "dirty/refuse.h"
#include "refusal.h"
#include "registry.h"
#include "store/record.h"

static const char *const quiesce_words[] = { "auto", "always", "never" };
#define N_QUIESCE (sizeof(quiesce_words) / sizeof(quiesce_words[0]))

const char *quiesce_word(uint32_t quiesce)
{
	return quiesce < N_QUIESCE ? quiesce_words[quiesce] : "auto";
}

int quiesce_parse(const char *word, uint32_t *ret)
{
	for (uint32_t i = 0; i < N_QUIESCE; i++)
		if (!word || strcmp(word, quiesce_words[i]) == 0) {
			*ret = i;
			return 0;
		}
	return -EINVAL;
}

/* ---- a moment at which nothing is written unseen ---- */

/* One start or read: what it found out, and whom it paused. */
struct moment {
	struct registration *registration;
	const struct record_consumer *consumer;
	const char *qmp; /* "": none */
	struct hazards hazards;
	struct pause pause;
	bool is_paused;
	uint64_t paused_ns;
	json_t *warnings; /* borrowed */
};

static void warn(struct moment *moment, const char *text)
{
	json_array_append_new(moment->warnings, json_string(text));
}

/* Is it to be paused? Refuses what cannot be tracked, and what cannot be paused and must. */
static int moment_look(struct moment *moment, bool *ret_is_needed, struct refusal *refusal)
{
	struct registration *registration = moment->registration;
	const struct record_consumer *consumer = moment->consumer;
	struct hazards *hazards = &moment->hazards;
	int r = hazards_look(registration, hazards, refusal);

	if (r < 0)
		return r;
	moment->qmp = consumer->qmp[0] ? consumer->qmp : registration->qmp;
	*ret_is_needed = consumer->quiesce == QUIESCE_ALWAYS ||
			 (consumer->quiesce == QUIESCE_AUTO &&
			  (hazards->kinds || hazards->is_unknown));
	if (*ret_is_needed && !moment->qmp[0])
		return dirty_refuse_unquiesced(
			registration, hazards->words[0] ? hazards->words : "quiesce=always",
			refusal);
	return 0;
}

/* With the engine's lock after success. */
static int moment_begin(struct moment *moment, struct refusal *refusal)
{
	struct registration *registration = moment->registration;
	bool is_needed;
	int r;

	r = moment_look(moment, &is_needed, refusal);
	if (r == 0 && is_needed)
		r = pause_begin(&moment->pause, registration, moment->qmp, refusal);
	if (r < 0)
		return r;
	moment->is_paused = is_needed;
	if (is_needed && !paging_lock_within(&registration->paging, PAUSE_TIMEOUT_NS)) {
		pause_end(&moment->pause, &moment->paused_ns, moment->warnings);
		return dirty_refuse_engine(registration, moment->consumer->name, 0, -ETIMEDOUT,
					   refusal);
	}
	if (!is_needed)
		paging_lock(&registration->paging);
	if (registration->paging.guest)
		return 0;
	paging_unlock(&registration->paging);
	if (is_needed)
		pause_end(&moment->pause, &moment->paused_ns, moment->warnings);
	return dirty_refuse_engine(registration, moment->consumer->name, 0, -ESRCH, refusal);
}

/* A file may have been opened while we looked, and a request have been under way. */
static void look_again(struct moment *moment)
{
	_cleanup_(refusal_done) struct refusal ignored = {};
	struct hazards now = {};
	char text[512];

	if (moment->is_paused || moment->consumer->quiesce != QUIESCE_AUTO)
		return;
	if (hazards_look(moment->registration, &now, &ignored) == 0 &&
	    !(now.kinds & ~moment->hazards.kinds))
		return;
	snprintf(text, sizeof(text),
		 "%s since it was looked at: what it had in flight may be missed; begin anew",
		 now.words[0] ? now.words : "a device was plugged");
	warn(moment, text);
}

/* Without the lock again. */
static void moment_end(struct moment *moment)
{
	paging_unlock(&moment->registration->paging);
	if (moment->is_paused)
		pause_end(&moment->pause, &moment->paused_ns, moment->warnings);
	look_again(moment);
}

/* ---- start ---- */

static bool is_consumer(struct ufd_pager_guest *guest, const char *name)
{
	UFD_OPTS(ufd_consumer_info, info);

	for (uint32_t i = 0; ufd_pager_consumer_info(guest, i, &info) == 0; i++)
		if (strcmp(info.name, name) == 0)
			return true;
	return false;
}

static int start_locked(struct moment *moment, struct refusal *refusal)
{
	struct ufd_pager_guest *guest = moment->registration->paging.guest;
	const struct record_consumer *consumer = moment->consumer;
	/* its record is that of one that goes on */
	int r = is_consumer(guest, consumer->name) ? -EEXIST : 0;

	/* the record first: a consumer without it would be read without being paused as it asked */
	if (r == 0) {
		record_keep_consumers(guest, is_consumer);
		r = record_put_consumer(guest, consumer);
		if (r == 0)
			r = ufd_pager_guest_dirty_start(guest, consumer->name);
		if (r < 0)
			record_drop_consumer(guest, consumer->name);
	}
	return r < 0 ? dirty_refuse_engine(moment->registration, consumer->name, 0, r, refusal) : 0;
}

static int fill_record(struct registration *registration, const struct tracking_opts *opts,
		       struct record_consumer *ret, struct refusal *refusal)
{
	*ret = (struct record_consumer){
		.quiesce = opts->quiesce,
		.has_all_mappers = opts->has_all_mappers,
	};
	if (!opts->consumer[0] || strlen(opts->consumer) >= sizeof(ret->name))
		return dirty_refuse_engine(registration, "", 0, -EINVAL, refusal);
	strcpy(ret->name, opts->consumer);
	if (opts->qmp && strlen(opts->qmp) >= sizeof(ret->qmp))
		return refusal_set(refusal, "org.varlink.service.InvalidParameter",
				   json_pack("{s:s}", "parameter", "qmp"), "too long");
	if (opts->qmp)
		strcpy(ret->qmp, opts->qmp);
	return 0;
}

int tracking_start(struct registration *registration, const struct tracking_opts *opts,
		   struct tracking_started *ret, struct refusal *refusal)
{
	_cleanup_(tracking_started_done) struct tracking_started started = {};
	struct record_consumer consumer;
	struct moment moment = { .registration = registration, .consumer = &consumer };
	int r;

	r = fill_record(registration, opts, &consumer, refusal);
	if (r < 0)
		return r;
	started.warnings = json_array();
	if (!started.warnings)
		return -ENOMEM;
	moment.warnings = started.warnings;
	pthread_mutex_lock(&registration->dirty_lock);
	if (opts->has_all_mappers)
		r = mappers_attach(registration, &opts->rights, refusal);
	if (r == 0)
		r = moment_begin(&moment, refusal);
	if (r == 0) {
		r = start_locked(&moment, refusal);
		moment_end(&moment);
	}
	if (r == 0)
		mappers_warn(registration, started.warnings);
	pthread_mutex_unlock(&registration->dirty_lock);
	if (r < 0)
		return r;
	started.is_quiesced = moment.is_paused;
	*ret = started;
	started.warnings = NULL;
	return 0;
}

void tracking_started_done(struct tracking_started *started)
{
	json_decref(started->warnings);
}

int tracking_arrive(struct registration *registration, const char *consumer,
		    const struct arrival_rights *rights,
		    int (*arrive)(void *userdata, struct refusal *refusal), void *userdata,
		    struct refusal *refusal)
{
	_cleanup_(tracking_started_done) struct tracking_started started = {};
	const struct tracking_opts opts = { .consumer = consumer, .rights = *rights };
	struct paging *paging = &registration->paging;
	bool is_later = consumer && paging->settings.populated == UFD_POPULATED_KEEP;
	int r;

	paging->consumer = is_later ? NULL : consumer;
	r = arrive(userdata, refusal);
	paging->consumer = NULL;
	if (r < 0 || !is_later)
		return r;
	return tracking_start(registration, &opts, &started, refusal);
}

/* ---- read ---- */

static int take_memory(struct paging *paging, const struct paging_memory *known,
		       const char *consumer, struct tracking_memory *ret)
{
	UFD_OPTS(ufd_memory_stats, stats);
	uint64_t n_pages;
	int r = ufd_pager_memory_stats(paging->guest, known->number, &stats);

	if (r < 0)
		return r;
	memcpy(ret->name, known->name, sizeof(ret->name));
	ret->base_bytes = known->base_bytes;
	ret->length_bytes = stats.length_bytes;
	ret->page_bytes = stats.page_bytes;
	n_pages = stats.length_bytes / stats.page_bytes;
	ret->n_words = (n_pages + 63) / 64;
	ret->words = calloc(ret->n_words + 1, sizeof(*ret->words));
	if (!ret->words)
		return -ENOMEM;
	return ufd_pager_guest_dirty_bitmap(paging->guest, consumer, known->number, 0, ret->words,
					    ret->n_words);
}

/*
 * The epoch's maps; at the same turn of the engine as the read, so that no other one comes between.
 */
static int take_memories(struct paging *paging, const char *consumer, struct tracking_epoch *epoch)
{
	epoch->memories = calloc(paging->n_memories + 1, sizeof(*epoch->memories));
	if (!epoch->memories)
		return -ENOMEM;
	for (size_t i = 0; i < paging->n_memories; i++) {
		struct tracking_memory *memory = &epoch->memories[epoch->n_memories];
		int r = take_memory(paging, &paging->memories[i], consumer, memory);

		if (r == -ENOENT) { /* it was forgotten with its last mapping */
			free(memory->words);
			*memory = (struct tracking_memory){};
			continue;
		}
		epoch->n_memories++;
		if (r < 0)
			return r;
	}
	return 0;
}

static int find_consumer(struct registration *registration, const char *name,
			 struct record_consumer *ret, struct refusal *refusal)
{
	struct paging *paging = &registration->paging;
	int r = 0;

	paging_lock(paging);
	if (!paging->guest)
		r = -ESRCH;
	else if (!is_consumer(paging->guest, name))
		r = -ENOENT;
	else if (record_get_consumer(paging->guest, name, ret) < 0)
		snprintf(ret->name, sizeof(ret->name), "%s", name);
	if (r < 0)
		r = dirty_refuse_engine(registration, name, 0, r, refusal);
	paging_unlock(paging);
	return r;
}

static int read_locked(struct moment *moment, uint64_t acknowledge, struct tracking_epoch *epoch,
		       struct refusal *refusal)
{
	struct registration *registration = moment->registration;
	const char *name = moment->consumer->name;
	int r = ufd_pager_guest_dirty_read(registration->paging.guest, name, acknowledge,
					   &epoch->epoch);

	if (r == 0)
		r = take_memories(&registration->paging, name, epoch);
	return r < 0 ? dirty_refuse_engine(registration, name, acknowledge, r, refusal) : 0;
}

void tracking_warn_strange(const struct ufd_dirty_epoch *epoch, json_t *warnings)
{
	char text[256];

	if (!epoch->n_strange_writes)
		return;
	snprintf(text, sizeof(text),
		 "the file of %llu memor%s was written to by somebody who did not say where: all "
		 "of it is reported",
		 (unsigned long long)epoch->n_strange_writes,
		 epoch->n_strange_writes == 1 ? "y" : "ies");
	json_array_append_new(warnings, json_string(text));
}

/* What was counted, and not told, went with the process that counted it. */
static void warn_restarted(const struct registration *registration,
			   const struct ufd_dirty_epoch *epoch, json_t *warnings)
{
	if (epoch->begun_ns < registration->adopted_ns)
		json_array_append_new(
			warnings,
			json_string("ufdd was restarted during this epoch: more of it may be "
				    "uncertain than is said, and files may have been written "
				    "without a warning; what was written is told all the same"));
}

int tracking_read(struct registration *registration, const char *consumer, uint64_t acknowledge,
		  struct tracking_epoch *ret, struct refusal *refusal)
{
	_cleanup_(tracking_epoch_done) struct tracking_epoch epoch = {
		.epoch = { .size = sizeof(struct ufd_dirty_epoch) },
	};
	struct record_consumer record = {};
	struct moment moment = { .registration = registration, .consumer = &record };
	int r;

	epoch.warnings = json_array();
	if (!epoch.warnings)
		return -ENOMEM;
	moment.warnings = epoch.warnings;
	pthread_mutex_lock(&registration->dirty_lock);
	r = find_consumer(registration, consumer, &record, refusal);
	if (r == 0)
		r = moment_begin(&moment, refusal);
	if (r == 0) {
		r = read_locked(&moment, acknowledge, &epoch, refusal);
		moment_end(&moment);
	}
	if (r == 0)
		mappers_warn(registration, epoch.warnings);
	pthread_mutex_unlock(&registration->dirty_lock);
	if (r < 0)
		return r;
	atomic_fetch_add_explicit(&registration->dirty.n_reads, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&registration->dirty.dirty_bytes, epoch.epoch.dirty_bytes,
				  memory_order_relaxed);
	tracking_warn_strange(&epoch.epoch, epoch.warnings);
	warn_restarted(registration, &epoch.epoch, epoch.warnings);
	epoch.paused_ns = moment.paused_ns;
	*ret = epoch;
	epoch = (struct tracking_epoch){};
	return 0;
}

void tracking_epoch_done(struct tracking_epoch *epoch)
{
	for (size_t i = 0; i < epoch->n_memories; i++)
		free(epoch->memories[i].words);
	free(epoch->memories);
	json_decref(epoch->warnings);
}

/* ---- stop, list ---- */

int tracking_stop(struct registration *registration, const char *consumer, struct refusal *refusal)
{
	struct paging *paging = &registration->paging;
	int r;

	pthread_mutex_lock(&registration->dirty_lock);
	paging_lock(paging);
	r = paging->guest ? ufd_pager_guest_dirty_stop(paging->guest, consumer) : -ESRCH;
	if (r == 0)
		record_drop_consumer(paging->guest, consumer);
	else
		r = dirty_refuse_engine(registration, consumer, 0, r, refusal);
	paging_unlock(paging);
	pthread_mutex_unlock(&registration->dirty_lock);
	return r;
}

static json_t *list_locked(struct registration *registration)
{
	struct ufd_pager_guest *guest = registration->paging.guest;
	UFD_OPTS(ufd_consumer_info, info);
	json_t *list = json_array();

	for (uint32_t i = 0; ufd_pager_consumer_info(guest, i, &info) == 0; i++) {
		struct record_consumer record = {};

		(void)record_get_consumer(guest, info.name, &record);
		json_array_append_new(list,
				      json_pack("{s:s, s:s, s:I, s:I, s:I, s:s, s:b}", "name",
						info.name, "tracker", tracking_kind(registration),
						"epoch", (json_int_t)info.epoch, "begun_ns",
						(json_int_t)clock_wall_ns(info.begun_ns),
						"unread_bytes", (json_int_t)info.unread_bytes,
						"quiesce", quiesce_word(record.quiesce),
						"all_mappers", (int)record.has_all_mappers));
	}
	return list;
}

int tracking_list(struct registration *registration, json_t **ret, struct refusal *refusal)
{
	json_t *reply = NULL;

	paging_lock(&registration->paging);
	if (registration->paging.guest)
		reply = json_pack("{s:s, s:s, s:o}", "tracker", tracking_kind(registration),
				  "reason", tracking_reason(registration), "consumers",
				  list_locked(registration));
	paging_unlock(&registration->paging);
	if (!reply)
		return dirty_refuse_engine(registration, "", 0, -ESRCH, refusal);
	*ret = reply;
	return 0;
}

/* ---- which tracker ---- */

static uint32_t track_of(struct registration *registration)
{
	UFD_OPTS(ufd_pager_guest_opts, opts);

	ufd_pager_guest_get_opts(registration->paging.guest, &opts);
	return opts.track;
}

const char *tracking_kind(struct registration *registration)
{
	return track_of(registration) == UFD_TRACK_WP ? "wp" : "scan";
}

const char *tracking_reason(struct registration *registration)
{
	bool is_wp = track_of(registration) == UFD_TRACK_WP;

	if (registration->paging.settings.track != SETTINGS_TRACK_AUTO)
		return is_wp ? "track=wp was chosen when the guest was attached"
			     : "track=scan was chosen when the guest was attached";
	return is_wp ? "the guest's userfaultfd has no asynchronous write-protection (Linux 6.7)"
		     : "the guest's userfaultfd has asynchronous write-protection: a write costs "
		       "the guest no message";
}
