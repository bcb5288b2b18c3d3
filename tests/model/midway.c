/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The engine in the middle of a round while somebody else goes on, as they are two threads in earnest.
 *
 * Its rounds run on a thread of their own then, which has the world until it stops on its way, or has
 * come to the end of the round; nobody ever runs beside another.
 *
 * What others conclude from where it stands is checked at each step as well: such a moment is rarely met.
 */
#include <pthread.h>
#include <semaphore.h>

#include "fault/engine.h"
#include "parties.h"

#define MOST_STEPS 8

static sem_t go, back;
static bool is_begun;	  /* the thread is there */
static bool is_midway;	  /* a round is not at its end */
static bool is_finishing; /* it may not stop before */
static uint64_t n_steps;  /* until it stops */
static bool is_held;	  /* stands where it is until somebody waits for it */
static _Thread_local bool is_engine;

static void hand_over(sem_t *to, sem_t *from)
{
	sem_post(to);
	while (sem_wait(from) < 0)
		;
}

static void *go_round(void *userdata)
{
	is_engine = true;
	while (sem_wait(&go) < 0)
		;
	for (;;) {
		engine_round();
		is_midway = false;
		hand_over(&back, &go);
	}
	return userdata;
}

static void begin(void)
{
	pthread_t thread;

	sem_init(&go, 0, 0);
	sem_init(&back, 0, 0);
	if (pthread_create(&thread, NULL, go_round, NULL))
		model_fail("no thread for the engine");
	pthread_detach(thread);
	is_begun = true;
}

void midway_go_on(void)
{
	if (is_held)
		return;
	if (!is_begun)
		begin();
	is_midway = true;
	n_steps = chance_below(MOST_STEPS);
	hand_over(&go, &back);
}

void midway_let_go(void)
{
	is_held = false;
}

void midway_finish(void)
{
	midway_let_go();
	is_finishing = true;
	if (is_midway)
		midway_go_on();
	is_finishing = false;
}

bool midway_stop(bool is_likely)
{
	if (!is_engine)
		return false;
	if (!is_finishing && !world.is_frozen &&
	    (n_steps-- == 0 || (is_likely && chance_below(3) == 0))) {
		is_held = chance_below(2) == 0;
		hand_over(&back, &go);
	}
	return true;
}

/* ---- what others conclude ---- */

void midway_check_awake(void)
{
	if (!world.is_frozen && engine_is_asleep())
		model_fail("a page is filled, and the engine says that it sleeps");
}

static bool is_discarding;

uint64_t __real_discard_pages(struct demand *demand, struct memory *memory,
			      struct page_range pages);
uint64_t __wrap_discard_pages(struct demand *demand, struct memory *memory,
			      struct page_range pages);
uint64_t __wrap_discard_pages(struct demand *demand, struct memory *memory, struct page_range pages)
{
	uint64_t n;

	is_discarding = true;
	n = __real_discard_pages(demand, memory, pages);
	is_discarding = false;
	if (memory->n_discarded % 2)
		model_fail("a discard was told, and its count says that it is being told");
	return n;
}

void __real_memory_mark_dirty(struct memory *memory, struct page_range pages);
void __wrap_memory_mark_dirty(struct memory *memory, struct page_range pages);
void __wrap_memory_mark_dirty(struct memory *memory, struct page_range pages)
{
	if (is_discarding && memory->n_discarded % 2 == 0)
		model_fail("a discard is marked, and its count says that none is being told");
	__real_memory_mark_dirty(memory, pages);
}
