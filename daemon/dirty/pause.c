/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Guests stand still for a moment. */
#include "dirty/pause.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "driver/qmp.h"
#include "job.h"
#include "kernel/pidfd.h"
#include "kernel/thread.h"
#include "log-ids.h"
#include "log.h"
#include "refusal.h"
#include "registry.h"
#include "store/record.h"

#define RETRY_TIMEOUT_NS NSEC_PER_SEC /* of a command when a former one got no answer */
#define RETRY_MS	 500
#define RETRIES_LAST_NS	 (60 * NSEC_PER_SEC) /* then it is said that somebody must look */

static const char *words_of(const struct refusal *refusal)
{
	const char *words = json_string_value(json_object_get(refusal->parameters, "message"));

	return words ? words : "";
}

/* What the driver said, as an error of this interface. */
static int refuse(const struct registration *registration, const struct refusal *why,
		  struct refusal *refusal)
{
	const char *name = registration->paging.name;

	return refusal_set(refusal, "io.ufd.dirty.CannotQuiesce", json_pack("{s:s}", "name", name),
			   "guest `%s` cannot be paused, and goes on: %s", name, words_of(why));
}

/* The record, while it matters. Return: 0 or -errno. */
static int note(struct registration *registration, const char *path)
{
	int r = -ESRCH;

	if (!paging_lock_within(&registration->paging, PAUSE_TIMEOUT_NS))
		return -ETIMEDOUT;
	if (registration->paging.guest)
		r = record_put_pause(registration->paging.guest, path);
	paging_unlock(&registration->paging);
	return r;
}

static void forget(struct registration *registration)
{
	paging_lock(&registration->paging);
	if (registration->paging.guest)
		record_drop_pause(registration->paging.guest);
	paging_unlock(&registration->paging);
	atomic_store(&registration->owes_resume, false);
}

/* Nobody knows whether it has stopped: `cont` behind `stop` is right in any case. */
static void undo(struct registration *registration, struct driver *driver)
{
	_cleanup_(refusal_done) struct refusal ignored = {};

	driver->call_timeout_ns = RETRY_TIMEOUT_NS;
	if (driver->ops->resume(driver, &ignored) == 0)
		forget(registration);
	else
		atomic_store(&registration->owes_resume, true);
}

static int connect_to(struct registration *registration, const char *path, struct qmp **ret,
		      struct refusal *refusal)
{
	_cleanup_(refusal_done) struct refusal why = {};
	_cleanup_(qmp_freep) struct qmp *qmp = NULL;
	const char *name = registration->paging.name;

	if (qmp_connect(&qmp, path, PAUSE_TIMEOUT_NS, &why) < 0)
		return refuse(registration, &why, refusal);
	if (!paging_has_process(&registration->paging, qmp_pid(qmp)))
		return refusal_set(refusal, "io.ufd.dirty.CannotQuiesce",
				   json_pack("{s:s}", "name", name),
				   "the monitor %s is of process %d, which is none of guest `%s`",
				   path, qmp_pid(qmp), name);
	*ret = TAKE_PTR(qmp);
	return 0;
}

/* It runs, and has to be told. */
static int stop(struct registration *registration, struct driver *driver, const char *path,
		uint64_t *ret_since_ns, struct refusal *refusal)
{
	_cleanup_(refusal_done) struct refusal why = {};
	uint64_t since_ns = clock_now_ns();
	bool was_running = false;
	int r = note(registration, path);

	if (r < 0) {
		refusal_set_errno(&why, r, "its ledger takes no record: %s", strerror(-r));
		return refuse(registration, &why, refusal);
	}
	if (driver->ops->pause(driver, &was_running, &why) < 0) {
		undo(registration, driver);
		return refuse(registration, &why, refusal);
	}
	if (!was_running) { /* somebody else was quicker, and will let it go on */
		forget(registration);
		since_ns = 0;
	}
	*ret_since_ns = since_ns;
	return 0;
}

int pause_begin(struct pause *ret, struct registration *registration, const char *path,
		struct refusal *refusal)
{
	_cleanup_(refusal_done) struct refusal why = {};
	_cleanup_(qmp_freep) struct qmp *qmp = NULL;
	bool is_running = false, is_paused = false;
	struct driver *driver;
	uint64_t since_ns = 0;
	int r;

	r = connect_to(registration, path, &qmp, refusal);
	if (r < 0)
		return r;
	driver = qmp_driver(qmp);
	if (driver->ops->look(driver, &is_running, &is_paused, &why) < 0)
		return refuse(registration, &why, refusal);
	if (is_running)
		r = stop(registration, driver, path, &since_ns, refusal);
	else if (is_paused && atomic_load(&registration->owes_resume))
		since_ns = clock_now_ns(); /* it is our own pause that goes on */
	if (r < 0)
		return r;
	*ret = (struct pause){ .registration = registration,
			       .qmp = TAKE_PTR(qmp),
			       .since_ns = since_ns,
			       .nice = thread_set_nice(thread_process_nice()) };
	return 0;
}

