/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a guest wrote since the snapshot before. */
#include "snapshots/base.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "dirty/tracking.h"
#include "refusal.h"
#include "registry.h"
#include "snapshots/manifest.h"

/* With the lock. Return: false if there is none of that name. */
static bool find_consumer(struct ufd_pager_guest *guest, const char *name,
			  struct ufd_consumer_info *ret)
{
	UFD_OPTS(ufd_consumer_info, info);

	for (uint32_t i = 0; ufd_pager_consumer_info(guest, i, &info) == 0; i++)
		if (strcmp(info.name, name) == 0) {
			*ret = info;
			return true;
		}
	return false;
}

/* Has nobody but us read it since the record was put? */
static bool is_ours(const struct record_base *record, const struct ufd_consumer_info *info)
{
	if (info->epoch == record->expected)
		return record->is_reading || info->begun_ns == record->begun_ns;
	return record->is_reading && info->epoch + 1 == record->expected;
}

static int refuse_parent(const struct registration *registration, const struct base_opts *opts,
			 const char *why, struct refusal *refusal)
{
	const char *name = registration->paging.name;

	return refusal_set(refusal, "io.ufd.guest.WrongParent",
			   json_pack("{s:s,s:s}", "name", name, "directory", opts->parent_path),
			   "what guest `%s` wrote since the snapshot %s is not known: %s; take a "
			   "full one (without --incremental)",
			   name, opts->parent_path, why);
}

/*
 * Its record, for a guest that is tracked since @parent. A save that died between its manifest and its
 * record left a snapshot that the manifest alone knows: its epoch was not acknowledged by anybody.
 */
static int find_parent(struct ufd_pager_guest *guest, const struct snapshot_manifest *parent,
		       struct record_base *ret)
{
	int r = record_find_base(guest, parent->digest, ret);

	if (r == 0 || !parent->consumer)
		return r;
	r = record_get_base_of(guest, parent->consumer, ret);
	if (r < 0 || ret->is_reading || ret->expected != parent->epoch ||
	    memcmp(ret->tracking, parent->tracking, sizeof(ret->tracking)))
		return -ENOENT;
	memcpy(ret->digest, parent->digest, sizeof(ret->digest));
	ret->base_epoch = parent->epoch;
	ret->has_base = true;
	return 0;
}

/* With the lock. */
static int open_incremental(struct base *base, const struct base_opts *opts,
			    struct refusal *refusal)
{
	struct registration *registration = base->registration;
	struct ufd_pager_guest *guest = registration->paging.guest;
	UFD_OPTS(ufd_consumer_info, info);

	if (find_parent(guest, opts->parent, &base->record) < 0)
		return refuse_parent(registration, opts, "none of its consumers counts from there",
				     refusal);
	if (opts->consumer && strcmp(opts->consumer, base->record.consumer))
		return refuse_parent(registration, opts,
				     "another consumer than the one that was named counts from "
				     "there",
				     refusal);
	if (!find_consumer(guest, base->record.consumer, &info))
		return refuse_parent(registration, opts, "its consumer was stopped", refusal);
	if (!is_ours(&base->record, &info))
		return refuse_parent(registration, opts,
				     "somebody else has read its consumer since", refusal);
	return 0;
}

static int put_new(struct base *base, const char *consumer)
{
	struct ufd_pager_guest *guest = base->registration->paging.guest;
	struct record_base *record = &base->record;
	UFD_OPTS(ufd_consumer_info, info);

	*record = (struct record_base){};
	memcpy(record->consumer, consumer, strlen(consumer));
	if (getrandom(record->tracking, sizeof(record->tracking), 0) < 0)
		return -errno;
	if (!find_consumer(guest, consumer, &info))
		return -ENOENT;
	record->expected = info.epoch;
	record->begun_ns = info.begun_ns;
	return record_put_base_of(guest, record);
}

static int refuse_record(const struct base *base, const char *consumer, int r,
			 struct refusal *refusal)
{
	return refusal_set_errno(refusal, r, "guest `%s`: consumer `%s` is not kept: %s",
				 base->registration->paging.name, consumer, strerror(-r));
}

