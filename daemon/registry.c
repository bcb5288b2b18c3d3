/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The guests by name.
 *
 * Theory of operation: the loop owns names and states, jobs own the engine, one at a time under the
 * lock. The loop never waits for that lock: it only tries it, to dispatch the engine's events, and
 * comes back a little later when a job has it. Counters need no lock, the engine gives them to any
 * thread; registration->shown says on the loop whether there are any.
 */
#include "registry.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "job.h"
#include "kernel/pidfd.h"
#include "log-ids.h"
#include "log.h"
#include "store/store.h"

#define RETRY_US 5000 /* until the lock is tried again */

struct registry {
	struct event_base *base;
	struct jobs *jobs; /* owned; taking down, draining */
	size_t n_most;
	size_t n_registrations;
	LIST_HEAD(, registration) registration_list;
	registry_event_fn on_event;
	void *userdata;
	struct paging_engine engine;
	struct event *engine_event; /* owned */
	struct event *retry_timer;  /* owned */
};

/* ---- events ---- */

static const struct event_form {
	const char *kind; /* NULL: for the log only */
	const char *text;
	const char *message_id;
	enum log_level level;
} forms[] = {
	[UFD_EVENT_COMPLETED] = { "completed", "every page is there", LOG_ID_COMPLETED,
				  LOG_LEVEL_INFO },
	[UFD_EVENT_GRADUATED] = { "graduated", "its memory is on its own again", NULL,
				  LOG_LEVEL_INFO },
	[UFD_EVENT_MAPPER_ENDED] = { NULL, "process %lld has ended", NULL, LOG_LEVEL_INFO },
	[UFD_EVENT_STALLED] = { "stalled", "bytes cannot be had: %s", LOG_ID_STALLED,
				LOG_LEVEL_ERROR },
	[UFD_EVENT_RECOVERED] = { "recovered", "stalled pages were filled after all",
				  LOG_ID_RECOVERED, LOG_LEVEL_INFO },
	[UFD_EVENT_DEADLINE] = { NULL, "a page has stalled for too long: the policy is applied",
				 LOG_ID_POLICY, LOG_LEVEL_ERROR },
	[UFD_EVENT_POISONED] = { "poisoned", "%lld pages are poisoned", LOG_ID_POLICY,
				 LOG_LEVEL_ERROR },
	[UFD_EVENT_KILLED] = { "killed", "process %lld is killed", LOG_ID_POLICY, LOG_LEVEL_ERROR },
	[UFD_EVENT_FOREIGN_MAPPER] = { "foreign_mapper",
				       "process %lld maps the memory and is not ours",
				       LOG_ID_FOREIGN, LOG_LEVEL_WARNING },
	[UFD_EVENT_FOREIGN_TOUCH] = { "foreign_touch",
				      "somebody else touched an absent page (1 = bytes restored): %lld",
				      LOG_ID_FOREIGN, LOG_LEVEL_WARNING },
	[UFD_EVENT_DISCARD_UNANNOUNCED] = { "discard_unannounced",
					    "a present page vanished; it reads zero", NULL,
					    LOG_LEVEL_WARNING },
	[UFD_EVENT_EXHAUSTED] = { "exhausted", "no memory for a page; it is tried again",
				  LOG_ID_EXHAUSTED, LOG_LEVEL_WARNING },
	[UFD_EVENT_SOURCE_CHANGED] = { "source_changed", "the source's file was changed under us",
				       LOG_ID_SOURCE_CHANGED, LOG_LEVEL_ERROR },
	[UFD_EVENT_HELD] = { "held",
			     "filling is held back: its memory control group has %lld MiB left",
			     LOG_ID_HELD, LOG_LEVEL_WARNING },
	[UFD_EVENT_RELEASED] = { "released", "there is room again: filling goes on", LOG_ID_HELD,
				 LOG_LEVEL_INFO },
	[UFD_EVENT_FOREIGN_WRITE] = { "foreign_write",
				      "its file was written, and nobody said where: all of it "
				      "counts as written",
				      LOG_ID_FOREIGN, LOG_LEVEL_WARNING },
	[UFD_EVENT_LOST] = { NULL, "%lld events were lost", NULL, LOG_LEVEL_WARNING },
};
#define N_FORMS (sizeof(forms) / sizeof(forms[0]))

static void registry_tell(struct registry *registry, const struct registry_event *event)
{
	if (registry->on_event)
		registry->on_event(registry->userdata, event);
}

static void tell_now(struct registration *registration, const char *kind, const char *message)
{
	registry_tell(registration->registry, &(struct registry_event){
						      .kind = kind,
						      .guest = registration->paging.name,
						      .message = message,
						      .time_ns = clock_wall_now_ns(),
					      });
}

