/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A memory whose writes are tracked. */
#include "tracked.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <ufd/pager-dirty.h>
#include <unistd.h>

#include "arm.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/units.h"
#include "engine.h"
#include "kernel/pagemap.h"
#include "kernel/uffd.h"
#include "machine.h"

#define N_HARVESTS 5
#define STEP_BYTES (64 * MIB)
#define N_VECTOR   2730 /* 64 KiB, as the engine has it */

/* One of the two is used. */
struct tracked {
	const struct arm *arm;
	struct ram ram;
	int uffd;
	int cpu;
	/* the barest calls */
	int pagemap;
	int stop; /* eventfd */
	pthread_t handler;
	struct page_region *vector;
	struct engine engine;
};

static struct hva_range all_of(const struct tracked *tracked)
{
	return (struct hva_range){ { (uintptr_t)tracked->ram.at }, tracked->ram.length_bytes };
}

/* ---- the barest calls ---- */

static void protect_all(const struct tracked *tracked)
{
	struct hva_range range = all_of(tracked);

	for (uint64_t at = 0; at < range.length_bytes; at += STEP_BYTES) {
		struct hva_range step = { hva_add(range.start, at),
					  min_u64(STEP_BYTES, range.length_bytes - at) };
		struct hva end;
		uint64_t n;

		if (tracked->arm->is_sync)
			must(uffd_write_protect(tracked->uffd, step, true), "protect");
		else
			must(pagemap_scan(tracked->pagemap, step, PAGE_IS_WRITTEN,
					  PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC, NULL, 0, &n,
					  &end),
			     "arm");
	}
}

/* One call after the other; what they report is counted, no more. */
static uint64_t scan_all(const struct tracked *tracked)
{
	struct hva_range range = all_of(tracked);
	uint64_t end = range.start.v + range.length_bytes, n_bytes = 0;

	while (range.start.v < end) {
		struct hva_range step = { range.start, end - range.start.v };
		uint64_t n;

		must(pagemap_scan(tracked->pagemap, step, PAGE_IS_WRITTEN,
				  PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC, tracked->vector,
				  N_VECTOR, &n, &range.start),
		     "scan");
		for (uint64_t i = 0; i < n; i++)
			n_bytes += tracked->vector[i].end - tracked->vector[i].start;
	}
	return n_bytes;
}

/* poll, read of one message, one ioctl for one page. */
static void *handle(void *userdata)
{
	struct tracked *tracked = userdata;
	struct pollfd polls[2] = { { .fd = tracked->uffd, .events = POLLIN },
				   { .fd = tracked->stop, .events = POLLIN } };
	struct uffd_msg message;
	unsigned int n;

	machine_pin(tracked->cpu);
	for (;;) {
		(void)poll(polls, 2, -1);
		if (polls[1].revents)
			return NULL;
		if (uffd_read(tracked->uffd, &message, 1, &n) < 0 || n == 0)
			continue;
		must(uffd_write_protect(
			     tracked->uffd,
			     (struct hva_range){ { align_down(message.arg.pagefault.address,
							      tracked->ram.page_bytes) },
						 tracked->ram.page_bytes },
			     false),
		     "un-protect");
	}
}

static void start_raw(struct tracked *tracked)
{
	tracked->vector = calloc(N_VECTOR, sizeof(*tracked->vector));
	tracked->stop = eventfd(0, EFD_CLOEXEC);
	if (!tracked->vector || tracked->stop < 0)
		die("no memory");
	must(pagemap_open(&tracked->pagemap, getpid()), "open the pagemap");
	must(uffd_register(tracked->uffd, all_of(tracked), UFFD_MODE_MISSING | UFFD_MODE_WP, NULL),
	     "register");
	protect_all(tracked);
	if (tracked->arm->is_sync && pthread_create(&tracked->handler, NULL, handle, tracked))
		die("no thread");
}

static void stop_raw(struct tracked *tracked)
{
	uint64_t one = 1;

	if (tracked->arm->is_sync) {
		(void)!write(tracked->stop, &one, sizeof(one));
		pthread_join(tracked->handler, NULL);
	}
	closep(&tracked->stop);
	closep(&tracked->pagemap);
	free(tracked->vector);
}

/* ---- */

static uint64_t harvest(const struct tracked *tracked)
{
	if (tracked->engine.guest)
		return engine_read(&tracked->engine, ENGINE_CONSUMER, UFD_DIRTY_LAST, NULL);
	return scan_all(tracked);
}

static void write_page(const struct tracked *tracked, uint64_t page)
{
	*(volatile uint64_t *)(tracked->ram.at + page * tracked->ram.page_bytes) = page;
}

static int compare_ns(const void *a, const void *b)
{
	const double *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

static double harvest_ns(struct bench *bench, const struct tracked *tracked)
{
	double times_ns[N_HARVESTS];

	for (unsigned int i = 0; i < N_HARVESTS; i++) {
		uint64_t n = tracked->arm->n_touches, found_bytes, start_ns;

		for (uint64_t at = 0; at < n; at++)
			write_page(tracked, bench->order[at]);
		start_ns = clock_now_ns();
		found_bytes = harvest(tracked);
		times_ns[i] = (double)(clock_now_ns() - start_ns);
		if (found_bytes != n * tracked->ram.page_bytes) {
			errno = EBADMSG;
			die("%s: %llu pages were written, and %llu are dirty", tracked->arm->name,
			    (unsigned long long)n,
			    (unsigned long long)(found_bytes / tracked->ram.page_bytes));
		}
	}
	qsort(times_ns, N_HARVESTS, sizeof(times_ns[0]), compare_ns);
	return times_ns[N_HARVESTS / 2];
}

static double first_write_ns(struct bench *bench, const struct tracked *tracked)
{
	uint64_t n = tracked->arm->n_touches;

	for (uint64_t i = 0; i < n; i++) {
		uint64_t start_ns = clock_now_ns();

		write_page(tracked, bench->order[i]);
		bench->latencies_ns[i] = (uint32_t)(clock_now_ns() - start_ns);
	}
	return bench_percentile_ns(bench->latencies_ns, n, 50);
}

double tracked_run(struct bench *bench, const struct arm *arm, int cpu)
{
	struct tracked tracked = {
		.arm = arm, .uffd = -EBADF, .pagemap = -EBADF, .stop = -EBADF, .cpu = cpu
	};
	double result;

	ram_new(&tracked.ram, arm->kind, arm->length_bytes);
	memset(tracked.ram.at, 1, arm->length_bytes);
	bench_make_order(bench, arm, arm->length_bytes / tracked.ram.page_bytes);
	tracked.uffd = engine_new_uffd(arm->is_sync);
	if (arm->server == SERVER_ENGINE)
		engine_start(&tracked.engine, &tracked.ram, tracked.uffd, arm->is_sync, cpu);
	else
		start_raw(&tracked);

	result = arm->result == RESULT_HARVEST ? harvest_ns(bench, &tracked)
					       : first_write_ns(bench, &tracked);

	if (arm->server == SERVER_ENGINE)
		engine_stop(&tracked.engine);
	else
		stop_raw(&tracked);
	closep(&tracked.uffd);
	ram_done(&tracked.ram);
	return result;
}
