/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Live, on a scan context: rounds into the image while the guest runs, and a short pause for the
 * rest.
 */

/*
 * Two consumers: one for the rounds, which acknowledges each when the next one is read, and the one
 * that snapshots count from, which acknowledges nothing before this snapshot is on disk. The
 * rounds' one starts first, so that no write falls between both.
 *
 * A page that is torn because the guest writes while it is copied has been written since the
 * look before, and comes again.
 */
#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/units.h"
#include "dirty/tracking.h"
#include "refusal.h"
#include "registry.h"
#include "snapshot/rounds.h"
#include "snapshots/saving.h"

/* What a pause costs beside copying, before it is known. */
#define DEVICES_NS (30 * NSEC_PER_MSEC)

static void stop_rounds(struct saving *saving)
{
	_cleanup_(refusal_done) struct refusal ignored = {};

	(void)tracking_stop(saving->request->guest, LIVE_CONSUMER, &ignored);
}

static int start_rounds(struct saving *saving)
{
	const struct tracking_opts opts = { .consumer = LIVE_CONSUMER,
					    .qmp = saving->request->qmp };
	struct tracking_started started = {};
	int r;

	stop_rounds(saving); /* one that an abort could not stop */
	r = saving_note(saving, LIVE_CONSUMER, NULL);
	if (r == 0)
		r = tracking_start(saving->request->guest, &opts, &started, saving->refusal);
	tracking_started_done(&started); /* the snapshots' consumer has warned of the same */
	return r;
}

/* What he read we were not told. */
static int refuse_stranger(struct saving *saving)
{
	return refusal_set_errno(saving->refusal, -ESTALE,
				 "somebody else has read consumer `%s` of guest `%s` during the "
				 "save: what was written is not known; try again",
				 LIVE_CONSUMER, saving->request->guest->paging.name);
}

/* One look while the guest runs. */
static int look(struct saving *saving, uint64_t *ret_left_bytes)
{
	_cleanup_(tracking_epoch_done) struct tracking_epoch epoch = {};
	int r = tracking_read(saving->request->guest, LIVE_CONSUMER, UFD_DIRTY_LAST, &epoch,
			      saving->refusal);

	if (r < 0)
		return r;
	if (epoch.epoch.epoch != saving->live_epoch + 1)
		return refuse_stranger(saving);
	saving->live_epoch = epoch.epoch.epoch;
	saving->manifest.paused_ns = max_u64(saving->manifest.paused_ns, epoch.paused_ns);
	*ret_left_bytes = epoch.epoch.dirty_bytes;
	return 0;
}

static int refuse_pause(struct saving *saving, const struct rounds *rounds, uint64_t left_bytes)
{
	uint64_t pause_ns = rounds_pause_ns(rounds, left_bytes);

	return refusal_set(saving->refusal, "io.ufd.guest.PauseTooLong",
			   json_pack("{s:s,s:I,s:I}", "name", saving->request->guest->paging.name,
				     "left_bytes", (json_int_t)left_bytes, "pause_ns",
				     (json_int_t)min_u64(pause_ns, INT64_MAX)),
			   "guest `%s` writes faster than it is copied: after %u rounds %llu MiB "
			   "were left, for a pause of about %llu ms; allow more, or save it "
			   "without --live",
			   saving->request->guest->paging.name, rounds->n_rounds,
			   (unsigned long long)(left_bytes / MIB),
			   (unsigned long long)(pause_ns / NSEC_PER_MSEC));
}

