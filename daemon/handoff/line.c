/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Lines: connections of guests that have arrived.
 *
 * That a VMM has ended its pidfd tells, which the engine watches; so the end of a line is no more than the
 * end of a line: the VMM closed it at once, as old ones do, or it ended, or it will come back with the
 * userfaultfd that it gave us. Until then memory that it adds comes here.
 */
#include <errno.h>
#include <event2/event.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "attach/plan.h"
#include "handoff/listener.h"
#include "job.h"
#include "log-ids.h"
#include "log.h"

struct line {
	LIST_ENTRY(line) line_link;
	struct handoffs *handoffs;
	struct registration *registration; /* a reference */
	const struct frontend *frontend;
	struct gather gather;
	struct event *event; /* owned */
	char *source;	     /* owned; SPEC of what is added */
	pid_t pid;
	struct frontend_offer offer; /* of what is added */
	struct refusal refusal;
	int result;
	bool is_at_work; /* a job adds */
	bool is_over;	 /* it goes when that is done */
};

void line_free(struct line *line)
{
	if (line->is_at_work) {
		line->is_over = true;
		return;
	}
	LIST_REMOVE(line, line_link);
	if (line->event)
		event_free(line->event);
	registration_unref(line->registration);
	refusal_done(&line->refusal);
	gather_done(&line->gather);
	free(line->source);
	free(line);
}

static void acknowledge(struct line *line)
{
	if (line->frontend->n_ack)
		(void)!send(line->gather.fd, line->frontend->ack, line->frontend->n_ack,
			    MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* ---- memory that is added ---- */

/* Beyond what its first memory has: so it is one of its own, with a name that is free. */
static void name_memories(struct paging *paging, struct plan *plan)
{
	for (size_t i = 0; i < plan->n_memories; i++) {
		unsigned int number = 1;

		do
			snprintf(plan->memories[i].name, sizeof(plan->memories[i].name),
				 "memory-%u", ++number);
		while (paging_memory(paging, plan->memories[i].name));
	}
}

static int add(struct line *line)
{
	const struct plan_mapper mapper = {
		.pid = line->pid, .pidfd = -EBADF, .uffd = -EBADF, .pagemap = -1
	};
	struct paging *paging = &line->registration->paging;
	_cleanup_(plan_done) struct plan plan = {};
	struct frontend_input input;
	int r;

	r = hand_over_find_backing(&line->gather, &line->offer, line->pid, &line->refusal);
	if (r < 0)
		return r;
	input = gather_input(&line->gather);
	r = frontend_plan(&line->offer, &input, line->source, -EBADF, &plan, &line->refusal);
	if (r == 0)
		r = plan_check_maps(&plan, line->pid, &line->refusal);
	if (r < 0)
		return r;
	paging_lock(paging);
	name_memories(paging, &plan);
	if (!paging->guest)
		r = refusal_set(&line->refusal, "io.ufd.guest.NoSuchGuest",
				json_pack("{s:s}", "name", paging->name),
				"guest `%s` is no longer served", paging->name);
	if (r == 0)
		r = paging_admit(paging, &plan, line->pid, &line->refusal);
	if (r == 0)
		r = plan_apply(&plan, paging, &mapper, &line->refusal);
	paging_unlock(paging);
	return r;
}

static void add_run(struct job *job, void *data)
{
	struct line *line = data;

	line->result = add(line);
}

static void line_look(struct line *line);

static void add_done(void *data)
{
	struct line *line = data;
	const char *message = json_string_value(
		json_object_get(line->refusal.parameters, "message"));

	line->is_at_work = false;
	if (line->result < 0) {
		log_warning(LOG_FIELDS(.guest = line->registration->paging.name,
				       .message_id = LOG_ID_HANDOFF_REFUSED),
			    "memory that process %d adds is refused: %s (%s)", line->pid,
			    message ? message : strerror(-line->result), line->refusal.error);
		line_free(line); /* its VMM sees the end instead of an answer */
		return;
	}
	log_info(LOG_FIELDS(.guest = line->registration->paging.name), "process %d adds memory",
		 line->pid);
	acknowledge(line);
	gather_shift(&line->gather, line->offer.n_bytes);
	if (line->is_over || line->handoffs->is_stopped) {
		line_free(line);
		return;
	}
	event_add(line->event, NULL);
	line_look(line);
}

/* ---- what comes ---- */

static int line_read(struct line *line)
{
	struct frontend_input input = gather_input(&line->gather);

	if (!line->frontend->has_more)
		return refusal_set(&line->refusal, "io.ufd.handoff.BadMessage", NULL,
				   "a second message, which %s never sends", line->frontend->name);
	return line->frontend->read(&input, &line->offer, &line->refusal);
}

/* What has come by now. */
static void line_look(struct line *line)
{
	static const struct job_ops ops = { .run = add_run, .done = add_done };
	int r = line->gather.n_bytes ? line_read(line) : FRONTEND_MORE;

	if (r == FRONTEND_WHOLE && line->offer.uffd >= 0)
		r = refusal_set(&line->refusal, "io.ufd.handoff.BadMessage", NULL,
				"a second userfaultfd on one connection");
	if (r == FRONTEND_WHOLE) {
		event_del(line->event);
		line->is_at_work = true;
		r = job_start(line->handoffs->needs.jobs, &ops, 0, line, NULL);
		if (r == 0)
			return;
		line->is_at_work = false;
		r = refusal_set_errno(&line->refusal, r, "too many jobs are at work");
	}
	if (r < 0)
		log_warning(LOG_FIELDS(.guest = line->registration->paging.name,
				       .message_id = LOG_ID_HANDOFF_REFUSED),
			    "process %d on its guest's connection: %s (%s)", line->pid,
			    json_string_value(json_object_get(line->refusal.parameters, "message")),
			    line->refusal.error);
	if (r != FRONTEND_MORE || line->gather.is_ended)
		line_free(line);
}

static void on_readable(evutil_socket_t fd, short what, void *userdata)
{
	struct line *line = userdata;

	if (gather_read(&line->gather, &line->refusal) == 0) {
		line_look(line);
		return;
	}
	log_warning(LOG_FIELDS(.guest = line->registration->paging.name,
			       .message_id = LOG_ID_HANDOFF_REFUSED),
		    "process %d says too much on its guest's connection", line->pid);
	line_free(line);
}

void line_new(struct visitor *visitor)
{
	struct handoffs *handoffs = visitor->listener->handoffs;
	struct line *line = calloc(1, sizeof(*line));

	if (!line) {
		visitor_free(visitor); /* a guest without a line is as good as any */
		return;
	}
	line->handoffs = handoffs;
	line->frontend = visitor->frontend;
	line->pid = visitor->pid;
	line->registration = TAKE_PTR(visitor->registration);
	line->source = strdup(visitor->listener->wish.source);
	gather_shift(&visitor->gather, visitor->offer.n_bytes);
	line->gather = visitor->gather;
	gather_init(&visitor->gather, -EBADF);
	LIST_INSERT_HEAD(&handoffs->line_list, line, line_link);
	visitor_free(visitor);
	acknowledge(line);
	line->event = event_new(handoffs->needs.base, line->gather.fd, EV_READ | EV_PERSIST,
				on_readable, line);
	if (!line->source || !line->event || handoffs->is_stopped ||
	    event_add(line->event, NULL) < 0) {
		line_free(line);
		return;
	}
	line_look(line);
}
