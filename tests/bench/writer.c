/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A vCPU of a toy guest. */
#include "writer.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "base/units.h"
#include "machine.h"
#include "ram.h"

#define MASK	UINT64_C(0x5bd1e9955bd1e995)
#define WORD	1 /* of a page, that it writes */
#define LOOK_NS (200 * NSEC_PER_USEC)

struct writer {
	struct writer_opts opts;
	pthread_t thread;
	_Atomic bool must_look; /* at what is under the lock */
	_Atomic uint64_t n_writes;
	_Atomic bool has_stopped;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool must_stand, must_stop, is_standing; /* under the lock */
};

void writer_toggle(const struct ram *ram, uint64_t page)
{
	volatile uint64_t *words = (volatile uint64_t *)(ram->at + page * ram->page_bytes);

	words[WORD] ^= MASK;
}

/* Return: is it to go on? */
static bool look(struct writer *writer)
{
	bool must_stop;

	pthread_mutex_lock(&writer->lock);
	writer->is_standing = true;
	pthread_cond_broadcast(&writer->changed);
	while (writer->must_stand && !writer->must_stop)
		pthread_cond_wait(&writer->changed, &writer->lock);
	writer->is_standing = false;
	must_stop = writer->must_stop;
	if (!must_stop)
		atomic_store(&writer->must_look, false);
	pthread_mutex_unlock(&writer->lock);
	return !must_stop;
}

static void *run(void *userdata)
{
	struct writer *writer = userdata;
	const struct writer_opts *opts = &writer->opts;
	uint64_t n = 0, end_ns = clock_now_ns();

	machine_pin(opts->cpu);
	while (!opts->latencies_ns || n < opts->n_latencies) {
		uint64_t start_ns = clock_now_ns();

		if (atomic_load(&writer->must_look) && !look(writer))
			break;
		if (start_ns < end_ns + opts->gap_ns)
			continue;
		writer_toggle(opts->ram, opts->order[n % opts->n_order]);
		end_ns = clock_now_ns();
		if (opts->latencies_ns)
			opts->latencies_ns[n] = (uint32_t)min_u64(end_ns - start_ns, UINT32_MAX);
		atomic_store(&writer->n_writes, ++n);
	}
	atomic_store(&writer->has_stopped, true);
	return NULL;
}

struct writer *writer_start(const struct writer_opts *opts)
{
	struct writer *writer = calloc(1, sizeof(*writer));

	if (!writer)
		die("no memory");
	writer->opts = *opts;
	pthread_mutex_init(&writer->lock, NULL);
	pthread_cond_init(&writer->changed, NULL);
	if (pthread_create(&writer->thread, NULL, run, writer))
		die("no thread");
	return writer;
}

/* It looks at them when it has done the write that it is at. */
static void ask(struct writer *writer, bool must_stand, bool must_stop)
{
	pthread_mutex_lock(&writer->lock);
	writer->must_stand = must_stand;
	writer->must_stop = must_stop;
	atomic_store(&writer->must_look, must_stand || must_stop);
	pthread_cond_broadcast(&writer->changed);
	pthread_mutex_unlock(&writer->lock);
}

uint64_t writer_stop(struct writer *writer)
{
	uint64_t n;

	ask(writer, false, true);
	pthread_join(writer->thread, NULL);
	n = atomic_load(&writer->n_writes);
	pthread_cond_destroy(&writer->changed);
	pthread_mutex_destroy(&writer->lock);
	free(writer);
	return n;
}

uint64_t writer_await(struct writer *writer, uint64_t n_writes)
{
	const struct timespec pause = { .tv_nsec = LOOK_NS };

	while (atomic_load(&writer->n_writes) < n_writes && !atomic_load(&writer->has_stopped))
		nanosleep(&pause, NULL);
	return atomic_load(&writer->n_writes);
}

uint64_t writer_pause(struct writer *writer)
{
	ask(writer, true, false);
	pthread_mutex_lock(&writer->lock);
	while (!writer->is_standing)
		pthread_cond_wait(&writer->changed, &writer->lock);
	pthread_mutex_unlock(&writer->lock);
	return atomic_load(&writer->n_writes);
}

void writer_resume(struct writer *writer)
{
	ask(writer, false, false);
}