/* A first one, tracked from about now on. Without the lock. */
static int start(struct base *base, const char *consumer, const struct base_opts *opts,
		 json_t *warnings, struct refusal *refusal)
{
	const struct tracking_opts tracking = { .consumer = consumer, .qmp = opts->qmp };
	struct paging *paging = &base->registration->paging;
	struct record_base record = {};
	struct tracking_started started = {};
	int r = -ESRCH;

	/* first: a consumer without it would be taken for somebody else's for ever */
	memcpy(record.consumer, consumer, strlen(consumer));
	paging_lock(paging);
	if (paging->guest)
		r = record_put_base_of(paging->guest, &record);
	paging_unlock(paging);
	if (r < 0)
		return refuse_record(base, consumer, r, refusal);
	r = tracking_start(base->registration, &tracking, &started, refusal);
	if (r < 0)
		return r;
	json_array_extend(warnings, started.warnings);
	tracking_started_done(&started);
	base->is_new = true;

	paging_lock(paging);
	r = paging->guest ? put_new(base, consumer) : -ESRCH;
	paging_unlock(paging);
	if (r < 0) {
		base_abandon(base);
		return refuse_record(base, consumer, r, refusal);
	}
	return 0;
}

/* With the lock. Return: 0, -ENOENT: it is to be started, -ECANCELED. */
static int open_existing(struct base *base, const char *consumer, struct refusal *refusal)
{
	struct registration *registration = base->registration;
	struct ufd_pager_guest *guest = registration->paging.guest;
	UFD_OPTS(ufd_consumer_info, info);

	if (!find_consumer(guest, consumer, &info))
		return -ENOENT;
	if (record_get_base_of(guest, consumer, &base->record) < 0)
		return refusal_set(refusal, "io.ufd.dirty.ConsumerExists",
				   json_pack("{s:s,s:s}", "name", registration->paging.name,
					     "consumer", consumer),
				   "consumer `%s` of guest `%s` is somebody else's: name another "
				   "one for snapshots",
				   consumer, registration->paging.name);
	if (!is_ours(&base->record, &info)) {
		base->record.has_base = false;
		base->record.expected = info.epoch;
	}
	return 0;
}

static int open_full(struct base *base, const struct base_opts *opts, json_t *warnings,
		     struct refusal *refusal)
{
	const char *consumer = opts->consumer ? opts->consumer : BASE_CONSUMER;
	_cleanup_(refusal_done) struct refusal why = {};
	struct paging *paging = &base->registration->paging;
	int r;

	paging_lock(paging);
	r = paging->guest ? open_existing(base, consumer, refusal) : -ESRCH;
	paging_unlock(paging);
	if (r == -ESRCH)
		return refusal_set_errno(refusal, r, "guest `%s` has gone", paging->name);
	if (r != -ENOENT)
		return r;
	r = start(base, consumer, opts, warnings, opts->is_needed ? refusal : &why);
	if (r < 0 && !opts->is_needed) {
		json_array_append_new(
			warnings,
			json_sprintf(
				"what is written from now on is not tracked, and the next "
				"snapshot will be a full one, too: %s",
				json_string_value(json_object_get(why.parameters, "message"))));
		*base = (struct base){};
		return 0;
	}
	return r;
}

int base_open(struct base *ret, struct registration *registration, const struct base_opts *opts,
	      json_t *warnings, struct refusal *refusal)
{
	struct base base = { .registration = registration,
			     .parent_path = opts->parent ? opts->parent_path : NULL };
	int r;

	if (opts->consumer && strcmp(opts->consumer, LIVE_CONSUMER) == 0)
		return refusal_set_errno(refusal, -EINVAL,
					 "consumer `%s` is of the rounds of a live save, and never "
					 "outlives them: name another one",
					 LIVE_CONSUMER);
	if (opts->consumer && (!opts->consumer[0] || strlen(opts->consumer) >= UFD_NAME_BYTES))
		return refusal_set_errno(refusal, -EINVAL, "consumer: 1 to %d bytes",
					 UFD_NAME_BYTES - 1);
	if (opts->parent) {
		paging_lock(&registration->paging);
		r = registration->paging.guest
			    ? open_incremental(&base, opts, refusal)
			    : refusal_set_errno(refusal, -ESRCH, "guest `%s` has gone",
						registration->paging.name);
		paging_unlock(&registration->paging);
	} else {
		r = open_full(&base, opts, warnings, refusal);
	}
	if (r < 0)
		return r;
	*ret = base;
	return 0;
}

/* With the lock. */
static int read_locked(struct base *base, struct ufd_dirty_epoch *ret)
{
	struct ufd_pager_guest *guest = base->registration->paging.guest;
	struct record_base *record = &base->record;
	UFD_OPTS(ufd_consumer_info, info);
	uint64_t acknowledge;
	int r;

	if (!guest)
		return -ESRCH;
	if (!find_consumer(guest, record->consumer, &info))
		return -ENOENT;
	if (!is_ours(record, &info)) { /* since it was looked at */
		if (base->parent_path)
			return -ESTALE;
		record->has_base = false;
	}
	/* what was read since the base, by saves that failed, comes again */
	acknowledge = !record->has_base || info.epoch == record->base_epoch ? info.epoch
									    : info.epoch - 1;
	record->expected = info.epoch + 1;
	record->is_reading = true;
	r = record_put_base_of(guest, record);
	if (r == 0)
		r = ufd_pager_guest_dirty_read(guest, record->consumer, acknowledge, ret);
	if (r < 0)
		return r;
	record->expected = ret->epoch;
	record->is_reading = false;
	if (find_consumer(guest, record->consumer, &info))
		record->begun_ns = info.begun_ns;
	return record_put_base_of(guest, record);
}