void pause_end(struct pause *pause, uint64_t *ret_paused_ns, json_t *warnings)
{
	struct registration *registration = pause->registration;
	_cleanup_(qmp_freep) struct qmp *qmp = TAKE_PTR(pause->qmp);
	_cleanup_(refusal_done) struct refusal why = {};
	struct driver *driver = qmp_driver(qmp);
	uint64_t paused_ns;

	*ret_paused_ns = 0;
	(void)thread_set_nice(pause->nice);
	if (!pause->since_ns)
		return;
	if (driver->ops->resume(driver, &why) < 0) {
		log_warning(LOG_FIELDS(.guest = registration->paging.name),
			    "the guest was paused, and is told again to go on: %s", words_of(&why));
		atomic_store(&registration->owes_resume, true);
		*ret_paused_ns = clock_now_ns() - pause->since_ns;
		json_array_append_new(warnings,
				      json_string("the guest was paused, and its monitor did not "
						  "answer when it was told to go on; that is "
						  "tried again"));
		return;
	}
	paused_ns = clock_now_ns() - pause->since_ns;
	forget(registration);
	atomic_fetch_add_explicit(&registration->dirty.n_pauses, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&registration->dirty.paused_ns, paused_ns, memory_order_relaxed);
	*ret_paused_ns = paused_ns;
}

/* ---- those that owe it ---- */

struct resume {
	struct registration *registration; /* a reference */
	char path[RECORD_PATH_BYTES];
};

/* One try. Return: true if there is nothing left to do. */
static bool resume_once(struct resume *resume)
{
	_cleanup_(refusal_done) struct refusal why = {};
	_cleanup_(qmp_freep) struct qmp *qmp = NULL;
	bool is_running = false, is_paused = false;
	struct driver *driver;

	if (qmp_connect(&qmp, resume->path, RETRY_TIMEOUT_NS, &why) < 0)
		return false;
	if (!paging_has_process(&resume->registration->paging, qmp_pid(qmp)))
		return true; /* another VMM listens there by now */
	driver = qmp_driver(qmp);
	if (driver->ops->look(driver, &is_running, &is_paused, &why) < 0)
		return false;
	if (is_paused && driver->ops->resume(driver, &why) < 0)
		return false;
	if (is_paused)
		log_info(LOG_FIELDS(.guest = resume->registration->paging.name,
				    .message_id = LOG_ID_RESUMED),
			 "the guest was left paused, and goes on");
	return true;
}

static bool is_gone(struct resume *resume)
{
	struct paging *paging = &resume->registration->paging;
	bool has_path;

	paging_lock(paging);
	has_path = paging->guest && record_get_pause(paging->guest, resume->path) == 0;
	paging_unlock(paging);
	return !has_path;
}

static void resume_run(struct job *job, void *data)
{
	struct resume *resume = data;
	struct registration *registration = resume->registration;
	uint64_t end_ns = clock_now_ns() + RETRIES_LAST_NS;
	struct pollfd end = { .fd = registration->pidfd, .events = POLLIN };
	bool is_done = false;

	while (!is_done && !job_is_cancelled(job) && clock_now_ns() < end_ns) {
		pthread_mutex_lock(&registration->dirty_lock);
		is_done = is_gone(resume);
		if (!is_done && resume_once(resume)) {
			forget(registration);
			is_done = true;
		}
		pthread_mutex_unlock(&registration->dirty_lock);
		if (!is_done && poll(&end, 1, RETRY_MS) > 0)
			is_done = true; /* it has ended */
	}
	if (!is_done && !job_is_cancelled(job))
		log_error(LOG_FIELDS(.guest = registration->paging.name,
				     .message_id = LOG_ID_STAYS_PAUSED),
			  "the guest may be paused still, for its monitor %s does not answer: "
			  "tell it `cont`",
			  resume->path);
}

static void resume_done(void *data)
{
	struct resume *resume = data;

	resume->registration->is_resuming = false;
	registration_unref(resume->registration);
	free(resume);
}

void pause_settle(struct registration *registration)
{
	static const struct job_ops ops = { .run = resume_run, .done = resume_done };
	struct resume *resume;

	if (registration->is_resuming || registration->state != REGISTRATION_SERVING ||
	    !atomic_load(&registration->owes_resume))
		return;
	resume = calloc(1, sizeof(*resume));
	if (!resume)
		return; /* the next call that pauses it lets it go on */
	resume->registration = registration_ref(registration);
	registration->is_resuming = true;
	if (job_start(registry_jobs(registration->registry), &ops, 0, resume, NULL) < 0)
		resume_done(resume);
}

void pause_adopt(struct registration *registration)
{
	char path[RECORD_PATH_BYTES];

	registration->adopted_ns = clock_now_ns();
	if (record_get_pause(registration->paging.guest, path) == 0)
		atomic_store(&registration->owes_resume, true);
}
