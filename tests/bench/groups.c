/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The rows, and what each must reach. docs/performance.md says what they mean. */
#include "groups.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/units.h"
#include "machine.h"

#define N_HUGE_TOUCHES (GROUPS_HUGE_PAGES / 2)
#define SPARSE_PERCENT 5

uint64_t groups_image_bytes(bool is_quick)
{
	return is_quick ? 128 * MIB : 512 * MIB;
}

struct row *groups_add(struct rows *rows, const char *group, bool is_same_cpu, const char *name,
		       ...)
{
	struct row *row = &rows->rows[rows->n++];
	va_list arguments;

	if (rows->n > MAX_ROWS)
		die("too many rows");
	*row = (struct row){ .group = group, .is_same_cpu = is_same_cpu };
	va_start(arguments, name);
	vsnprintf(row->name, sizeof(row->name), name, arguments);
	va_end(arguments);
	return row;
}

void groups_aim(struct row *row, bool is_at_least, double target, double gate)
{
	row->is_at_least = is_at_least;
	row->target = target;
	row->gate = gate;
}

/* ---- one fault ---- */

static const struct {
	const char *name;
	enum ram_kind kind;
	enum arm_source source;
	enum handler_loop raw;
	double gate;
} faults[] = {
	{ "shmem minor", RAM_SHMEM, FROM_BACKING, LOOP_RAW_CONTINUE, 2.0 },
	{ "shmem missing", RAM_SHMEM, FROM_IMAGE, LOOP_RAW_COPY, 2.0 },
	{ "anon missing", RAM_ANON, FROM_IMAGE, LOOP_RAW_COPY, 2.0 },
	{ "hugetlb minor", RAM_HUGETLB, FROM_BACKING, LOOP_RAW_CONTINUE, 2.0 },
	{ "hugetlb missing", RAM_HUGETLB, FROM_IMAGE, LOOP_RAW_COPY, 3.0 },
};

static struct arm fault_arm(unsigned int i, uint64_t gap_ns, bool is_quick)
{
	uint64_t n_touches = is_quick ? 1500 : gap_ns ? 5000 : 10000;
	struct arm arm = {
		.kind = faults[i].kind,
		.source = faults[i].source,
		.result = RESULT_P50,
		.gap_ns = gap_ns,
	};

	arm.n_touches = arm.kind == RAM_HUGETLB ? N_HUGE_TOUCHES : n_touches;
	arm.length_bytes = arm.n_touches * ram_page_bytes(arm.kind);
	return arm;
}

static struct arm by_handler(struct arm arm, const char *name, enum handler_loop loop)
{
	arm.name = name;
	arm.server = SERVER_HANDLER;
	arm.loop = loop;
	return arm;
}

static struct arm by_ufdd(struct arm arm)
{
	arm.name = "ufdd";
	arm.server = SERVER_UFDD;
	return arm;
}

/* Each kind of page once; the most common one with a gap, and on the same CPU, as well. */
static bool is_in_quick(enum ram_kind kind, bool is_same_cpu, uint64_t gap_ns)
{
	return kind == RAM_SHMEM ? !is_same_cpu || !gap_ns : !is_same_cpu && !gap_ns;
}

static void add_faults(struct rows *rows, bool is_quick, bool is_same_cpu, uint64_t gap_ns)
{
	for (unsigned int i = 0; i < sizeof(faults) / sizeof(faults[0]); i++) {
		struct arm arm = fault_arm(i, gap_ns, is_quick);
		struct row *row;

		if (is_quick && !is_in_quick(faults[i].kind, is_same_cpu, gap_ns))
			continue;
		row = groups_add(rows, GROUP_FAULT, is_same_cpu, "p50 %s, gap %u us: ufdd / raw",
				 faults[i].name, (unsigned int)(gap_ns / NSEC_PER_USEC));
		row->above = by_ufdd(arm);
		row->below = by_handler(arm, "raw", faults[i].raw);
		groups_aim(row, false, 1.10, faults[i].gate);
	}
}

