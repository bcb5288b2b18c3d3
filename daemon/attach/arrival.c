/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Guests come into being. */
#include "attach/arrival.h"

#include <errno.h>
#include <string.h>

#include "attach/others.h"
#include "refusal.h"

#define MAX_PIDS 64

static int new_engine_guest(struct registration *registration, struct refusal *refusal)
{
	UFD_OPTS(ufd_pager_guest_opts, opts);
	int r;

	settings_to_opts(&registration->settings, &opts);
	opts.other_mappers = registration->settings.other_mappers == SETTINGS_OTHERS_EAGER
				     ? UFD_OTHERS_EAGER
				     : UFD_OTHERS_REFUSE;
	r = ufd_pager_guest_new(registry_engine(registration->registry), &registration->engine,
				registration->name, &opts);
	if (r < 0)
		return refusal_set_errno(refusal, r, "guest `%s`: %s", registration->name,
					 strerror(-r));
	ufd_pager_guest_set_userdata(registration->engine, registration);
	return 0;
}

/* Say which processes stand in the way of which memory. */
static int refuse_others(struct registration *registration, struct refusal *refusal)
{
	for (size_t i = 0; i < registration->n_memories; i++) {
		const struct registration_memory *memory = &registration->memories[i];
		pid_t pids[MAX_PIDS];
		json_t *list;
		size_t n = 0;

		if (ufd_pager_guest_other_mappers(registration->engine, memory->number, pids,
						  MAX_PIDS, &n) < 0 ||
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

static int start(struct registration *registration, struct refusal *refusal)
{
	int r = ufd_pager_guest_start(registration->engine);

	if (r == -EUSERS)
		return refuse_others(registration, refusal);
	if (r < 0)
		return refusal_set_errno(refusal, r, "guest `%s` cannot start: %s",
					 registration->name, strerror(-r));
	return 0;
}

int arrival_begin(struct registration *registration, const struct plan *plan,
		  const struct plan_mapper *mapper, const struct arrival_rights *rights,
		  struct refusal *refusal)
{
	struct registry *registry = registration->registry;
	int r;

	registry_lock(registry);
	r = new_engine_guest(registration, refusal);
	if (r == 0)
		r = plan_apply(plan, registration, mapper, refusal);
	registry_unlock(registry);

	if (r == 0 && registration->settings.other_mappers == SETTINGS_OTHERS_ATTACH)
		r = others_attach(registration, plan, rights, refusal);

	if (r == 0) {
		registry_lock(registry);
		r = start(registration, refusal);
		registry_unlock(registry);
	}
	if (r < 0)
		registration_take_down(registration);
	return r;
}
