/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Jobs.
 *
 * Theory of operation: a thread a job, since each may sit in another process's hands for seconds
 * and there are few. The thread's last act is to put itself on the finished list and write the
 * eventfd; the loop joins it and calls done(). Cancelling is a flag: nothing kills a thread in the
 * middle of an attach.
 */
#include "job.h"

#include <errno.h>
#include <event2/event.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/queue.h>

#include "base/clock.h"
#include "base/units.h"

struct job {
	LIST_ENTRY(job) running_link;	 /* loop's */
	STAILQ_ENTRY(job) finished_link; /* under jobs->lock */
	struct jobs *jobs;
	const struct job_ops *ops;
	void *data;
	pthread_t thread;
	struct event *timer; /* owned; NULL without deadline */
	uint64_t deadline_ns;
	_Atomic bool is_cancelled;
};

struct jobs {
	struct event_base *base;
	struct event *finished_event; /* owned */
	int finished_fd;	      /* owned eventfd */
	unsigned int n_most;
	unsigned int n_running;
	LIST_HEAD(, job) running_list;
	pthread_mutex_t lock;
	STAILQ_HEAD(, job) finished_list;
};

/* Loop, or jobs_free(): the thread has nothing left to do but to return. */
static void job_finish(struct job *job)
{
	pthread_join(job->thread, NULL);
	LIST_REMOVE(job, running_link);
	job->jobs->n_running--;
	if (job->timer)
		event_free(job->timer);
	job->ops->done(job->data);
	free(job);
}

static struct job *jobs_take_finished(struct jobs *jobs)
{
	struct job *job;

	pthread_mutex_lock(&jobs->lock);
	job = STAILQ_FIRST(&jobs->finished_list);
	if (job)
		STAILQ_REMOVE_HEAD(&jobs->finished_list, finished_link);
	pthread_mutex_unlock(&jobs->lock);
	return job;
}

static void on_finished(evutil_socket_t fd, short what, void *userdata)
{
	struct jobs *jobs = userdata;
	struct job *job;
	eventfd_t value;

	eventfd_read(jobs->finished_fd, &value);
	while ((job = jobs_take_finished(jobs)))
		job_finish(job);
}

static void on_overdue(evutil_socket_t fd, short what, void *userdata)
{
	struct job *job = userdata;

	job_cancel(job);
	if (job->ops->overdue)
		job->ops->overdue(job->data);
}

static void *job_main(void *userdata)
{
	struct job *job = userdata;
	struct jobs *jobs = job->jobs;

	job->ops->run(job, job->data);

	pthread_mutex_lock(&jobs->lock);
	STAILQ_INSERT_TAIL(&jobs->finished_list, job, finished_link);
	eventfd_write(jobs->finished_fd, 1);
	pthread_mutex_unlock(&jobs->lock);
	return NULL;
}

int jobs_new(struct jobs **ret, struct event_base *base, unsigned int n_most)
{
	_cleanup_(jobs_freep) struct jobs *jobs = calloc(1, sizeof(*jobs));

	if (!jobs)
		return -ENOMEM;
	jobs->base = base;
	jobs->n_most = n_most;
	LIST_INIT(&jobs->running_list);
	STAILQ_INIT(&jobs->finished_list);
	pthread_mutex_init(&jobs->lock, NULL);
	jobs->finished_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (jobs->finished_fd < 0)
		return -errno;
	jobs->finished_event = event_new(base, jobs->finished_fd, EV_READ | EV_PERSIST, on_finished,
					 jobs);
	if (!jobs->finished_event || event_add(jobs->finished_event, NULL) < 0)
		return -ENOMEM;
	*ret = TAKE_PTR(jobs);
	return 0;
}

struct jobs *jobs_free(struct jobs *jobs)
{
	struct job *job;

	if (!jobs)
		return NULL;
	LIST_FOREACH(job, &jobs->running_list, running_link)
	job_cancel(job);
	while ((job = LIST_FIRST(&jobs->running_list)))
		job_finish(job);
	if (jobs->finished_event)
		event_free(jobs->finished_event);
	closep(&jobs->finished_fd);
	pthread_mutex_destroy(&jobs->lock);
	free(jobs);
	return NULL;
}

/* Signals belong to the main thread's loop. */
static int start_thread(struct job *job)
{
	sigset_t all, before;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = pthread_create(&job->thread, NULL, job_main, job);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return -r;
}

static int job_start_timer(struct job *job)
{
	uint64_t now_ns = clock_now_ns();
	uint64_t left_ns = job->deadline_ns > now_ns ? job->deadline_ns - now_ns : 0;
	struct timeval left = {
		.tv_sec = (time_t)(left_ns / NSEC_PER_SEC),
		.tv_usec = (suseconds_t)(left_ns % NSEC_PER_SEC / NSEC_PER_USEC),
	};

	job->timer = evtimer_new(job->jobs->base, on_overdue, job);
	if (!job->timer || evtimer_add(job->timer, &left) < 0)
		return -ENOMEM;
	return 0;
}

int job_start(struct jobs *jobs, const struct job_ops *ops, uint64_t deadline_ns, void *data,
	      struct job **ret)
{
	struct job *job;
	int r = 0;

	if (jobs->n_running >= jobs->n_most)
		return -EBUSY;
	job = calloc(1, sizeof(*job));
	if (!job)
		return -ENOMEM;
	job->jobs = jobs;
	job->ops = ops;
	job->deadline_ns = deadline_ns;
	job->data = data;
	if (deadline_ns)
		r = job_start_timer(job);
	if (r == 0)
		r = start_thread(job);
	if (r < 0) {
		if (job->timer)
			event_free(job->timer);
		free(job);
		return r;
	}
	LIST_INSERT_HEAD(&jobs->running_list, job, running_link);
	jobs->n_running++;
	if (ret)
		*ret = job;
	return 0;
}

void job_cancel(struct job *job)
{
	atomic_store_explicit(&job->is_cancelled, true, memory_order_relaxed);
}

uint64_t job_deadline_ns(const struct job *job)
{
	return job->deadline_ns;
}

bool job_is_cancelled(const struct job *job)
{
	return atomic_load_explicit(&job->is_cancelled, memory_order_relaxed);
}

unsigned int jobs_count(const struct jobs *jobs)
{
	return jobs->n_running;
}