int base_read(struct base *base, struct ufd_dirty_epoch *ret, struct refusal *refusal)
{
	struct paging *paging = &base->registration->paging;
	int r;

	paging_lock(paging);
	r = read_locked(base, ret);
	paging_unlock(paging);
	if (r == -ESTALE)
		return refusal_set(refusal, "io.ufd.guest.WrongParent",
				   json_pack("{s:s,s:s}", "name", paging->name, "directory",
					     base->parent_path),
				   "what guest `%s` wrote since the snapshot %s is not known: "
				   "somebody else has read consumer `%s` meanwhile; take a full "
				   "one (without --incremental)",
				   paging->name, base->parent_path, base->record.consumer);
	if (r < 0)
		return refusal_set_errno(refusal, r,
					 "what guest `%s` wrote cannot be read (consumer `%s`): %s",
					 paging->name, base->record.consumer, strerror(-r));
	return 0;
}

bool base_is_current(const struct base *base)
{
	UFD_OPTS(ufd_consumer_info, info);

	return find_consumer(base->registration->paging.guest, base->record.consumer, &info) &&
	       is_ours(&base->record, &info);
}

static int stop(struct registration *registration, const char *consumer)
{
	_cleanup_(refusal_done) struct refusal ignored = {};

	return tracking_stop(registration, consumer, &ignored);
}

void base_disown(struct registration *registration, const char *consumer)
{
	struct paging *paging = &registration->paging;
	UFD_OPTS(ufd_consumer_info, info);

	paging_lock(paging);
	if (paging->guest && !find_consumer(paging->guest, consumer, &info))
		record_drop_base_of(paging->guest, consumer);
	paging_unlock(paging);
}

void base_abandon(const struct base *base)
{
	if (base->is_new)
		(void)stop(base->registration, base->record.consumer);
}

bool base_find_abandoned(struct ufd_pager_guest *guest, struct record_base *ret)
{
	UFD_OPTS(ufd_consumer_info, info);
	struct record_base record;

	for (uint32_t place = 0; place < UFD_MAX_CONSUMERS; place++)
		if (record_get_base_at(guest, place, &record) == 0 && !record.has_base &&
		    !record.base_epoch && find_consumer(guest, record.consumer, &info)) {
			*ret = record;
			return true;
		}
	return false;
}

void base_abandon_adopted(struct registration *registration)
{
	struct paging *paging = &registration->paging;

	for (;;) {
		struct record_base record;
		bool is_there;

		paging_lock(paging);
		is_there = paging->guest && base_find_abandoned(paging->guest, &record);
		paging_unlock(paging);
		if (!is_there || stop(registration, record.consumer) < 0)
			return;
	}
}

void base_begin_commit(struct base *base)
{
	struct paging *paging = &base->registration->paging;

	base->record.base_epoch = base->record.has_base ? base->record.base_epoch
							: base->record.expected;
	paging_lock(paging);
	if (paging->guest)
		(void)record_put_base_of(paging->guest, &base->record);
	paging_unlock(paging);
}

void base_commit(struct base *base, const uint8_t digest[IMAGE_DIGEST_BYTES])
{
	struct paging *paging = &base->registration->paging;

	memcpy(base->record.digest, digest, IMAGE_DIGEST_BYTES);
	base->record.base_epoch = base->record.expected;
	base->record.has_base = true;
	paging_lock(paging);
	/* a ledger that is full keeps the base before, and then the manifest tells (find_parent()) */
	if (paging->guest)
		(void)record_put_base_of(paging->guest, &base->record);
	paging_unlock(paging);
}

int base_restored(struct registration *registration, const char *consumer,
		  const uint8_t digest[IMAGE_DIGEST_BYTES])
{
	struct base base = { .registration = registration };
	struct paging *paging = &registration->paging;
	int r = -ESRCH;

	paging_lock(paging);
	if (paging->guest) {
		r = put_new(&base, consumer);
		memcpy(base.record.digest, digest, IMAGE_DIGEST_BYTES);
		base.record.base_epoch = base.record.expected;
		base.record.has_base = true;
		if (r == 0)
			r = record_put_base_of(paging->guest, &base.record);
	}
	paging_unlock(paging);
	return r;
}