/* Loop, with the lock held, in ufd_pager_dispatch(). */
static void on_engine_event(struct ufd_pager_guest *guest, const struct ufd_event *event,
			    void *userdata)
{
	struct registration *registration = ufd_pager_guest_userdata(guest);
	const struct event_form *form = event->kind < N_FORMS ? &forms[event->kind] : NULL;
	char text[256 + PATH_MAX];

	if (event->kind == UFD_EVENT_ENDED) {
		registration->has_ended = true;
		registration_retire(registration, "ended", NULL, NULL);
		return;
	}
	if (!form || !form->text)
		return;
	if (event->kind == UFD_EVENT_STALLED)
		snprintf(text, sizeof(text), form->text,
			 event->value == EBADMSG ? "they do not have their checksum"
						 : strerror((int)event->value));
	else
		snprintf(text, sizeof(text), form->text, (long long)event->value);
	if (event->path) {
		size_t n = strlen(text);

		snprintf(text + n, sizeof(text) - n, ": %s at its offset %llu", event->path,
			 (unsigned long long)event->path_offset);
	}
	LOG_AT(form->level, LOG_SWITCH_DATA,
	       LOG_FIELDS(.guest = registration->paging.name, .memory = event->memory,
			  .message_id = form->message_id),
	       "%s (offset 0x%llx)", text, (unsigned long long)event->offset);
	if (form->kind)
		registry_tell(registration->registry,
			      &(struct registry_event){
				      .kind = form->kind,
				      .guest = registration->paging.name,
				      .memory = event->memory,
				      .offset_bytes = event->offset,
				      .message = text,
				      .time_ns = clock_wall_ns(event->time_ns),
			      });
}

static void on_engine(evutil_socket_t fd, short what, void *userdata)
{
	const struct timeval soon = { .tv_usec = RETRY_US };
	struct registry *registry = userdata;

	if (pthread_mutex_trylock(&registry->engine.lock) != 0) {
		event_del(registry->engine_event);
		event_add(registry->retry_timer, &soon);
		return;
	}
	ufd_pager_dispatch(registry->engine.pager);
	pthread_mutex_unlock(&registry->engine.lock);
	event_add(registry->engine_event, NULL);
}

void registration_arrived(struct registration *registration)
{
	struct registry_waiter *waiter;

	while ((waiter = LIST_FIRST(&registration->waiter_list))) {
		registry_waiter_cancel(waiter);
		waiter->on_free(waiter);
	}
}

/* The name is free again; the registry's reference goes. */
static void registration_remove(struct registration *registration)
{
	LIST_REMOVE(registration, registration_link);
	registration->registry->n_registrations--;
	registration_arrived(registration);
	registration_unref(registration);
}

/* ---- the registry ---- */

int registry_new(struct registry **ret, struct event_base *base, size_t n_most)
{
	_cleanup_(registry_freep) struct registry *registry = calloc(1, sizeof(*registry));
	UFD_OPTS(ufd_pager_opts, opts, .on_event = on_engine_event);
	int r;

	if (!registry)
		return -ENOMEM;
	registry->base = base;
	registry->n_most = n_most;
	LIST_INIT(&registry->registration_list);
	pthread_mutex_init(&registry->engine.lock, NULL);
	offers_init(&registry->engine.offers);
	r = jobs_new(&registry->jobs, base, UINT_MAX);
	if (r < 0)
		return r;
	r = ufd_pager_new(&registry->engine.pager, &opts);
	if (r < 0)
		return r;
	registry->engine_event = event_new(base, ufd_pager_fd(registry->engine.pager),
					   EV_READ | EV_PERSIST, on_engine, registry);
	registry->retry_timer = evtimer_new(base, on_engine, registry);
	if (!registry->engine_event || !registry->retry_timer ||
	    event_add(registry->engine_event, NULL) < 0)
		return -ENOMEM;
	*ret = TAKE_PTR(registry);
	return 0;
}

void registry_stop(struct registry *registry)
{
	registry->jobs = jobs_free(registry->jobs);
}

/*
 * At the end of us, whatever led to it: a start that failed after guests were adopted, say. Who misses
 * nothing is let go; who does would read zeros then, and is left for a successor.
 */
static void registration_end(struct registration *registration)
{
	UFD_OPTS(ufd_guest_stats, stats);

	if (registration->paging.guest &&
	    (ufd_pager_guest_stats(registration->paging.guest, &stats) < 0 || !stats.is_complete)) {
		registration_leave(registration);
		return;
	}
	if (registration->paging.guest)
		paging_take_down(&registration->paging);
	registration_remove(registration);
}

struct registry *registry_free(struct registry *registry)
{
	struct registration *registration;

