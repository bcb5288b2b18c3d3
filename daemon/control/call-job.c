/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Calls on threads. */
#include "control/call-job.h"

#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/units.h"
#include "config.h"
#include "control/control.h"

struct call_job {
	LIST_ENTRY(call_job) call_job_link;
	struct call *call; /* a reference */
	const struct call_job_ops *ops;
	void *data;
	struct refusal refusal;
	uint64_t timeout_ns;
	int result;
	bool is_overdue;
};

/* A monitor that does not answer holds a job for as long as somebody waits for it. */
static bool is_beyond_limit(const struct control *control, const struct call *call)
{
	const struct call_job *work;
	uint64_t n = 0;

	if (credentials_are_admin(&call->peer, control->own_uid))
		return false;
	LIST_FOREACH(work, &control->call_job_list, call_job_link)
	n += work->call->peer.uid == call->peer.uid;
	return n >= control->config->n_jobs_per_user;
}

static void on_run(struct job *job, void *userdata)
{
	struct call_job *work = userdata;

	work->result = work->ops->run(job, work->data, &work->refusal);
}

static void on_overdue(void *userdata)
{
	_cleanup_(refusal_done) struct refusal refusal = {};
	struct call_job *work = userdata;

	work->is_overdue = true;
	refusal_set_errno(&refusal, -ETIMEDOUT, "not done within %llu seconds",
			  (unsigned long long)(work->timeout_ns / NSEC_PER_SEC));
	call_refuse(work->call, &refusal);
}

static void call_job_free(struct call_job *work)
{
	refusal_done(&work->refusal);
	call_unref(work->call);
	free(work);
}

static void on_done(void *userdata)
{
	struct call_job *work = userdata;
	bool is_kept = work->result == 0 && !work->is_overdue;

	if (is_kept) {
		work->ops->reply(work->data, work->call);
	} else if (!work->is_overdue) {
		if (work->result != -ECANCELED)
			refusal_set_errno(&work->refusal, work->result, "%s",
					  strerror(-work->result));
		call_refuse(work->call, &work->refusal);
	}
	work->ops->done(work->data, is_kept);
	LIST_REMOVE(work, call_job_link);
	call_job_free(work);
}

static int refuse_limit(const char *limit, const char *words, struct refusal *refusal)
{
	return refusal_set(
		refusal, "io.ufd.manager.LimitReached", json_pack("{s:s}", "limit", limit),
		"as many calls%s are at work as [limits] %s allows; try again", words, limit);
}

int call_job_start(struct control *control, struct call *call, const struct call_job_ops *ops,
		   uint64_t timeout_ns, void *data, struct refusal *refusal)
{
	static const struct job_ops job_ops = {
		.run = on_run,
		.overdue = on_overdue,
		.done = on_done,
	};
	bool is_beyond = is_beyond_limit(control, call);
	struct call_job *work = is_beyond ? NULL : calloc(1, sizeof(*work));
	int r = is_beyond ? -EDQUOT : -ENOMEM;

	if (work) {
		work->call = call_ref(call);
		work->ops = ops;
		work->data = data;
		work->timeout_ns = timeout_ns;
		r = job_start(control->jobs, &job_ops, timeout_ns ? clock_now_ns() + timeout_ns : 0,
			      work, NULL);
	}
	if (r == 0) {
		LIST_INSERT_HEAD(&control->call_job_list, work, call_job_link);
		return 0;
	}
	ops->done(data, false);
	if (work)
		call_job_free(work);
	if (r == -EDQUOT)
		return refuse_limit("jobs-per-user", " of yours", refusal);
	if (r == -EBUSY)
		return refuse_limit("jobs", "", refusal);
	return refusal_set_errno(refusal, r, "no thread for the call: %s", strerror(-r));
}
