/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Visitors: who connected, until it is a guest or has gone.
 *
 * Nothing that a visitor does or does not do holds up anybody: what it says is read as it comes, its
 * deadline ends what does not come, and everything that looks at its process is a job.
 */
#include <errno.h>
#include <event2/event.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "config.h"
#include "handoff/listener.h"
#include "job.h"
#include "kernel/pidfd.h"
#include "log-ids.h"
#include "log.h"

#define RETRY_US 20000

static void on_readable(evutil_socket_t fd, short what, void *userdata);
static void on_timer(evutil_socket_t fd, short what, void *userdata);
static void on_name_free(struct registry_waiter *waiter);

static void set_timer(struct visitor *visitor, uint64_t after_ns)
{
	const struct timeval after = {
		.tv_sec = (time_t)(after_ns / NSEC_PER_SEC),
		.tv_usec = (suseconds_t)(after_ns % NSEC_PER_SEC / NSEC_PER_USEC),
	};

	evtimer_add(visitor->timer, &after);
}

static void set_deadline(struct visitor *visitor)
{
	visitor->deadline_ns = clock_now_ns() + HANDOFF_MESSAGE_SECONDS * NSEC_PER_SEC;
	set_timer(visitor, HANDOFF_MESSAGE_SECONDS * NSEC_PER_SEC);
}

/* Return: 0, or -errno: then it is still the caller's to free. */
static int visitor_watch(struct visitor *visitor)
{
	struct event_base *base = visitor->listener->handoffs->needs.base;
	int r;

	r = pidfd_of_peer(visitor->gather.fd, &visitor->pidfd, &visitor->pid, &visitor->uid,
			  &visitor->gid);
	if (r < 0)
		return r;
	visitor->event = event_new(base, visitor->gather.fd, EV_READ | EV_PERSIST, on_readable,
				   visitor);
	visitor->timer = evtimer_new(base, on_timer, visitor);
	if (!visitor->event || !visitor->timer)
		return -ENOMEM;
	return 0;
}

void visitor_new(struct listener *listener, int fd)
{
	struct visitor *visitor = calloc(1, sizeof(*visitor));
	int r;

	if (!visitor) {
		close(fd);
		return;
	}
	gather_init(&visitor->gather, fd);
	visitor->listener = listener_ref(listener);
	visitor->pidfd = -EBADF;
	visitor->waiter.on_free = on_name_free;
	LIST_INSERT_HEAD(&listener->visitor_list, visitor, visitor_link);
	listener->n_visitors++;
	listener->counters.n_visitors++;
	r = visitor_watch(visitor);
	if (r < 0) {
		refusal_set_errno(&visitor->refusal, r, "who connected cannot be named: %s",
				  r == -ESRCH ? "the process has ended" : strerror(-r));
		visitor_refuse(visitor, &visitor->refusal);
		return;
	}
	set_deadline(visitor);
	if (listener->speaker)
		visitor_arrive(visitor);
	else
		event_add(visitor->event, NULL);
}

void visitor_free(struct visitor *visitor)
{
	struct listener *listener = visitor->listener;

	LIST_REMOVE(visitor, visitor_link);
	listener->n_visitors--;
	registry_waiter_cancel(&visitor->waiter);
	if (visitor->event)
		event_free(visitor->event);
	if (visitor->timer)
		event_free(visitor->timer);
	registration_unref(visitor->registration);
	refusal_done(&visitor->refusal);
	gather_done(&visitor->gather);
	closep(&visitor->pidfd);
	free(visitor);
	listener_update(listener);
	listener_unref(listener);
}

void visitor_refuse(struct visitor *visitor, const struct refusal *refusal)
{
	const char *message = json_string_value(json_object_get(refusal->parameters, "message"));
	struct listener *listener = visitor->listener;

	listener->counters.n_refused++;
	snprintf(listener->last_refusal, sizeof(listener->last_refusal), "%s: %s", refusal->error,
		 message ? message : "");
	log_warning(LOG_FIELDS(.guest = visitor->name[0] ? visitor->name : NULL,
			       .message_id = LOG_ID_HANDOFF_REFUSED),
		    "hand-off %s: process %d, user %u, is refused: %s (%s)", listener->wish.path,
		    visitor->pid, visitor->uid, message ? message : "?", refusal->error);
	visitor_free(visitor);
}

/* ---- gathering ---- */

static void leave_without_a_word(struct visitor *visitor)
{
	visitor->listener->counters.n_empty++;
	log_debug(LOG_SWITCH_CONTROL, LOG_FIELDS(), "hand-off %s: process %d left without a word",
		  visitor->listener->wish.path, visitor->pid);
	visitor_free(visitor);
}

