/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Jobs: what runs where, in which order, and what a deadline does. */
#include "job.h"

#include <errno.h>
#include <event2/event.h>
#include <pthread.h>
#include <semaphore.h>

#include "base/clock.h"
#include "base/units.h"
#include "support/unit.h"

struct story {
	pthread_t loop;
	struct event_base *base;
	sem_t go;      /* lets run() return */
	char told[16]; /* one letter a callback */
	unsigned int n_told;
	bool was_cancelled;
	bool is_waiting;
};

static void tell(struct story *story, char letter)
{
	story->told[story->n_told++] = letter;
}

static void run(struct job *job, void *data)
{
	struct story *story = data;

	ck_assert(!pthread_equal(pthread_self(), story->loop));
	if (story->is_waiting)
		sem_wait(&story->go);
	tell(story, 'r');
	story->was_cancelled = job_is_cancelled(job);
}

static void overdue(void *data)
{
	struct story *story = data;

	ck_assert(pthread_equal(pthread_self(), story->loop));
	tell(story, 'o');
	sem_post(&story->go);
}

static void done(void *data)
{
	struct story *story = data;

	ck_assert(pthread_equal(pthread_self(), story->loop));
	tell(story, 'd');
	event_base_loopbreak(story->base);
}

static const struct job_ops ops = { .run = run, .overdue = overdue, .done = done };

static struct story story_begin(struct jobs **ret_jobs)
{
	struct story story = { .loop = pthread_self(), .base = event_base_new() };

	sem_init(&story.go, 0, 0);
	ck_assert_int_eq(jobs_new(ret_jobs, story.base, 1), 0);
	return story;
}

START_TEST(it_runs_on_a_thread_and_ends_on_the_loop)
{
	struct jobs *jobs = NULL;
	struct story story = story_begin(&jobs);

	ck_assert_int_eq(job_start(jobs, &ops, clock_now_ns() + 60 * NSEC_PER_SEC, &story, NULL),
			 0);
	ck_assert_uint_eq(jobs_count(jobs), 1);
	event_base_dispatch(story.base);
	ck_assert_str_eq(story.told, "rd");
	ck_assert(!story.was_cancelled);
	ck_assert_uint_eq(jobs_count(jobs), 0);
	jobs_free(jobs);
	event_base_free(story.base);
}
END_TEST

START_TEST(a_deadline_is_told_before_the_end_and_cancels)
{
	struct jobs *jobs = NULL;
	struct story story = story_begin(&jobs);

	story.is_waiting = true;
	ck_assert_int_eq(job_start(jobs, &ops, clock_now_ns() + NSEC_PER_MSEC, &story, NULL), 0);
	event_base_dispatch(story.base);
	ck_assert_str_eq(story.told, "ord");
	ck_assert(story.was_cancelled);
	jobs_free(jobs);
	event_base_free(story.base);
}
END_TEST

START_TEST(no_more_than_allowed_run_at_once)
{
	struct jobs *jobs = NULL;
	struct story story = story_begin(&jobs);
	struct job *job;

	story.is_waiting = true;
	ck_assert_int_eq(job_start(jobs, &ops, 0, &story, &job), 0);
	ck_assert_int_eq(job_start(jobs, &ops, 0, &story, NULL), -EBUSY);
	job_cancel(job);
	sem_post(&story.go);
	event_base_dispatch(story.base);
	ck_assert(story.was_cancelled);
	ck_assert_str_eq(story.told, "rd");
	jobs_free(jobs);
	event_base_free(story.base);
}
END_TEST

START_TEST(freeing_waits_for_the_threads)
{
	struct jobs *jobs = NULL;
	struct story story = story_begin(&jobs);

	ck_assert_int_eq(job_start(jobs, &ops, 0, &story, NULL), 0);
	jobs_free(jobs);
	ck_assert_str_eq(story.told, "rd");
	event_base_free(story.base);
}
END_TEST

int main(void)
{
	return unit_run("job", (struct unit_test[]){
				       UNIT(it_runs_on_a_thread_and_ends_on_the_loop),
				       UNIT(a_deadline_is_told_before_the_end_and_cancels),
				       UNIT(no_more_than_allowed_run_at_once),
				       UNIT(freeing_waits_for_the_threads),
				       {},
			       });
}