	if (!registry)
		return NULL;
	registry->on_event = NULL;
	registry_stop(registry);
	while ((registration = LIST_FIRST(&registry->registration_list)))
		registration_end(registration);
	if (registry->engine_event)
		event_free(registry->engine_event);
	if (registry->retry_timer)
		event_free(registry->retry_timer);
	ufd_pager_free(registry->engine.pager);
	pthread_mutex_destroy(&registry->engine.lock);
	offers_done(&registry->engine.offers);
	free(registry);
	return NULL;
}

void registry_set_listener(struct registry *registry, registry_event_fn on_event, void *userdata)
{
	registry->on_event = on_event;
	registry->userdata = userdata;
}

static struct registration *find_any(struct registry *registry, const char *name)
{
	struct registration *registration;

	LIST_FOREACH(registration, &registry->registration_list, registration_link)
	if (strcmp(registration->paging.name, name) == 0)
		return registration;
	return NULL;
}

/* The list has the reference. */
static struct registration *registration_new(struct registry *registry, const char *name,
					     uid_t owner, const struct settings *settings)
{
	struct registration *registration = calloc(1, sizeof(*registration));

	if (!registration)
		return NULL;
	paging_init(&registration->paging, &registry->engine, name, settings, registration);
	registration->registry = registry;
	registration->owner = owner;
	registration->pidfd = -EBADF;
	pthread_mutex_init(&registration->dirty_lock, NULL);
	pthread_mutex_init(&registration->save_lock, NULL);
	LIST_INIT(&registration->waiter_list);
	registration->n_refs = 1;
	LIST_INSERT_HEAD(&registry->registration_list, registration, registration_link);
	registry->n_registrations++;
	return registration;
}

int registry_arrive(struct registry *registry, const char *name, uid_t owner,
		    const struct settings *settings, struct registration **ret)
{
	struct registration *registration;

	if (find_any(registry, name))
		return -EEXIST;
	if (registry->n_registrations >= registry->n_most)
		return -EMFILE;
	registration = registration_new(registry, name, owner, settings);
	if (!registration)
		return -ENOMEM;
	registration->attached_ns = clock_wall_now_ns();
	*ret = registration_ref(registration);
	return 0;
}

int registry_adopt(struct registry *registry, struct ufd_pager_guest *guest,
		   const struct record_guest *record, struct registration **ret)
{
	struct registration *registration;

	registration = registration_new(registry, ufd_pager_guest_name(guest), record->owner,
					&record->settings);
	if (!registration) {
		ufd_pager_guest_leave(guest);
		return -ENOMEM;
	}
	registration->paging.front_end = record->front_end;
	registration->pid = record->pid;
	registration->attached_ns = record->attached_ns;
	memcpy(registration->qmp, record->qmp, sizeof(registration->qmp));
	paging_begin(&registration->paging, guest);
	registration->state = REGISTRATION_SERVING;
	registration->shown = guest;
	*ret = registration;
	return 0;
}

struct paging_engine *registry_engine(struct registry *registry)
{
	return &registry->engine;
}

struct jobs *registry_jobs(struct registry *registry)
{
	return registry->jobs;
}

bool registry_wait(struct registry *registry, const char *name, struct registry_waiter *waiter)
{
	struct registration *registration = find_any(registry, name);

	if (!registration ||
	    (registration->state == REGISTRATION_ARRIVING) != waiter->is_for_arrival)
		return false;
	if (registration->state == REGISTRATION_SERVING && registration->pidfd >= 0 &&
	    pidfd_is_alive(registration->pidfd))
		return false;
	LIST_INSERT_HEAD(&registration->waiter_list, waiter, waiter_link);
	waiter->is_waiting = true;
	return true;
}

void registry_waiter_cancel(struct registry_waiter *waiter)
{
	if (waiter->is_waiting)
		LIST_REMOVE(waiter, waiter_link);
	waiter->is_waiting = false;
}

void registration_commit(struct registration *registration, pid_t pid, int pidfd, uid_t owner)
{
	registration->pid = pid;
	registration->pidfd = fcntl(pidfd, F_DUPFD_CLOEXEC, 3);
	registration->owner = owner;
	registration->state = REGISTRATION_SERVING;
	registration->shown = registration->paging.guest;
	log_info(LOG_FIELDS(.guest = registration->paging.name, .message_id = LOG_ID_ATTACHED),
		 "process %d is attached", registration->pid);
	tell_now(registration, "attached", "attached");
	if (registration->has_ended)
		registration_retire(registration, "ended", NULL, NULL);
}

void registration_leave(struct registration *registration)
{
	paging_lock(&registration->paging);
	LIST_REMOVE(&registration->paging, paging_link);
	registration->paging.guest = ufd_pager_guest_leave(registration->paging.guest);
	paging_unlock(&registration->paging);
	registration->shown = NULL;
	registration_remove(registration);
}

void registration_announce(struct registration *registration, const char *kind)
{
	tell_now(registration, kind, kind);
}

struct registration *registration_ref(struct registration *registration)
{
	registration->n_refs++;
	return registration;
}