static int look(struct visitor *visitor)
{
	struct frontend_input input = gather_input(&visitor->gather);
	struct refusal *refusal = &visitor->refusal;
	int r;

	visitor->frontend = visitor->listener->frontend;
	if (!visitor->frontend)
		return frontend_recognise(&input, &visitor->frontend, &visitor->offer, refusal);
	r = visitor->frontend->read(&input, &visitor->offer, refusal);
	if (r == FRONTEND_OTHER)
		return refusal_set(refusal, "io.ufd.handoff.BadMessage", NULL,
				   "this is not how %s begins, which is what is expected here",
				   visitor->frontend->name);
	return r;
}

static int check_experimental(struct visitor *visitor)
{
	const struct handoffs_needs *needs = &visitor->listener->handoffs->needs;

	if (!visitor->frontend->is_experimental || needs->config->may_experiment)
		return 0;
	return refusal_set(&visitor->refusal, "io.ufd.handoff.UnsupportedDialect",
			   json_pack("{s:s}", "dialect", visitor->frontend->name),
			   "the VMM speaks %s, which is experimental: [daemon] "
			   "experimental-dialects in ufdd.conf(5) allows it",
			   visitor->frontend->name);
}

static void on_readable(evutil_socket_t fd, short what, void *userdata)
{
	struct visitor *visitor = userdata;
	int r = gather_read(&visitor->gather, &visitor->refusal);

	if (r == 0 && visitor->gather.is_ended && !visitor->gather.n_bytes) {
		leave_without_a_word(visitor);
		return;
	}
	if (r == 0)
		r = look(visitor);
	if (r == FRONTEND_WHOLE)
		r = check_experimental(visitor);
	if (r < 0) {
		visitor_refuse(visitor, &visitor->refusal);
		return;
	}
	if (r != FRONTEND_WHOLE)
		return;
	event_del(visitor->event);
	set_deadline(visitor);
	visitor_arrive(visitor);
}

static void on_timer(evutil_socket_t fd, short what, void *userdata)
{
	struct visitor *visitor = userdata;
	struct refusal *refusal = &visitor->refusal;

	if (visitor->state == VISITOR_WAITING && !visitor->waiter.is_waiting) {
		visitor_arrive(visitor);
		return;
	}
	if (visitor->state == VISITOR_WAITING)
		refusal_set(refusal, "io.ufd.guest.GuestExists",
			    json_pack("{s:s}", "name", visitor->name),
			    "guest `%s` is not gone after %d seconds", visitor->name,
			    HANDOFF_MESSAGE_SECONDS);
	else
		refusal_set(refusal, "io.ufd.handoff.BadMessage", NULL,
			    "%zu bytes and %zu file descriptors came within %d seconds, and no "
			    "message is whole",
			    visitor->gather.n_bytes, visitor->gather.n_fds,
			    HANDOFF_MESSAGE_SECONDS);
	visitor_refuse(visitor, refusal);
}

/* ---- arriving ---- */

/* Who has come before, on the same kind of connection: it may come back with what we have. */
static struct registration *find_known(const struct visitor *visitor)
{
	struct registry *registry = visitor->listener->handoffs->needs.registry;
	struct registration *registration = NULL;

	if (visitor->frontend->end != FRONTEND_END_REATTACH)
		return NULL;
	while ((registration = registry_next(registry, registration)))
		if (registration->pid == visitor->pid &&
		    registration->owner == visitor->listener->wish.owner &&
		    strcmp(front_end_word(registration->paging.front_end),
			   visitor->frontend->name) == 0)
			return registration;
	return NULL;
}

static void take_known(struct visitor *visitor, struct registration *registration)
{
	visitor->registration = registration_ref(registration);
	visitor->is_again = true;
	strcpy(visitor->name, registration->paging.name);
}

/* Return: 0; 1 if it is tried again; -ECANCELED. */
static int take_name(struct visitor *visitor)
{
	const struct handoff_wish *wish = &visitor->listener->wish;
	struct registry *registry = visitor->listener->handoffs->needs.registry;
	bool is_numbered = strchr(wish->name, '%');
	struct refusal *refusal = &visitor->refusal;
	uint64_t number = wish->n_taken;
	int r;

	do {
		wish_guest_name(wish, number++, visitor->name);
		r = registry_arrive(registry, visitor->name, wish->owner, &wish->settings,
				    &visitor->registration);
	} while (r == -EEXIST && is_numbered);
	if (r == 0)
		return 0;
	if (r == -EEXIST && registry_wait(registry, visitor->name, &visitor->waiter))
		return 1;
	if (r == -EEXIST)
		return refusal_set(refusal, "io.ufd.guest.GuestExists",
				   json_pack("{s:s}", "name", visitor->name),
				   "guest `%s` exists already; a `%%` in the hand-off's name "
				   "becomes a number",
				   visitor->name);
	if (r == -EMFILE)
		return refusal_set(refusal, "io.ufd.manager.LimitReached",
				   json_pack("{s:s}", "limit", "guests"),
				   "as many guests as [limits] guests allows are there already");
	return refusal_set_errno(refusal, r, "%s", strerror(-r));
}

