/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The end of us. */
#include "ending.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "job.h"
#include "log-ids.h"
#include "log.h"
#include "registry.h"
#include "store/store.h"

struct drain {
	struct registration **registrations; /* owned; references */
	bool *may_leave;		     /* owned */
	size_t n_registrations;
	size_t n_left;
	uint64_t deadline_ns;
	const struct ending *ending;
};

static bool may_leave(const struct ending *ending, struct registration *registration)
{
	bool may;

	paging_lock(&registration->paging);
	may = !registration->paging.guest || ending->may_leave(ending->keeping, registration);
	paging_unlock(&registration->paging);
	return may;
}

static void drain_run(struct job *job, void *data)
{
	struct drain *drain = data;

	/* a turn for each sets its thread to work; nobody waits behind one that stalls */
	for (size_t i = 0; i < drain->n_registrations; i++) {
		drain->may_leave[i] = may_leave(drain->ending, drain->registrations[i]);
		if (!drain->may_leave[i])
			paging_finish(&drain->registrations[i]->paging, 1, job);
	}
	for (size_t i = 0; i < drain->n_registrations; i++) {
		int r = 0;

		if (!drain->may_leave[i])
			r = paging_finish(&drain->registrations[i]->paging, drain->deadline_ns,
					  job);
		drain->n_left += r < 0 && r != -ESRCH;
	}
}

static void drain_done(void *data)
{
	struct drain *drain = data;

	drain->ending->done(drain->ending->userdata, drain->n_left);
	for (size_t i = 0; i < drain->n_registrations; i++)
		registration_unref(drain->registrations[i]);
	free(drain->registrations);
	free(drain->may_leave);
	free(drain);
}

void ending_drain(struct registry *registry, const struct ending *ending)
{
	static const struct job_ops ops = { .run = drain_run, .done = drain_done };
	struct drain *drain = calloc(1, sizeof(*drain));

	if (!drain) {
		ending->done(ending->userdata, registry_totals(registry).n_guests);
		return;
	}
	drain->n_registrations = registry_collect(registry, &drain->registrations);
	drain->may_leave = calloc(drain->n_registrations + 1, sizeof(*drain->may_leave));
	drain->deadline_ns = ending->timeout_ns ? clock_now_ns() + ending->timeout_ns : 0;
	drain->ending = ending;
	if (!drain->n_registrations || !drain->may_leave ||
	    job_start(registry_jobs(registry), &ops, 0, drain, NULL) < 0) {
		drain->n_left = drain->n_registrations;
		drain_done(drain);
	}
}

static uint64_t absent_bytes(const struct registration *registration)
{
	UFD_OPTS(ufd_guest_stats, stats);

	return ufd_pager_guest_stats(registration->shown, &stats) < 0 ? 0 : stats.absent_bytes;
}

size_t ending_leave(struct registry *registry, const struct ending *ending, struct store *store)
{
	struct registration *registration = registry_next(registry, NULL), *next;
	size_t n_left = 0;

	for (; registration; registration = next) {
		char name[UFD_NAME_BYTES], number[STORE_NUMBER_BYTES];
		int r;

		next = registry_next(registry, registration);
		if (!may_leave(ending, registration)) {
			n_left += absent_bytes(registration) > 0;
			continue;
		}
		memcpy(name, registration->paging.name, sizeof(name));
		memcpy(number, registration->number, sizeof(number));
		registration_leave(registration);
		r = store_park(store, name, number);
		if (r < 0)
			log_error(LOG_FIELDS(.guest = name, .error = r,
					     .message_id = LOG_ID_NOT_KEPT),
				  "the guest's ledger cannot be copied into the state directory");
	}
	return n_left;
}
