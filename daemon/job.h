/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Work that may hang on another process: it runs on a thread of its own and ends on the loop. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/cleanup.h"

struct event_base;
struct job;
struct jobs;

/*
 * A job passes through these, in this order:
 *   run      on its thread. Looks at job_deadline_ns() and job_is_cancelled() wherever it waits.
 *   overdue  on the loop, if the deadline passes first: tell whoever waits. May be NULL. @run still
 *            runs and owns @data's inner things; afterwards job_is_cancelled() is true.
 *   done     on the loop, always, once, after @run has returned: undo what nobody wants any more,
 *            free @data.
 */
struct job_ops {
	void (*run)(struct job *job, void *data);
	void (*overdue)(void *data);
	void (*done)(void *data);
};

/* Return: 0 or -errno. @n_most: jobs at one time. Context: loop. */
int jobs_new(struct jobs **ret, struct event_base *base, unsigned int n_most);

/* Waits for every thread, without calling anything but their done(). Context: loop. */
struct jobs *jobs_free(struct jobs *jobs);
DEFINE_CLEANUP(struct jobs, jobs_free)

/**
 * job_start() - begin
 * @deadline_ns: CLOCK_MONOTONIC; 0: none
 * @data:        the job's until done()
 * @ret:         for job_cancel(), valid until done(); may be NULL
 *
 * Context: loop. Return: 0, -EBUSY (@n_most are running), -EAGAIN (no thread).
 */
int job_start(struct jobs *jobs, const struct job_ops *ops, uint64_t deadline_ns, void *data,
	      struct job **ret);

/* Nobody waits for it any more. Context: loop. */
void job_cancel(struct job *job);

/* Context: any. */
uint64_t job_deadline_ns(const struct job *job);
bool job_is_cancelled(const struct job *job);

unsigned int jobs_count(const struct jobs *jobs);
