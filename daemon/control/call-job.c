/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Calls on threads. */
#include "control/call-job.h"

#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/units.h"
#include "control/control.h"

struct call_job {
	struct call *call; /* a reference */
	const struct call_job_ops *ops;
	void *data;
	struct refusal refusal;
	uint64_t timeout_ns;
	int result;
	bool is_overdue;
};

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
	call_job_free(work);
}

int call_job_start(struct control *control, struct call *call, const struct call_job_ops *ops,
		   uint64_t timeout_ns, void *data, struct refusal *refusal)
{
	static const struct job_ops job_ops = {
		.run = on_run,
		.overdue = on_overdue,
		.done = on_done,
	};
	struct call_job *work = calloc(1, sizeof(*work));
	int r = -ENOMEM;

	if (work) {
		work->call = call_ref(call);
		work->ops = ops;
		work->data = data;
		work->timeout_ns = timeout_ns;
		r = job_start(control->jobs, &job_ops, timeout_ns ? clock_now_ns() + timeout_ns : 0,
			      work, NULL);
	}
	if (r == 0)
		return 0;
	ops->done(data, false);
	if (work)
		call_job_free(work);
	if (r == -EBUSY)
		return refusal_set(refusal, "io.ufd.manager.LimitReached",
				   json_pack("{s:s}", "limit", "jobs"),
				   "as many calls are at work as [limits] jobs allows; try again");
	return refusal_set_errno(refusal, r, "no thread for the call: %s", strerror(-r));
}
