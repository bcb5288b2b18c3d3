/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a kill met. */
#include "support/soak-judge.h"

#include <stdio.h>

#include "base/clock.h"
#include "base/units.h"
#include "support/soak-board.h"
#include "support/soak-daemon.h"

/* One of the faults that are still written down. */
struct fault {
	uint64_t began_ns;
	uint64_t ended_ns; /* UINT64_MAX: not yet */
};

static uint64_t load(const _Atomic uint64_t *value)
{
	/* pairs with release in soak-worker.c */
	return atomic_load_explicit(value, memory_order_acquire);
}

/* The @back-th newest fault of a thread. Return: false beyond the oldest. */
static bool get_fault(const struct soak_thread *thread, uint64_t n_faults, uint64_t back,
		      struct fault *ret)
{
	const struct soak_fault *fault;

	if (back >= n_faults || back >= SOAK_N_FAULTS)
		return false;
	fault = &thread->faults[(n_faults - 1 - back) % SOAK_N_FAULTS];
	ret->began_ns = load(&fault->began_ns);
	ret->ended_ns = load(&fault->ended_ns) ?: UINT64_MAX;
	return true;
}

static bool thread_counts(const struct soak_guest *guest, const struct soak_thread *thread,
			  const struct soak_kill *kill)
{
	uint64_t n_faults = load(&thread->n_faults);
	struct fault fault;

	for (uint64_t i = 0; get_fault(thread, n_faults, i, &fault); i++) {
		if (fault.began_ns + SOAK_NEAR_NS < kill->before_ns)
			return false; /* and all others are older */
		if (fault.began_ns > kill->after_ns + SOAK_NEAR_NS)
			continue;
		if (fault.ended_ns > kill->before_ns || load(&guest->n_absent) > 0)
			return true;
	}
	return false;
}

bool soak_judge_counts(const struct soak_board *board, const struct soak_kill *kill)
{
	for (unsigned int i = 0; i < board->n_guests; i++)
		for (unsigned int j = 0; j < SOAK_N_THREADS; j++)
			if (thread_counts(&board->guests[i], &board->guests[i].threads[j], kill))
				return true;
	return false;
}

uint64_t soak_judge_stall_ns(const struct soak_board *board, const struct soak_kill *kill)
{
	uint64_t first_ns = UINT64_MAX;

	for (unsigned int i = 0; i < board->n_guests; i++)
		for (unsigned int j = 0; j < SOAK_N_THREADS; j++) {
			const struct soak_thread *thread = &board->guests[i].threads[j];
			uint64_t n_faults = load(&thread->n_faults);
			struct fault fault;

			for (uint64_t k = 0; get_fault(thread, n_faults, k, &fault) &&
					     fault.began_ns > kill->dead_ns;
			     k++)
				first_ns = min_u64(first_ns, fault.ended_ns);
		}
	return first_ns == UINT64_MAX ? 0 : first_ns - kill->before_ns;
}

bool soak_judge_waits(const struct soak_board *board, unsigned int guest, uint64_t before_ns)
{
	for (unsigned int i = 0; i < SOAK_N_THREADS; i++) {
		uint64_t began_ns = load(&board->guests[guest].threads[i].op_began_ns);

		if (began_ns && began_ns < before_ns)
			return true;
	}
	return false;
}

bool soak_judge_has_pending(const struct soak_board *board)
{
	for (unsigned int i = 0; i < board->n_guests; i++)
		for (unsigned int j = 0; j < SOAK_N_THREADS; j++) {
			struct fault fault;
			const struct soak_thread *thread = &board->guests[i].threads[j];

			if (get_fault(thread, load(&thread->n_faults), 0, &fault) &&
			    fault.ended_ns == UINT64_MAX)
				return true;
		}
	return false;
}

void soak_judge_describe(const struct soak_board *board, unsigned int guest, const char *name)
{
	static const char *const phases[] = { "starts", "arrives", "runs",
					      "leaves", "checks",  "is done" };
	static const char *const ops[] = { "", "touch", "madvise", "announcement" };
	const struct soak_guest *it = &board->guests[guest];
	uint64_t now_ns = clock_now_ns();

	fprintf(stderr, "guest %s %s since %.1f ms, round %llu\n", name,
		phases[atomic_load(&it->phase)],
		(double)(now_ns - load(&it->phase_ns)) / NSEC_PER_MSEC,
		(unsigned long long)load(&it->n_rounds));
	for (unsigned int i = 0; i < SOAK_N_THREADS; i++) {
		const struct soak_thread *thread = &it->threads[i];
		uint64_t began_ns = load(&thread->op_began_ns);

		if (began_ns)
			fprintf(stderr, "  thread %u: %s of page %u since %.1f ms\n", i,
				ops[atomic_load(&thread->op)], atomic_load(&thread->page),
				(double)(now_ns - began_ns) / NSEC_PER_MSEC);
	}
}