struct registration *registration_unref(struct registration *registration)
{
	if (!registration || --registration->n_refs)
		return NULL;
	paging_done(&registration->paging);
	pthread_mutex_destroy(&registration->dirty_lock);
	pthread_mutex_destroy(&registration->save_lock);
	json_decref(registration->mapper_warnings);
	closep(&registration->pidfd);
	free(registration);
	return NULL;
}

struct registration *registry_next(struct registry *registry, struct registration *before)
{
	struct registration *next = before ? LIST_NEXT(before, registration_link)
					   : LIST_FIRST(&registry->registration_list);

	while (next && next->state != REGISTRATION_SERVING)
		next = LIST_NEXT(next, registration_link);
	return next;
}

struct registration *registry_find(struct registry *registry, const char *name)
{
	struct registration *registration = find_any(registry, name);

	return registration && registration->state == REGISTRATION_SERVING ? registration : NULL;
}

size_t registry_collect(struct registry *registry, struct registration ***ret)
{
	struct registration *registration = NULL;
	size_t n = 0;

	*ret = calloc(registry->n_registrations + 1, sizeof(**ret));
	while (*ret && (registration = registry_next(registry, registration)))
		(*ret)[n++] = registration_ref(registration);
	return n;
}

struct registry_totals registry_totals(struct registry *registry)
{
	struct registry_totals totals = {};
	struct registration *registration = NULL;

	while ((registration = registry_next(registry, registration))) {
		UFD_OPTS(ufd_guest_stats, stats);

		if (ufd_pager_guest_stats(registration->shown, &stats) < 0)
			continue;
		totals.n_guests++;
		totals.n_memories += stats.n_memories;
		totals.n_faults += stats.faults_missing + stats.faults_minor + stats.faults_wp;
		totals.filled_bytes += stats.filled_bytes;
		totals.n_stalled_pages += stats.stalled_pages;
	}
	return totals;
}

/* ---- leaving ---- */

struct retirement {
	struct registration *registration; /* a reference */
	const char *kind;
	void (*on_gone)(void *userdata);
	void *userdata;
};

static void retirement_run(struct job *job, void *data)
{
	paging_take_down(&((struct retirement *)data)->registration->paging);
}

static void retirement_done(void *data)
{
	struct retirement *retirement = data;
	struct registration *registration = retirement->registration;

	log_info(LOG_FIELDS(.guest = registration->paging.name,
			    .message_id = registration->has_ended ? LOG_ID_ENDED : LOG_ID_DETACHED),
		 "%s", retirement->kind);
	registration_remove(registration);
	tell_now(registration, retirement->kind, retirement->kind);
	if (retirement->on_gone)
		retirement->on_gone(retirement->userdata);
	registration_unref(registration);
	free(retirement);
}

bool registration_retire(struct registration *registration, const char *kind,
			 void (*on_gone)(void *userdata), void *userdata)
{
	static const struct job_ops ops = { .run = retirement_run, .done = retirement_done };
	struct retirement *retirement;
	int r = -ENOMEM;

	if (registration->state != REGISTRATION_SERVING)
		return false;
	retirement = calloc(1, sizeof(*retirement));
	if (retirement) {
		*retirement = (struct retirement){
			.registration = registration_ref(registration),
			.kind = kind,
			.on_gone = on_gone,
			.userdata = userdata,
		};
		r = job_start(registration->registry->jobs, &ops, 0, retirement, NULL);
	}
	if (r < 0) {
		log_error(LOG_FIELDS(.guest = registration->paging.name, .error = r),
			  "no thread to take the guest down");
		if (retirement)
			registration_unref(registration);
		free(retirement);
		return false;
	}
	registration->state = REGISTRATION_LEAVING;
	registration->shown = NULL;
	return true;
}

void registration_abandon(struct registration *registration)
{
	if (!registration->paging.guest) {
		registration_remove(registration);
		return;
	}
	registration->state = REGISTRATION_SERVING;
	registration_retire(registration, "detached", NULL, NULL);
}

void registry_set_min_reader(struct registry *registry, struct store *store, uint32_t layout)
{
	pthread_mutex_lock(&registry->engine.lock);
	store_set_min_reader(store, layout);
	pthread_mutex_unlock(&registry->engine.lock);
}

bool registry_is_busy(const struct registry *registry)
{
	return jobs_count(registry->jobs) > 0;
}

void registry_park(void *userdata)
{
	struct registry *registry = userdata;
	struct registration *registration = NULL;

	while ((registration = registry_next(registry, registration))) {
		LIST_REMOVE(&registration->paging, paging_link);
		registration->paging.guest = ufd_pager_guest_leave(registration->paging.guest);
		registration->shown = NULL;
	}
	event_del(registry->engine_event);
	registry->engine.pager = ufd_pager_free(registry->engine.pager);
}
