/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* AttachProcess of io.ufd.guest: the memory of an unmodified process. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "attach/arrival.h"
#include "attach/bring.h"
#include "attach/owner.h"
#include "control/arrive.h"
#include "control/call-job.h"
#include "control/control.h"
#include "control/guest-json.h"
#include "control/method.h"
#include "control/methods-guest.h"
#include "dirty/pause.h"
#include "dirty/tracking.h"
#include "kernel/pidfd.h"
#include "registry.h"

struct process_work {
	struct call *call;		   /* a reference: texts and fds are borrowed from it */
	struct registration *registration; /* a reference */
	struct arrival_rights rights;
	struct bring_target target;
	const struct plan *plan; /* while it arrives */
	const char *consumer;	 /* NULL: none */
	const char **matches;	 /* owned array */
	size_t n_matches;
	const char *source;
	int source_fd;	      /* borrowed; -EBADF: none */
	const char *qmp_path; /* NULL: none */
	int qmp_socket;	      /* borrowed; -EBADF: none */
	pid_t pid;
	int pidfd; /* borrowed; -EBADF: none */
	uid_t owner;
};

static void process_work_free(struct process_work *work)
{
	if (!work)
		return;
	bring_target_done(&work->target);
	free(work->matches);
	registration_unref(work->registration);
	call_unref(work->call);
	free(work);
}
DEFINE_CLEANUP(struct process_work, process_work_free)

static int find_target(struct process_work *work, struct job *job, struct refusal *refusal)
{
	if (work->qmp_path)
		return bring_target_by_qmp(&work->target, work->qmp_path, refusal);
	if (work->qmp_socket >= 0)
		return bring_target_by_socket(&work->target, work->qmp_socket, refusal);
	if (work->pidfd >= 0)
		return bring_target_by_pidfd(&work->target, work->pidfd, refusal);
	return bring_target_by_pid(&work->target, work->pid, refusal);
}

static int process_arrive(void *userdata, struct refusal *refusal)
{
	struct process_work *work = userdata;

	return bring(&work->registration->paging, &work->target, work->plan, &work->rights,
		     refusal);
}

static int process_run(struct job *job, void *data, struct refusal *refusal)
{
	_cleanup_(process_memories_done) struct process_memories memories = {};
	_cleanup_(plan_done) struct plan plan = {};
	struct process_work *work = data;
	int r;

	r = find_target(work, job, refusal);
	if (r == 0)
		r = owner_check(work->target.pid, &work->rights, refusal);
	if (r == 0 && owner_of_process(work->target.pid, &work->owner) < 0)
		r = -ESRCH;
	work->registration->owner = work->owner;
	work->registration->pid = work->target.pid;
	if (r == 0)
		r = process_find_memories(work->target.pid, work->matches, work->n_matches,
					  &memories, refusal);
	if (r == 0)
		r = bring_plan(&memories, work->source, work->source_fd, &plan, refusal);
	work->plan = &plan;
	if (r == 0)
		r = tracking_arrive(work->registration, work->consumer, &work->rights,
				    process_arrive, work, refusal);
	work->plan = NULL;
	return r;
}

static void process_reply(void *data, struct call *call)
{
	struct process_work *work = data;

	arrive_reply(work->registration, work->target.pid, work->target.pidfd, work->owner, call);
}

static void process_done(void *data, bool is_kept)
{
	struct process_work *work = data;

	if (!is_kept)
		registration_abandon(work->registration);
	else
		pause_settle(work->registration);
	process_work_free(work);
}

static int take_matches(struct process_work *work)
{
	const json_t *list = json_object_get(work->call->parameters, "memories");
	json_t *match;
	size_t i;

	work->matches = calloc(json_array_size(list) + 1, sizeof(*work->matches));
	if (!work->matches)
		return -ENOMEM;
	json_array_foreach(list, i, match)
		work->matches[work->n_matches++] = json_string_value(match);
	return 0;
}

