/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Saves that died with the daemon. */
#include "snapshots/abort.h"

#include <stdlib.h>

#include "base/units.h"
#include "dirty/tracking.h"
#include "driver/qmp.h"
#include "job.h"
#include "log-ids.h"
#include "log.h"
#include "refusal.h"
#include "registry.h"
#include "snapshots/base.h"
#include "snapshots/record.h"

#define MONITOR_TIMEOUT_NS (10 * NSEC_PER_SEC)

struct abort {
	struct registration *registration; /* a reference */
	struct record_saving record;
};

static void recall(const struct abort *abort)
{
	_cleanup_(refusal_done) struct refusal why = {};
	_cleanup_(qmp_freep) struct qmp *qmp = NULL;
	struct driver *driver;
	int r;

	if (!abort->record.has_driver_state || !abort->record.qmp[0])
		return;
	r = qmp_connect(&qmp, abort->record.qmp, MONITOR_TIMEOUT_NS, &why);
	if (r == 0 && !paging_has_process(&abort->registration->paging, qmp_pid(qmp)))
		return; /* another VMM listens there by now */
	if (r == 0) {
		driver = qmp_driver(qmp);
		r = driver->ops->recall(driver, abort->record.driver_state, &why);
	}
	if (r < 0)
		log_warning(LOG_FIELDS(.guest = abort->registration->paging.name),
			    "the guest's monitor keeps settings of a save that was cut short "
			    "(x-ignore-shared): %s",
			    json_string_value(json_object_get(why.parameters, "message")));
}

static void abort_run(struct job *job, void *data)
{
	_cleanup_(refusal_done) struct refusal ignored = {};
	struct abort *abort = data;
	struct paging *paging = &abort->registration->paging;

	pthread_mutex_lock(&abort->registration->save_lock);
	if (abort->record.consumer[0])
		(void)tracking_stop(abort->registration, abort->record.consumer, &ignored);
	base_abandon_adopted(abort->registration);
	recall(abort);
	paging_lock(paging);
	if (paging->guest)
		record_drop_saving(paging->guest);
	paging_unlock(paging);
	pthread_mutex_unlock(&abort->registration->save_lock);
	log_warning(LOG_FIELDS(.guest = paging->name, .message_id = LOG_ID_SAVE_ABORTED),
		    "a snapshot of the guest was cut short by the end of ufdd, and is void; the "
		    "guest goes on");
}

static void abort_done(void *data)
{
	struct abort *abort = data;

	registration_unref(abort->registration);
	free(abort);
}

static void abort_one(struct registry *registry, struct registration *registration)
{
	static const struct job_ops ops = { .run = abort_run, .done = abort_done };
	struct record_saving record = {};
	struct record_base base;
	struct abort *abort;
	bool was_saved;

	paging_lock(&registration->paging);
	was_saved = record_get_saving(registration->paging.guest, &record) == 0 ||
		    base_find_abandoned(registration->paging.guest, &base);
	paging_unlock(&registration->paging);
	if (!was_saved)
		return;
	abort = calloc(1, sizeof(*abort));
	if (!abort)
		return; /* the next save does it */
	abort->registration = registration_ref(registration);
	abort->record = record;
	if (job_start(registry_jobs(registry), &ops, 0, abort, NULL) < 0)
		abort_done(abort);
}

void snapshot_abort_adopted(struct registry *registry)
{
	struct registration *registration = NULL;

	while ((registration = registry_next(registry, registration)))
		if (registration->paging.guest)
			abort_one(registry, registration);
}
