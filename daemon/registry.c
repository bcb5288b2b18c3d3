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
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/units.h"
#include "job.h"
#include "log-ids.h"
#include "log.h"
#include "refusal.h"

#define RETRY_US   5000 /* until the lock is tried again */
#define TURN_NS	   (20 * NSEC_PER_MSEC)
#define BETWEEN_NS NSEC_PER_MSEC

struct registry {
	struct event_base *base;
	struct jobs *jobs; /* owned; taking down, draining */
	size_t n_most;
	size_t n_registrations;
	LIST_HEAD(, registration) registration_list;
	registry_event_fn on_event;
	void *userdata;
	pthread_mutex_t lock;
	struct ufd_pager *engine;   /* owned; under the lock */
	struct event *engine_event; /* owned */
	struct event *retry_timer;  /* owned */
};

static uint64_t wall_ns(uint64_t monotonic_ns)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec * NSEC_PER_SEC + (uint64_t)now.tv_nsec -
	       (clock_now_ns() - monotonic_ns);
}

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
						      .guest = registration->name,
						      .message = message,
						      .time_ns = wall_ns(clock_now_ns()),
					      });
}

/* Loop, with the lock held, in ufd_pager_dispatch(). */
static void on_engine_event(struct ufd_pager_guest *guest, const struct ufd_event *event,
			    void *userdata)
{
	struct registration *registration = ufd_pager_guest_userdata(guest);
	const struct event_form *form = event->kind < N_FORMS ? &forms[event->kind] : NULL;
	char text[256];

	if (event->kind == UFD_EVENT_ENDED) {
		registration->has_ended = true;
		registration_retire(registration, "ended", NULL, NULL);
		return;
	}
	if (!form || !form->text)
		return;
	if (event->kind == UFD_EVENT_STALLED)
		snprintf(text, sizeof(text), form->text, strerror((int)event->value));
	else
		snprintf(text, sizeof(text), form->text, (long long)event->value);
	LOG_AT(form->level, LOG_SWITCH_DATA,
	       LOG_FIELDS(.guest = registration->name, .memory = event->memory,
			  .message_id = form->message_id),
	       "%s (offset 0x%llx)", text, (unsigned long long)event->offset);
	if (form->kind)
		registry_tell(registration->registry, &(struct registry_event){
							      .kind = form->kind,
							      .guest = registration->name,
							      .memory = event->memory,
							      .offset_bytes = event->offset,
							      .message = text,
							      .time_ns = wall_ns(event->time_ns),
						      });
}

static void on_engine(evutil_socket_t fd, short what, void *userdata)
{
	const struct timeval soon = { .tv_usec = RETRY_US };
	struct registry *registry = userdata;

	if (pthread_mutex_trylock(&registry->lock) != 0) {
		event_del(registry->engine_event);
		event_add(registry->retry_timer, &soon);
		return;
	}
	ufd_pager_dispatch(registry->engine);
	pthread_mutex_unlock(&registry->lock);
	event_add(registry->engine_event, NULL);
}

void registration_take_down(struct registration *registration)
{
	struct registration_mapper *mappers;
	size_t n_mappers;

	registry_lock(registration->registry);
	registration->engine = ufd_pager_guest_free(registration->engine);
	mappers = TAKE_PTR(registration->mappers);
	n_mappers = registration->n_mappers;
	registration->n_mappers = 0;
	registry_unlock(registration->registry);

	/* the processes' own copies go while ours is still open: nobody reads zeros in between */
	for (size_t i = 0; i < n_mappers; i++) {
		_cleanup_(refusal_done) struct refusal refusal = {};
		struct process_opts opts = PROCESS_OPTS_DEFAULT;

		if (mappers[i].attachment.uffd >= 0 &&
		    process_detach(&mappers[i].attachment, &opts, &refusal) < 0)
			log_warning(
				LOG_FIELDS(.guest = registration->name),
				"process %d keeps its copy of the userfaultfd: %s", mappers[i].pid,
				json_string_value(json_object_get(refusal.parameters, "message")));
		process_attachment_done(&mappers[i].attachment);
	}
	free(mappers);
}

/* The name is free again; the registry's reference goes. */
static void registration_remove(struct registration *registration)
{
	LIST_REMOVE(registration, registration_link);
	registration->registry->n_registrations--;
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
	pthread_mutex_init(&registry->lock, NULL);
	r = jobs_new(&registry->jobs, base, UINT_MAX);
	if (r < 0)
		return r;
	r = ufd_pager_new(&registry->engine, &opts);
	if (r < 0)
		return r;
	registry->engine_event = event_new(base, ufd_pager_fd(registry->engine),
					   EV_READ | EV_PERSIST, on_engine, registry);
	registry->retry_timer = evtimer_new(base, on_engine, registry);
	if (!registry->engine_event || !registry->retry_timer ||
	    event_add(registry->engine_event, NULL) < 0)
		return -ENOMEM;
	*ret = TAKE_PTR(registry);
	return 0;
}

struct registry *registry_free(struct registry *registry)
{
	struct registration *registration;

	if (!registry)
		return NULL;
	registry->on_event = NULL;
	jobs_free(registry->jobs);
	while ((registration = LIST_FIRST(&registry->registration_list))) {
		registration_take_down(registration);
		registration_remove(registration);
	}
	if (registry->engine_event)
		event_free(registry->engine_event);
	if (registry->retry_timer)
		event_free(registry->retry_timer);
	ufd_pager_free(registry->engine);
	pthread_mutex_destroy(&registry->lock);
	free(registry);
	return NULL;
}

