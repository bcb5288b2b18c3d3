/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One arm. */
#include "arm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "base/clock.h"
#include "base/units.h"
#include "handed.h"
#include "machine.h"
#include "saved.h"
#include "tracked.h"

/* How often RESULT_FILL looks whether all is there. */
#define LOOK_NS (100 * NSEC_PER_USEC)

/* Longer than a touch of a page that is there, shorter than any fault that somebody serves. */
#define WAITED_NS NSEC_PER_USEC

void bench_new(struct bench *bench, const char *ufdd, const char *folder, uint64_t image_bytes)
{
	uint64_t n_pages = image_bytes / BLOCK_BYTES;

	image_new(&bench->image, folder, image_bytes);
	/* Before any memory is mapped that will be paged. */
	bench->handler = handler_new(&bench->image);
	bench->daemon = bench_daemon_new(ufdd, folder);
	bench->order = calloc(n_pages, sizeof(*bench->order));
	bench->latencies_ns = calloc(n_pages, sizeof(*bench->latencies_ns));
	if (!bench->order || !bench->latencies_ns)
		die("no memory");
	bench->prefilled.backing = -EBADF;
	bench->folder = folder;
	bench->seed = 88172645463325252;
}

static uint64_t next_random(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

void bench_make_order(struct bench *bench, const struct arm *arm, uint64_t n_pages)
{
	uint64_t seed = bench->seed;

	for (uint64_t i = 0; i < n_pages; i++)
		bench->order[i] = (uint32_t)i;
	for (uint64_t i = 0; !arm->is_sequential && i < arm->n_touches; i++) {
		uint64_t j = i + next_random(&seed) % (n_pages - i);
		uint32_t page = bench->order[i];

		bench->order[i] = bench->order[j];
		bench->order[j] = page;
	}
}

static void wait_until(uint64_t at_ns)
{
	while (clock_now_ns() < at_ns)
		;
}

static bool is_in_backing(const unsigned char *page)
{
	unsigned char is_resident;

	if (mincore((void *)page, 4096, &is_resident) < 0)
		die("cannot ask what is in the backing");
	return is_resident & 1;
}

/*
 * Touch pages as the arm says. A load is a touch: it faults as a store does, and leaves the bytes
 * for the comparison.
 * Return: how many latencies there are.
 */
static uint64_t touch(struct bench *bench, const struct arm *arm, const struct ram *ram)
{
	uint64_t last_ns = clock_now_ns(), n = 0;

	for (uint64_t i = 0; i < arm->n_touches; i++) {
		const unsigned char *page = ram->at + bench->order[i] * ram->page_bytes;
		uint64_t start_ns;

		if (arm->gap_ns)
			wait_until(last_ns + arm->gap_ns);
		if (arm->only_absent && is_in_backing(page))
			continue;
		start_ns = clock_now_ns();
		(void)*(const volatile uint64_t *)page;
		last_ns = clock_now_ns();
		bench->latencies_ns[n++] = (uint32_t)min_u64(last_ns - start_ns, UINT32_MAX);
	}
	return n;
}

/* A walk has no clock between its touches: a touch that does not fault is a few nanoseconds. */
static uint64_t walk_ns(struct bench *bench, const struct arm *arm, const struct ram *ram)
{
	uint64_t start_ns = clock_now_ns();

	for (uint64_t i = 0; i < arm->n_touches; i++)
		(void)*(const volatile uint64_t *)(ram->at + bench->order[i] * ram->page_bytes);
	return clock_now_ns() - start_ns;
}

static int compare(const void *a, const void *b)
{
	const uint32_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

double bench_percentile_ns(uint32_t *latencies_ns, uint64_t n, unsigned int percent)
{
	if (!n)
		die("not one page was absent");
	qsort(latencies_ns, n, sizeof(*latencies_ns), compare);
	return latencies_ns[min_u64(n * percent / 100, n - 1)];
}

/* Reorders. */
static double median_wait_ns(uint32_t *latencies_ns, uint64_t n)
{
	uint64_t n_waits = 0;

	for (uint64_t i = 0; i < n; i++)
		if (latencies_ns[i] >= WAITED_NS)
			latencies_ns[n_waits++] = latencies_ns[i];
	return bench_percentile_ns(latencies_ns, n_waits, 50);
}

/* What was filled while the memory was handed over does not count. */
static double fill_ns(const struct ram *ram)
{
	const struct timespec pause = { .tv_nsec = LOOK_NS };
	uint64_t start_ns = clock_now_ns(), before_bytes = ram_filled_bytes(ram);

	while (ram_filled_bytes(ram) < ram->length_bytes)
		nanosleep(&pause, NULL);
	if (before_bytes == ram->length_bytes)
		die("all was filled before anybody could look");
	return (double)(clock_now_ns() - start_ns) * (double)ram->length_bytes /
	       (double)(ram->length_bytes - before_bytes);
}

double arm_measure(struct bench *bench, const struct arm *arm, const struct ram *ram)
{
	uint64_t n;

	switch (arm->result) {
	case RESULT_WALK:
		return (double)walk_ns(bench, arm, ram);
	case RESULT_FILL:
		return fill_ns(ram);
	case RESULT_FAULT:
		n = touch(bench, arm, ram);
		return median_wait_ns(bench->latencies_ns, n);
	default:
		n = touch(bench, arm, ram);
		return bench_percentile_ns(bench->latencies_ns, n,
					   arm->result == RESULT_P50 ? 50 : 99);
	}
}

static void attach(struct bench *bench, const struct arm *arm, const struct ram *ram, int cpu)
{
	struct service service = {
		.cpu = cpu,
		.is_minor = arm->source == FROM_BACKING,
		.is_zero = arm->source == FROM_ZERO,
		.has_window = arm->has_window,
		.has_background = arm->has_background,
		.background_mib_s = arm->background_mib_s,
	};

	if (arm->server == SERVER_UFDD)
		bench_daemon_attach(bench->daemon, ram, &bench->image, &service);
	else
		handler_attach(bench->handler, arm->loop, ram, cpu);
}

static bool fills_everything(const struct arm *arm)
{
	return arm->server == SERVER_UFDD || arm->result == RESULT_FILL;
}

static void verify_zero(const struct ram *ram, uint64_t page, const char *arm)
{
	const unsigned char *bytes = ram->at + page * ram->page_bytes;

	if (bytes[0] || memcmp(bytes, bytes + 1, ram->page_bytes - 1))
		die("%s: page %llu is not zero", arm, (unsigned long long)page);
}

void arm_verify(const struct bench *bench, const struct arm *arm, const struct ram *ram)
{
	uint64_t n = fills_everything(arm) ? ram->length_bytes / ram->page_bytes : arm->n_touches;

	for (uint64_t i = 0; i < n; i++) {
		uint64_t page = fills_everything(arm) ? i : bench->order[i];

		if (arm->source == FROM_ZERO)
			verify_zero(ram, page, arm->name);
		else
			ram_verify(ram, &bench->image, page, arm->name);
	}
}

/* The backing that holds the bytes is made once; each arm maps it anew. */
static void map_ram(struct bench *bench, const struct arm *arm, struct ram *ret)
{
	struct ram *prefilled = &bench->prefilled;

	if (arm->source != FROM_BACKING) {
		ram_new(ret, arm->kind, arm->length_bytes);
		return;
	}
	if (prefilled->backing < 0 || prefilled->kind != arm->kind ||
	    prefilled->length_bytes != arm->length_bytes) {
		ram_done(prefilled);
		ram_new(prefilled, arm->kind, arm->length_bytes);
		ram_fill(prefilled, &bench->image);
	}
	ram_share(ret, prefilled);
}

double arm_run(struct bench *bench, const struct arm *arm, int cpu)
{
	struct ram ram;
	double result;

	if (arm->result >= RESULT_SAVE)
		return saved_run(bench, arm, cpu);
	if (arm->server == SERVER_ENGINE || arm->server == SERVER_CALLS)
		return tracked_run(bench, arm, cpu);
	if (arm->server == SERVER_FIRECRACKER || arm->server == SERVER_PLAIN)
		return handed_run(bench, arm, cpu);
	map_ram(bench, arm, &ram);
	bench_make_order(bench, arm, ram.length_bytes / ram.page_bytes);
	attach(bench, arm, &ram, cpu);
	result = arm_measure(bench, arm, &ram);
	if (arm->server == SERVER_UFDD)
		bench_daemon_detach(bench->daemon);
	else
		handler_detach(bench->handler);
	arm_verify(bench, arm, &ram);
	ram_done(&ram);
	return result;
}
