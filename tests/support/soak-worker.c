/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A thread of a soak guest. */
#include "support/soak-worker.h"

#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "support/pattern.h"
#include "support/soak-board.h"
#include "support/soak-memory.h"
#include "support/soak-paging.h"

#define MAX_BURST	12
#define MAX_PAUSE_US	16000
#define HUGE_PAUSE_US	200000
#define WRITE_PERCENT	40
#define DISCARD_PERCENT 12
#define AGAIN_PERCENT	30

static uint64_t below(struct soak_worker *worker, uint64_t limit)
{
	return pattern_mix(worker->chance++) % limit;
}

static void count(_Atomic uint64_t *counter)
{
	atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

/* Said before each access that may have to wait for the daemon. */
static uint64_t begin(struct soak_worker *worker, enum soak_op op, uint64_t page)
{
	struct soak_thread *thread = worker->thread;
	uint64_t now_ns = clock_now_ns();

	atomic_store_explicit(&thread->op, op, memory_order_relaxed);
	atomic_store_explicit(&thread->page, (uint32_t)page, memory_order_relaxed);
	/* pairs with acquire in judge.c: an operation is seen with what it is */
	atomic_store_explicit(&thread->op_began_ns, now_ns, memory_order_release);
	return now_ns;
}

static void end(struct soak_worker *worker)
{
	atomic_store_explicit(&worker->thread->op_began_ns, 0, memory_order_release);
}

static void check(struct soak_worker *worker, uint64_t page)
{
	begin(worker, SOAK_TOUCH, page);
	if (!soak_memory_is_right(worker->memory, page))
		count(&worker->board->n_wrong);
	end(worker);
	count(&worker->board->n_checked);
}

/* The first touch of a page that is surely absent: what a kill is counted by. */
static void touch_absent(struct soak_worker *worker, uint64_t page)
{
	struct soak_thread *thread = worker->thread;
	uint64_t n = atomic_load_explicit(&thread->n_faults, memory_order_relaxed);
	struct soak_fault *fault = &thread->faults[n % SOAK_N_FAULTS];

	atomic_store_explicit(&fault->ended_ns, 0, memory_order_relaxed);
	atomic_store_explicit(&fault->began_ns, begin(worker, SOAK_TOUCH, page),
			      memory_order_relaxed);
	/* pairs with acquire in judge.c */
	atomic_store_explicit(&thread->n_faults, n + 1, memory_order_release);

	(void)*(volatile char *)(worker->memory->bytes + page * worker->memory->page_bytes);

	atomic_store_explicit(&fault->ended_ns, clock_now_ns(), memory_order_release);
	end(worker);
	if (atomic_load_explicit(&worker->board->n_absent, memory_order_relaxed))
		atomic_fetch_sub_explicit(&worker->board->n_absent, 1, memory_order_relaxed);
}

static void write_page(struct soak_worker *worker, uint64_t page)
{
	begin(worker, SOAK_TOUCH, page);
	soak_memory_write(worker->memory, page);
	end(worker);
	count(&worker->board->n_written);
}

/*
 * Announced or not: the kernel tells the daemon of every madvise() in any case. Half of them are
 * written at once, which a discard that is applied twice would undo.
 */
static void discard(struct soak_worker *worker, uint64_t page)
{
	bool may = true;

	if (!worker->paging->way.by_pid && below(worker, 2)) {
		begin(worker, SOAK_ANNOUNCE, page);
		may = soak_paging_announce(worker->paging, worker->memory, page);
		end(worker);
	}
	if (!may)
		return;
	begin(worker, SOAK_MADVISE, page);
	soak_memory_discard(worker->memory, page);
	end(worker);
	count(&worker->board->n_discarded);
	if (below(worker, 2))
		write_page(worker, page);
	else if (below(worker, 2))
		check(worker, page);
}

static void visit(struct soak_worker *worker, const uint64_t *order, uint64_t i)
{
	uint64_t page = order[i];

	if (!soak_memory_is_hole(worker->memory, page) &&
	    !soak_memory_is_mapped(worker->memory, page))
		touch_absent(worker, page);
	check(worker, page);
	if (below(worker, 100) < WRITE_PERCENT)
		write_page(worker, page);
	if (below(worker, 100) < DISCARD_PERCENT)
		discard(worker, page);
	if (below(worker, 100) < AGAIN_PERCENT)
		check(worker, order[below(worker, i + 1)]);
}

/* Return: owned array of the thread's own pages, in random order. */
static uint64_t *make_order(struct soak_worker *worker, uint64_t *ret_n)
{
	uint64_t n_pages = worker->memory->n_pages, n = 0;
	uint64_t *order = calloc(n_pages / SOAK_N_THREADS + 1, sizeof(*order));

	if (!order)
		soak_give_up("out of memory", 0);
	for (uint64_t page = worker->index; page < n_pages; page += SOAK_N_THREADS)
		order[n++] = page;
	for (uint64_t i = n; i > 1; i--) {
		uint64_t other = below(worker, i), page = order[other];

		order[other] = order[i - 1];
		order[i - 1] = page;
	}
	*ret_n = n;
	return order;
}

/* A memory of few, huge pages must last a while, too. */
static uint64_t longest_pause_us(const struct soak_worker *worker)
{
	return worker->memory->kind == SOAK_HUGETLB ? HUGE_PAUSE_US : MAX_PAUSE_US;
}

static bool must_stop(const struct soak_worker *worker)
{
	return atomic_load_explicit(&worker->all->must_stop, memory_order_relaxed);
}

void soak_worker_run(struct soak_worker *worker)
{
	uint64_t n, burst = 1, *order = make_order(worker, &n);

	for (uint64_t i = 0; i < n - n / 4 && !must_stop(worker); i++) {
		visit(worker, order, i);
		if (--burst)
			continue;
		burst = 1 + below(worker, MAX_BURST);
		usleep((useconds_t)below(worker, longest_pause_us(worker)));
	}
	free(order);
}

void soak_worker_check(struct soak_worker *worker)
{
	for (uint64_t page = worker->index; page < worker->memory->n_pages; page += SOAK_N_THREADS)
		check(worker, page);
}