void registry_set_listener(struct registry *registry, registry_event_fn on_event, void *userdata)
{
	registry->on_event = on_event;
	registry->userdata = userdata;
}

void registry_lock(struct registry *registry)
{
	pthread_mutex_lock(&registry->lock);
}

void registry_unlock(struct registry *registry)
{
	pthread_mutex_unlock(&registry->lock);
}

bool registry_try_lock(struct registry *registry)
{
	return pthread_mutex_trylock(&registry->lock) == 0;
}

struct ufd_pager *registry_engine(struct registry *registry)
{
	return registry->engine;
}

static struct registration *find_any(struct registry *registry, const char *name)
{
	struct registration *registration;

	LIST_FOREACH(registration, &registry->registration_list, registration_link)
	if (strcmp(registration->name, name) == 0)
		return registration;
	return NULL;
}

int registry_arrive(struct registry *registry, const char *name, uid_t owner,
		    const struct settings *settings, struct registration **ret)
{
	struct registration *registration;

	if (find_any(registry, name))
		return -EEXIST;
	if (registry->n_registrations >= registry->n_most)
		return -EMFILE;
	registration = calloc(1, sizeof(*registration));
	if (!registration)
		return -ENOMEM;
	snprintf(registration->name, sizeof(registration->name), "%s", name);
	registration->registry = registry;
	registration->settings = *settings;
	registration->owner = owner;
	registration->n_refs = 2; /* the list's and the caller's */
	LIST_INSERT_HEAD(&registry->registration_list, registration, registration_link);
	registry->n_registrations++;
	*ret = registration;
	return 0;
}

void registration_commit(struct registration *registration, pid_t pid, uid_t owner)
{
	registration->pid = pid;
	registration->owner = owner;
	registration->state = REGISTRATION_SERVING;
	registration->shown = registration->engine;
	registration->attached_ns = wall_ns(clock_now_ns());
	log_info(LOG_FIELDS(.guest = registration->name, .message_id = LOG_ID_ATTACHED),
		 "process %d is attached", registration->pid);
	tell_now(registration, "attached", "attached");
	if (registration->has_ended)
		registration_retire(registration, "ended", NULL, NULL);
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
	for (size_t i = 0; i < registration->n_memories; i++)
		free(registration->memories[i].source);
	for (size_t i = 0; i < registration->n_mappers; i++)
		process_attachment_done(&registration->mappers[i].attachment);
	free(registration->memories);
	free(registration->mappers);
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

struct registration_memory *registration_memory(struct registration *registration, const char *name)
{
	for (size_t i = 0; i < registration->n_memories; i++)
		if (strcmp(registration->memories[i].name, name) == 0)
			return &registration->memories[i];
	return NULL;
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
	registration_take_down(((struct retirement *)data)->registration);
}

static void retirement_done(void *data)
{
	struct retirement *retirement = data;
	struct registration *registration = retirement->registration;

	log_info(LOG_FIELDS(.guest = registration->name,
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
		log_error(LOG_FIELDS(.guest = registration->name, .error = r),
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
	if (!registration->engine) {
		registration_remove(registration);
		return;
	}
	registration->state = REGISTRATION_SERVING;
	registration_retire(registration, "detached", NULL, NULL);
}

/* ---- filling up ---- */

int registration_finish(struct registration *registration, uint64_t deadline_ns,
			bool (*is_cancelled)(void *userdata), void *userdata)
{
	const struct timespec between = { .tv_nsec = (long)BETWEEN_NS };

	for (;;) {
		int r = -ESRCH;

		registry_lock(registration->registry);
		if (registration->engine)
			r = ufd_pager_guest_finish(registration->engine, TURN_NS);
		registry_unlock(registration->registry);
		if (r != -ETIMEDOUT)
			return r;
		if (is_cancelled && is_cancelled(userdata))
			return -ECANCELED;
		if (deadline_ns && clock_now_ns() >= deadline_ns)
			return -ETIMEDOUT;
		nanosleep(&between, NULL); /* somebody else's turn */
	}
}

struct drain {
	struct registration **registrations; /* owned; references */
	size_t n_registrations;
	size_t n_left;
	uint64_t deadline_ns;
	void (*done)(void *userdata, size_t n_left);
	void *userdata;
};

static void drain_run(struct job *job, void *data)
{
	struct drain *drain = data;

	for (size_t i = 0; i < drain->n_registrations; i++) {
		int r = registration_finish(drain->registrations[i], drain->deadline_ns, NULL,
					    NULL);

		drain->n_left += r < 0 && r != -ESRCH;
	}
}

static void drain_done(void *data)
{
	struct drain *drain = data;

	drain->done(drain->userdata, drain->n_left);
	for (size_t i = 0; i < drain->n_registrations; i++)
		registration_unref(drain->registrations[i]);
	free(drain->registrations);
	free(drain);
}

void registry_drain(struct registry *registry, uint64_t timeout_ns,
		    void (*done)(void *userdata, size_t n_left), void *userdata)
{
	static const struct job_ops ops = { .run = drain_run, .done = drain_done };
	struct drain *drain = calloc(1, sizeof(*drain));

	if (!drain) {
		done(userdata, registry->n_registrations);
		return;
	}
	drain->n_registrations = registry_collect(registry, &drain->registrations);
	drain->deadline_ns = timeout_ns ? clock_now_ns() + timeout_ns : 0;
	drain->done = done;
	drain->userdata = userdata;
	if (!drain->n_registrations || job_start(registry->jobs, &ops, 0, drain, NULL) < 0) {
		drain->n_left = drain->n_registrations;
		drain_done(drain);
	}
}
