/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Threads of the simulated VMM: they touch in orders of their own, while another one discards. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "support/sim-vm.h"

#define MAX_DISCARD_PAGES 32
#define KERNEL_EVERY	  8 /* of the first thread's touches: by a system call, as devices do */
#define KERNEL_FAULTS	  5 /* the first version whose kernel-mode faults wait */

struct worker {
	struct sim *sim;
	unsigned int index;
	uint64_t random;
	pthread_t thread;
	void (*work)(struct worker *worker);
	uint64_t *order;      /* owned; of the pages */
	unsigned char *bytes; /* owned; what was seen of a page */
	int copy;	      /* where the kernel puts what it saw */
};

uint64_t sim_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static void shuffle(struct worker *worker)
{
	uint64_t n = worker->sim->n_pages;

	for (uint64_t i = 0; i < n; i++)
		worker->order[i] = i;
	for (uint64_t i = n - 1; i > 0; i--) {
		uint64_t j = sim_random(&worker->random) % (i + 1);
		uint64_t kept = worker->order[i];

		worker->order[i] = worker->order[j];
		worker->order[j] = kept;
	}
}

/* The end, or a pause, in the middle of others' faults. */
static void count_touch(struct sim *sim)
{
	uint64_t n = ++sim->n_touched;

	if (n == sim->options.die_after)
		kill(getpid(), SIGKILL);
	if (n == sim->options.stop_after)
		kill(getpid(), SIGSTOP);
}

static void touch(struct worker *worker, uint64_t page)
{
	struct sim *sim = worker->sim;
	const unsigned char *address = sim_page(sim, page);
	uint64_t n_bytes = sim->options.page_bytes;
	unsigned char before = sim->pages[page];
	bool is_kernel = worker->index == 0 && page % KERNEL_EVERY == 0 &&
			 sim->options.minor >= KERNEL_FAULTS;

	if (!address)
		return;
	if (is_kernel) {
		if (pwrite(worker->copy, address, n_bytes, 0) != (ssize_t)n_bytes)
			sim_fail(SIM_FAILED, "a system call on guest memory", errno);
		if (pread(worker->copy, worker->bytes, n_bytes, 0) != (ssize_t)n_bytes)
			sim_fail(SIM_FAILED, "pread", errno);
		sim->n_kernel_touched++;
	} else {
		memcpy(worker->bytes, address, n_bytes);
	}
	sim_judge(sim, page, worker->bytes, before);
	count_touch(sim);
}

static void work_touch(struct worker *worker)
{
	for (unsigned int pass = 0; pass < worker->sim->options.n_passes; pass++) {
		shuffle(worker);
		for (uint64_t i = 0; i < worker->sim->n_pages; i++)
			touch(worker, worker->order[i]);
	}
}

static void work_write(struct worker *worker)
{
	const struct sim_options *options = &worker->sim->options;

	for (uint64_t page = 0; page < worker->sim->n_pages; page += options->write_every)
		if (page / options->write_every % options->n_threads == worker->index)
			sim_write(worker->sim, page);
}

/*
 * What is mapped anew is nobody's, unless somebody registers it: no balloon is inflated before the
 * first fault of the VM was served.
 */
static void wait_for_service(const struct sim *sim)
{
	struct timespec moment = { .tv_nsec = 1000000 };

	while (sim->options.minor < SIM_DISCARDS_TOLD && sim->n_touched == 0)
		nanosleep(&moment, NULL);
}

static void work_discard(struct worker *worker)
{
	struct sim *sim = worker->sim;

	wait_for_service(sim);
	for (uint64_t i = 0; i < sim->options.n_discards; i++) {
		uint64_t first = sim_random(&worker->random) % sim->n_pages;
		uint64_t n = 1 + sim_random(&worker->random) % MAX_DISCARD_PAGES;
		const unsigned char *start = sim_page(sim, first);

		/* within one region */
		while (n > 1 &&
		       (first + n > sim->n_pages ||
			sim_page(sim, first + n - 1) != start + (n - 1) * sim->options.page_bytes))
			n--;
		if (start)
			sim_discard(sim, first, n);
	}
}

static void *run_worker(void *argument)
{
	struct worker *worker = argument;

	worker->work(worker);
	return NULL;
}

static void start(struct worker *worker, struct sim *sim, unsigned int index,
		  void (*work)(struct worker *worker))
{
	*worker = (struct worker){ .sim = sim, .index = index, .work = work };
	worker->random = (sim->options.seed + 1) * UINT64_C(0x9e3779b97f4a7c15) + index;
	worker->order = calloc(sim->n_pages, sizeof(*worker->order));
	worker->bytes = malloc(sim->options.page_bytes);
	worker->copy = memfd_create("copy", MFD_CLOEXEC);
	if (!worker->order || !worker->bytes || worker->copy < 0 ||
	    pthread_create(&worker->thread, NULL, run_worker, worker))
		sim_fail(SIM_FAILED, "a thread", errno);
}

static void join(struct worker *worker)
{
	pthread_join(worker->thread, NULL);
	free(worker->order);
	free(worker->bytes);
	close(worker->copy);
}

static void run_all(struct sim *sim, void (*work)(struct worker *worker), bool with_discards)
{
	struct worker workers[SIM_MAX_THREADS + 1];
	unsigned int n = sim->options.n_threads;

	for (unsigned int i = 0; i < n; i++)
		start(&workers[i], sim, i, work);
	if (with_discards) {
		start(&workers[n], sim, n, work_discard);
		n++;
	}
	for (unsigned int i = 0; i < n; i++)
		join(&workers[i]);
}

void sim_run(struct sim *sim)
{
	if (sim->options.is_kvm)
		sim_run_kvm(sim);
	run_all(sim, work_touch, sim->options.n_discards > 0);
	sim_plug(sim);
	if (sim->options.write_every)
		run_all(sim, work_write, false);
	sim->options.n_passes = 1;
	run_all(sim, work_touch, false);
}