/* What the bare loop would cost if it could not map the image, and what a zero page costs. */
static void add_explanations(struct rows *rows, bool is_quick, bool is_same_cpu)
{
	struct arm arm = fault_arm(1, 0, is_quick);
	struct row *row;

	row = groups_add(rows, GROUP_FAULT, is_same_cpu,
			 "p50 shmem missing, gap 0 us: ufdd / raw by pread");
	row->above = by_ufdd(arm);
	row->below = by_handler(arm, "raw by pread", LOOP_RAW_READ);

	row = groups_add(rows, GROUP_FAULT, is_same_cpu,
			 "p50 shmem missing, gap 0 us: plain / raw");
	row->above = by_handler(arm, "plain", LOOP_PLAIN);
	row->below = by_handler(arm, "raw", LOOP_RAW_COPY);
	groups_aim(row, false, 1.3, 2.0);

	row = groups_add(rows, GROUP_FAULT, is_same_cpu, "p50 shmem zero, gap 0 us: ufdd / raw");
	arm.source = FROM_ZERO;
	row->above = by_ufdd(arm);
	row->below = by_handler(arm, "raw", LOOP_RAW_ZERO);
}

/*
 * Faults on pages that are truly absent, while all the others are being filled, or not. The second
 * kind has faults so far apart that background fill goes on in large pieces; its rate is limited so
 * that pages stay absent for some time.
 */
static void add_interference(struct rows *rows, bool is_quick, bool is_same_cpu)
{
	struct arm arm = {
		.kind = RAM_SHMEM,
		.source = FROM_IMAGE,
		.result = RESULT_P99,
		.length_bytes = groups_image_bytes(is_quick),
		.n_touches = is_quick ? 1500 : 4000,
		.only_absent = true,
		.has_window = true,
		.gap_ns = 30 * NSEC_PER_USEC,
	};
	struct row *row;

	row = groups_add(rows, GROUP_FAULT, is_same_cpu,
			 "p99, gap 30 us: with background fill / without");
	row->below = by_ufdd(arm);
	arm.has_background = true;
	row->above = by_ufdd(arm);
	if (!is_same_cpu)
		groups_aim(row, false, 2, 4);
	if (is_quick)
		return;

	row = groups_add(rows, GROUP_FAULT, is_same_cpu,
			 "p99, gap 2 ms: with background fill / without");
	arm.n_touches = 500;
	arm.gap_ns = 2 * NSEC_PER_MSEC;
	arm.background_mib_s = 400;
	row->above = by_ufdd(arm);
	arm.has_background = false;
	row->below = by_ufdd(arm);
	if (!is_same_cpu)
		groups_aim(row, false, 2, 8);
}

void groups_fault(struct rows *rows, bool is_quick)
{
	for (unsigned int is_same_cpu = 0; is_same_cpu < 2; is_same_cpu++) {
		add_faults(rows, is_quick, is_same_cpu, 0);
		add_faults(rows, is_quick, is_same_cpu, 30 * NSEC_PER_USEC);
		/* without a gate, but for one row */
		if (!is_quick)
			add_explanations(rows, is_quick, is_same_cpu);
		if (!is_quick || !is_same_cpu)
			add_interference(rows, is_quick, is_same_cpu);
	}
}

/* ---- a whole memory ---- */

static const struct {
	const char *name;
	bool is_sequential;
	unsigned int percent;
	double target[2], gate[2]; /* on another CPU, on the same */
} walks[] = {
	{ "random walk", false, 100, { 5, 1.7 }, { 3.5, 0.7 } },
	{ "sequential walk", true, 100, { 6, 2.8 }, { 4, 1.2 } },
	{ "random 5 %", false, SPARSE_PERCENT, { 1.0, 0.75 }, { 0.5, 0.3 } },
};

static void add_walks(struct rows *rows, bool is_quick, bool is_same_cpu)
{
	/* the plain handler takes seconds for each, which --quick has not */
	uint64_t length_bytes = groups_image_bytes(is_quick) / (is_quick ? 2 : 1);

	for (unsigned int i = 0; i < sizeof(walks) / sizeof(walks[0]); i++) {
		struct arm arm = {
			.kind = RAM_SHMEM,
			.source = FROM_IMAGE,
			.result = RESULT_WALK,
			.length_bytes = length_bytes,
			.is_sequential = walks[i].is_sequential,
			.has_window = true,
			.has_background = true,
		};
		struct row *row;

		if (is_quick && is_same_cpu && i > 0)
			break;
		row = groups_add(rows, GROUP_RESTORE, is_same_cpu, "%s: plain / ufdd",
				 walks[i].name);
		arm.n_touches = length_bytes / ram_page_bytes(arm.kind) * walks[i].percent / 100;
		row->above = by_handler(arm, "plain", LOOP_PLAIN);
		row->below = by_ufdd(arm);
		groups_aim(row, true, walks[i].target[is_same_cpu], walks[i].gate[is_same_cpu]);
	}
}

