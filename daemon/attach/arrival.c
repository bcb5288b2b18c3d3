/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Guests come into being. */
#include "attach/arrival.h"

#include <errno.h>
#include <string.h>

#include <ufd/pager-dirty.h>

#include "attach/others.h"
#include "kernel/features.h"
#include "kernel/proc-maps.h"
#include "kernel/uapi.h"
#include "kernel/uffd.h"
#include "refusal.h"

#define MAX_PIDS 64

/* Asynchronous tracking costs a guest nothing while nobody reads; it must have been asked for. */
static uint32_t choose_track(const struct settings *settings, int uffd)
{
	uint64_t features = features_wanted(false);

	if (settings->track != SETTINGS_TRACK_AUTO)
		return (uint32_t)settings->track;
	if (uffd >= 0 && uffd_inspect(uffd, &features) < 0)
		return UFD_TRACK_SCAN;
	return features & UFFD_FEATURE_WP_ASYNC ? UFD_TRACK_SCAN : UFD_TRACK_WP;
}

/*
 * Did somebody serve it before us, so that threads may wait there? What is not said is taken for no: most
 * come with nothing registered.
 */
static bool is_registered(const struct plan *plan, pid_t pid)
{
	struct proc_map_flags flags;

	for (size_t i = 0; i < plan->n_mappings; i++)
		if (proc_map_flags(pid, (struct hva){ plan->mappings[i].address }, &flags) == 0 &&
		    (flags.is_uffd_missing || flags.is_uffd_minor || flags.is_uffd_wp))
			return true;
	return false;
}

static int new_engine_guest(struct paging *paging, int uffd, bool may_run, struct refusal *refusal)
{
	UFD_OPTS(ufd_pager_guest_opts, opts);
	struct ufd_pager_guest *guest;
	int r;

	settings_to_opts(&paging->settings, &opts);
	opts.track = choose_track(&paging->settings, uffd);
	opts.other_mappers = paging->settings.other_mappers == SETTINGS_OTHERS_EAGER
				     ? UFD_OTHERS_EAGER
				     : UFD_OTHERS_REFUSE;
	opts.may_run = may_run;
	r = ufd_pager_guest_new(paging->engine->pager, &guest, paging->name, &opts);
	if (r < 0)
		return refusal_set_errno(refusal, r, "guest `%s`: %s", paging->name, strerror(-r));
	paging_begin(paging, guest);
	return 0;
}

/* Say which processes stand in the way of which memory. */
static int refuse_others(struct paging *paging, struct refusal *refusal)
{
	for (size_t i = 0; i < paging->n_memories; i++) {
		const struct paging_memory *memory = &paging->memories[i];
		pid_t pids[MAX_PIDS];
		json_t *list;
		size_t n = 0;

		if (ufd_pager_guest_other_mappers(paging->guest, memory->number, pids, MAX_PIDS,
						  &n) < 0 ||
		    n == 0)
			continue;
		list = json_array();
		for (size_t j = 0; j < n && j < MAX_PIDS; j++)
			json_array_append_new(list, json_integer(pids[j]));
		return refusal_set(
			refusal, "io.ufd.guest.OtherMappers",
			json_pack("{s:s, s:o}", "memory", memory->name, "pids", list),
			"%zu other processes map memory `%s`; what they read of absent "
			"pages would be wrong. settings.other_mappers can attach to them, "
			"or fill everything first (eager)",
			n, memory->name);
	}
	return refusal_set_errno(refusal, -EUSERS, "other processes mapped a memory for a moment");
}

/* Before the first fill: the baseline is the source, and what the guest writes from its first instruction on counts. */
static int track(struct paging *paging, struct refusal *refusal)
{
	const char *why;
	int r = paging->consumer ? ufd_pager_guest_dirty_start(paging->guest, paging->consumer) : 0;

	if (r == 0)
		return 0;
	why = r == -EOPNOTSUPP ? ufd_pager_guest_dirty_refusal(paging->guest) : strerror(-r);
	return refusal_set(refusal, "io.ufd.dirty.NotTrackable",
			   json_pack("{s:s}", "name", paging->name),
			   "what guest `%s` writes cannot be tracked: %s", paging->name, why);
}

static int start(struct paging *paging, struct refusal *refusal)
{
	int r = track(paging, refusal);

	if (r < 0)
		return r;
	r = ufd_pager_guest_start(paging->guest);

	if (r == -EUSERS)
		return refuse_others(paging, refusal);
	if (r < 0)
		return refusal_set_errno(refusal, r, "guest `%s` cannot start: %s", paging->name,
					 strerror(-r));
	return 0;
}

int arrival_prepare(struct paging *paging, const struct plan *plan, pid_t pid, int uffd,
		    struct refusal *refusal)
{
	bool may_run = uffd >= 0 && is_registered(plan, pid);
	int r;

	paging_lock(paging);
	r = paging_admit(paging, plan, pid, refusal);
	if (r == 0)
		r = new_engine_guest(paging, uffd, may_run, refusal);
	paging_unlock(paging);
	return r;
}

int arrival_begin(struct paging *paging, const struct plan *plan, const struct plan_mapper *mapper,
		  const struct arrival_rights *rights, struct refusal *refusal)
{
	int r;

	paging_lock(paging);
	r = plan_apply(plan, paging, mapper, refusal);
	paging_unlock(paging);

	if (r == 0 && paging->settings.other_mappers == SETTINGS_OTHERS_ATTACH)
		r = others_attach(paging, plan, rights, refusal);

	if (r == 0) {
		paging_lock(paging);
		r = start(paging, refusal);
		paging_unlock(paging);
	}
	if (r < 0) {
		paging->is_to_be_left = paging_may_run_already(paging);
		paging_take_down(paging);
	}
	return r;
}