/* Exactly one of pid, qmp and pidfd says who. */
static int take_who(struct control *control, struct process_work *work, struct refusal *refusal)
{
	const json_t *pid = json_object_get(work->call->parameters, "pid");
	const json_t *qmp = json_object_get(work->call->parameters, "qmp");
	const json_t *pidfd = json_object_get(work->call->parameters, "pidfd");
	int fd, r;

	if (json_is_integer(pid) + json_is_string(qmp) + json_is_integer(pidfd) != 1 ||
	    (json_is_integer(pid) &&
	     (json_integer_value(pid) < 1 || json_integer_value(pid) > INT32_MAX)))
		return refusal_set(refusal, "org.varlink.service.InvalidParameter",
				   json_pack("{s:s}", "parameter", "pid"),
				   "one of pid, qmp and pidfd");
	if (json_is_integer(pid))
		work->pid = (pid_t)json_integer_value(pid);
	if (json_is_string(qmp)) {
		if (!credentials_may_name_paths(&work->call->peer, control->own_uid))
			return refuse_permission(refusal);
		work->qmp_path = json_string_value(qmp);
	}
	if (json_is_integer(pidfd)) {
		r = call_borrow_fd(work->call, json_integer_value(pidfd), &fd, refusal);
		if (r < 0)
			return r;
		if (bring_is_socket(fd))
			work->qmp_socket = fd;
		else if (pidfd_get_pid(fd, &work->pid) != -EBADFD)
			work->pidfd = fd;
		else
			return refusal_set(refusal, "io.ufd.guest.BadFd",
					   json_pack("{s:I}", "index", json_integer_value(pidfd)),
					   "neither a pidfd nor a connected QMP socket");
	}
	return 0;
}

static int take_source(struct control *control, struct process_work *work, struct refusal *refusal)
{
	const json_t *fd = json_object_get(work->call->parameters, "source_fd");

	work->source = json_string_value(json_object_get(work->call->parameters, "source"));
	if (json_is_integer(fd)) {
		int r = call_borrow_fd(work->call, json_integer_value(fd), &work->source_fd,
				       refusal);

		if (r < 0)
			return r;
	}
	return plan_check_spec(work->source,
			       credentials_may_name_paths(&work->call->peer, control->own_uid),
			       refusal);
}

static int process_work_new(struct control *control, struct call *call, struct process_work **ret,
			    struct refusal *refusal)
{
	_cleanup_(process_work_freep) struct process_work *work = calloc(1, sizeof(*work));
	int r;

	if (!work)
		return -ENOMEM;
	work->call = call_ref(call);
	work->target = (struct bring_target)BRING_TARGET_NONE;
	work->consumer = json_string_value(json_object_get(call->parameters, "consumer"));
	work->source_fd = work->qmp_socket = work->pidfd = -EBADF;
	work->rights = (struct arrival_rights){
		.caller = call->peer.uid,
		.is_admin = credentials_are_admin(&call->peer, control->own_uid),
	};
	r = take_matches(work);
	if (r == 0)
		r = take_who(control, work, refusal);
	if (r == 0)
		r = take_source(control, work, refusal);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(work);
	return 0;
}

int method_attach_process(struct control *control, struct call *call, struct refusal *refusal)
{
	static const struct call_job_ops ops = {
		.run = process_run,
		.reply = process_reply,
		.done = process_done,
	};
	_cleanup_(process_work_freep) struct process_work *work = NULL;
	struct settings settings;
	int r;

	r = arrive_settings(control, call, &settings);
	if (r != 0)
		return r < 0 ? r : 0;
	r = process_work_new(control, call, &work, refusal);
	if (r < 0)
		return r;
	r = arrive_register(control, call,
			    json_string_value(json_object_get(call->parameters, "name")), &settings,
			    &work->registration, refusal);
	if (r != 0)
		return r < 0 ? r : 0;
	work->registration->paging.front_end = FRONT_END_PROCESS;
	if (work->qmp_path)
		snprintf(work->registration->qmp, sizeof(work->registration->qmp), "%s",
			 work->qmp_path);
	return call_job_start(control, call, &ops, ARRIVE_TIMEOUT_NS, TAKE_PTR(work), refusal);
}