static void on_name_free(struct registry_waiter *waiter)
{
	struct visitor *visitor = (struct visitor *)((char *)waiter -
						     offsetof(struct visitor, waiter));

	visitor_arrive(visitor);
}

/* Return: 0; 1 if it waits; -ECANCELED. */
static int take_registration(struct visitor *visitor)
{
	struct registration *known;
	enum front_end front_end;
	int r;

	if (visitor->registration)
		return 0;
	known = find_known(visitor);
	if (known) {
		take_known(visitor, known);
		return 0;
	}
	r = take_name(visitor);
	if (r)
		return r;
	if (front_end_find(visitor->frontend->name, &front_end))
		visitor->registration->paging.front_end = front_end;
	visitor->registration->pid = visitor->pid;
	return 0;
}

static void job_run(struct job *job, void *data)
{
	struct visitor *visitor = data;

	visitor->result = visitor_hand_over(visitor, job);
}

static void done_conversation(struct visitor *visitor)
{
	struct listener *listener = visitor->listener;

	listener->counters.n_served++;
	log_info(LOG_FIELDS(.message_id = LOG_ID_HANDOFF), "hand-off %s: process %d: %s",
		 listener->wish.path, visitor->pid, visitor->said);
	listener_count(listener);
	visitor_free(visitor);
}

static void done_again(struct visitor *visitor)
{
	visitor->listener->counters.n_again++;
	log_info(LOG_FIELDS(.guest = visitor->name, .message_id = LOG_ID_HANDOFF),
		 "hand-off %s: process %d is back, and its guest was served all the time",
		 visitor->listener->wish.path, visitor->pid);
	line_new(visitor);
}

static void done_guest(struct visitor *visitor)
{
	struct listener *listener = visitor->listener;

	registration_commit(visitor->registration, visitor->pid, visitor->pidfd,
			    listener->wish.owner);
	registration_arrived(visitor->registration);
	listener->counters.n_guests++;
	log_info(LOG_FIELDS(.guest = visitor->name, .message_id = LOG_ID_HANDOFF),
		 "hand-off %s: process %d, user %u, left its memory: %s, %zu regions%s%s",
		 listener->wish.path, visitor->pid, visitor->uid, visitor->offer.version,
		 visitor->offer.n_regions,
		 visitor->offer.claimed_pid && visitor->offer.claimed_pid != visitor->pid
			 ? ", under another pid of its own"
			 : "",
		 visitor->is_unverified
			 ? "; that they are its own is unverified, for its maps cannot be read"
			 : "");
	listener_count(listener);
	line_new(visitor);
}

static void job_done(void *data)
{
	struct visitor *visitor = data;
	int r = visitor->result;

	if (r < 0 && r != -ECANCELED)
		refusal_set_errno(&visitor->refusal, r, "%s", strerror(-r));
	if (r < 0 && visitor->registration && !visitor->is_again)
		registration_abandon(visitor->registration);
	if (r < 0)
		visitor_refuse(visitor, &visitor->refusal);
	else if (visitor->listener->speaker)
		done_conversation(visitor);
	else if (visitor->is_again)
		done_again(visitor);
	else
		done_guest(visitor);
}

void visitor_arrive(struct visitor *visitor)
{
	static const struct job_ops ops = { .run = job_run, .done = job_done };
	const struct handoff_speaker *speaker = visitor->listener->speaker;
	struct handoffs *handoffs = visitor->listener->handoffs;
	uint64_t deadline_ns = 0;
	int r = 0;

	visitor->state = VISITOR_WAITING;
	if (handoffs->is_stopped) {
		visitor_free(visitor);
		return;
	}
	if (!speaker)
		r = take_registration(visitor);
	else
		wish_guest_name(&visitor->listener->wish, visitor->listener->wish.n_taken,
				visitor->name);
	if (r > 0)
		return; /* its name is about to be free: on_name_free(), or the deadline */
	if (r == 0 && speaker && speaker->timeout_ns)
		deadline_ns = clock_now_ns() + speaker->timeout_ns;
	if (r == 0)
		r = job_start(handoffs->needs.jobs, &ops, deadline_ns, visitor, NULL);
	if (r == 0) {
		evtimer_del(visitor->timer);
		visitor->state = VISITOR_ARRIVING;
	} else if (r != -ECANCELED && clock_now_ns() < visitor->deadline_ns) {
		set_timer(visitor, RETRY_US * NSEC_PER_USEC);
	} else {
		if (r != -ECANCELED)
			refusal_set(&visitor->refusal, "io.ufd.manager.LimitReached",
				    json_pack("{s:s}", "limit", "jobs"),
				    "as many jobs as [limits] jobs allows are at work for %d "
				    "seconds",
				    HANDOFF_MESSAGE_SECONDS);
		if (visitor->registration && !visitor->is_again)
			registration_abandon(visitor->registration);
		visitor_refuse(visitor, &visitor->refusal);
	}
}