/* Until what is left fits the pause, or will not. What was seen last is the pause's to copy. */
static int run_rounds(struct saving *saving, struct copy *copy, struct rounds *rounds)
{
	const struct snapshot_request *request = saving->request;
	uint64_t left_bytes = 0, start_ns = clock_now_ns(), before = 0, now;
	enum rounds_verdict verdict;
	int r;

	r = saving_copy_watched(saving, copy);
	for (;;) {
		now = atomic_load_explicit(&request->progress->done_bytes, memory_order_relaxed);
		rounds_copied(rounds, now - before, clock_now_ns() - start_ns);
		before = now;
		if (r == 0)
			r = look(saving, &left_bytes);
		if (r < 0)
			return r;
		verdict = rounds_judge(rounds, left_bytes);
		if (verdict == ROUNDS_STUCK && request->is_strict)
			return refuse_pause(saving, rounds, left_bytes);
		if (verdict != ROUNDS_AGAIN)
			return 0;
		start_ns = clock_now_ns();
		r = saving_copy_marked(saving, copy, LIVE_CONSUMER);
	}
}

/*
 * Another look, into which what the last one found comes again: it was not copied. With the lock.
 */
static int look_again(struct ufd_pager_guest *guest, uint64_t live_epoch)
{
	UFD_OPTS(ufd_dirty_epoch, epoch);
	UFD_OPTS(ufd_consumer_info, info);

	if (!guest)
		return -ESRCH;
	for (uint32_t i = 0; ufd_pager_consumer_info(guest, i, &info) == 0; i++)
		if (strcmp(info.name, LIVE_CONSUMER) == 0)
			return info.epoch != live_epoch
				       ? -ESTALE
				       : ufd_pager_guest_dirty_read(guest, LIVE_CONSUMER,
								    info.epoch - 1, &epoch);
	return -ENOENT;
}

/*
 * While it stands still: its devices, then all that was written since it was copied. This pause
 * counts, not those of a look that had to be quiesced, which are shorter.
 */
static int finish_still(void *userdata, struct still *still)
{
	const struct still_copy *finish = userdata;
	struct saving *saving = finish->saving;
	struct paging *paging = &saving->request->guest->paging;
	int r;

	saving->manifest.paused_ns = 0;
	r = saving_save_devices(saving, still);
	if (r < 0)
		return r;
	paging_lock(paging);
	r = look_again(paging->guest, saving->live_epoch);
	paging_unlock(paging);
	if (r == -ESTALE)
		return refuse_stranger(saving);
	if (r < 0)
		return refusal_set_errno(saving->refusal, r,
					 "what guest `%s` wrote cannot be read: %s", paging->name,
					 strerror(-r));
	r = saving_read_base(saving);
	if (r == 0)
		r = saving_copy_unwatched(saving, finish->copy);
	return r ? r : saving_copy_marked(saving, finish->copy, LIVE_CONSUMER);
}

static int run(struct saving *saving, struct copy *copy)
{
	const uint64_t pause_ns = saving->request->max_pause_ns;
	struct rounds rounds = { .pause_ns = pause_ns,
				 .fixed_ns = min_u64(DEVICES_NS, pause_ns / 2) };
	int r = 0;

	/* a layer: what was written since its parent, as far as that is known now */
	if (saving->request->parent) {
		pthread_mutex_lock(&saving->request->guest->dirty_lock);
		r = saving_read_base(saving);
		pthread_mutex_unlock(&saving->request->guest->dirty_lock);
	}
	if (r == 0)
		r = run_rounds(saving, copy, &rounds);
	if (r == 0)
		r = saving_while_still(saving, finish_still, &(struct still_copy){ saving, copy });
	saving->manifest.n_rounds = rounds.n_rounds;
	if (r == 0)
		saving_judge_pause(saving);
	return r;
}

int saving_by_rounds(struct saving *saving)
{
	const struct copy_opts opts = saving_copy_opts(saving);
	_cleanup_(copy_freep) struct copy *copy = NULL;
	int r;

	saving->manifest.way = SNAPSHOT_ROUNDS;
	r = saving_new_copy(saving, &opts, &copy);
	if (r < 0)
		return r;
	r = start_rounds(saving);
	if (r < 0)
		return r;
	r = run(saving, copy);
	stop_rounds(saving);
	return r;
}