static void add_fill(struct rows *rows, bool is_quick, enum ram_kind kind, const char *name,
		     enum handler_loop loop, double target)
{
	struct arm arm = {
		.kind = kind,
		.source = FROM_IMAGE,
		.result = RESULT_FILL,
		.length_bytes = kind == RAM_HUGETLB ? N_HUGE_TOUCHES * ram_page_bytes(kind)
						    : groups_image_bytes(is_quick),
		.has_window = true,
		.has_background = true,
	};
	struct row *row = groups_add(rows, GROUP_RESTORE, false, "%s", name);

	row->floor = FLOOR_MEMCPY;
	row->above = by_handler(arm, "raw", loop);
	row->below = by_ufdd(arm);
	groups_aim(row, true, target, !target ? 0 : kind == RAM_HUGETLB ? 0.3 : 0.5);
}

void groups_restore(struct rows *rows, bool is_quick)
{
	add_fill(rows, is_quick, RAM_SHMEM, "bulk, shmem: raw COPY / ufdd", LOOP_BULK_COPY, 0.95);
	add_fill(rows, is_quick, RAM_HUGETLB, "bulk, hugetlb: raw COPY / ufdd", LOOP_BULK_COPY,
		 0.95);
	if (!is_quick)
		add_fill(rows, is_quick, RAM_SHMEM, "bulk, shmem: raw pread and COPY / ufdd",
			 LOOP_BULK_READ, 0);
	add_walks(rows, is_quick, false);
	add_walks(rows, is_quick, true);
}

/* ---- what was written ---- */

static const struct {
	const char *name;
	enum ram_kind kind;
	unsigned int per_mille;
	double gate;
} harvests[] = {
	{ "harvest, shmem, 0.1 % dirty", RAM_SHMEM, 1, 4.0 },
	{ "harvest, shmem, 1 % dirty", RAM_SHMEM, 10, 3.0 },
	{ "harvest, shmem, 10 % dirty", RAM_SHMEM, 100, 3.0 },
	{ "harvest, shmem, 100 % dirty", RAM_SHMEM, 1000, 2.0 },
	{ "harvest, anon, 1 % dirty", RAM_ANON, 10, 3.0 },
};

static const struct {
	const char *name;
	enum ram_kind kind;
	bool is_sync;
	double gate;
} first_writes[] = {
	{ "first write, shmem, scan", RAM_SHMEM, false, 2.0 },
	{ "first write, anon, scan", RAM_ANON, false, 2.0 },
	{ "first write, shmem, wp", RAM_SHMEM, true, 2.5 },
};

static void add_tracked(struct rows *rows, struct arm arm, const char *name, double gate)
{
	struct row *row = groups_add(rows, GROUP_DIRTY, false, "%s: engine / raw", name);

	row->floor = arm.is_sync ? FLOOR_PING_PONG : FLOOR_MEMCPY;
	arm.name = "raw";
	arm.server = SERVER_CALLS;
	row->below = arm;
	arm.name = "engine";
	arm.server = SERVER_ENGINE;
	row->above = arm;
	groups_aim(row, false, 1.1, gate);
}

void groups_dirty(struct rows *rows, bool is_quick)
{
	struct arm arm = { .length_bytes = groups_image_bytes(is_quick) };
	uint64_t n_pages = arm.length_bytes / ram_page_bytes(RAM_SHMEM);

	arm.result = RESULT_HARVEST;
	for (unsigned int i = 0; i < sizeof(harvests) / sizeof(harvests[0]); i++) {
		arm.kind = harvests[i].kind;
		/* one size less: it lies between two others */
		if (is_quick && harvests[i].kind == RAM_SHMEM && harvests[i].per_mille == 10)
			continue;
		arm.n_touches = n_pages * harvests[i].per_mille / 1000;
		add_tracked(rows, arm, harvests[i].name, harvests[i].gate);
	}
	arm.result = RESULT_P50;
	arm.n_touches = is_quick ? 2000 : 10000;
	for (unsigned int i = 0; i < sizeof(first_writes) / sizeof(first_writes[0]); i++) {
		arm.kind = first_writes[i].kind;
		arm.is_sync = first_writes[i].is_sync;
		add_tracked(rows, arm, first_writes[i].name, first_writes[i].gate);
	}
}
