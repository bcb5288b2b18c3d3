/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A call whose work blocks: it runs as a job, and its end is the reply. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "control/call.h"
#include "job.h"

struct control;

struct call_job_ops {
	/* Job thread. The call's frame and fds stay. Return: 0, -ECANCELED with @refusal, other
	 * -errno. */
	int (*run)(struct job *job, void *data, struct refusal *refusal);
	/* Loop, after success in time: the last reply (or a first one, of a stream). */
	void (*reply)(void *data, struct call *call);
	/* Loop, at the very end; frees @data. @is_kept is false if @run failed, or if it succeeded
	 * after its deadline: the client was told that it failed, so undo it. */
	void (*done)(void *data, bool is_kept);
};

/**
 * call_job_start() - begin
 * @timeout_ns: 0: none
 * @data:       consumed, also on failure (done() is called)
 *
 * A client that goes away changes nothing: the work is finished and kept.
 * Context: loop. Return: 0, or -ECANCELED with @refusal set (LimitReached: jobs, jobs-per-user).
 */
int call_job_start(struct control *control, struct call *call, const struct call_job_ops *ops,
		   uint64_t timeout_ns, void *data, struct refusal *refusal);
