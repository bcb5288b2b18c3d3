/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The rows of memory that is handed over as Firecracker does it. */
#include "base/units.h"
#include "groups.h"

static struct arm plainly(struct arm arm)
{
	arm.name = "plain";
	arm.server = SERVER_PLAIN;
	return arm;
}

static struct arm by_ufdd(struct arm arm)
{
	arm.name = "ufdd-firecracker";
	arm.server = SERVER_FIRECRACKER;
	return arm;
}

/* How long until somebody serves, and how many faults a second then. */
static void add_faults(struct rows *rows, struct arm arm, bool is_same_cpu)
{
	struct row *row = groups_add(rows, GROUP_HANDOFF, is_same_cpu,
				     "connect to first fault: plain / ufdd");

	arm.result = RESULT_FIRST;
	arm.n_touches = 1;
	arm.has_background = true;
	row->above = plainly(arm);
	row->below = by_ufdd(arm);
	groups_aim(row, true, 0, 0.002);

	row = groups_add(rows, GROUP_HANDOFF, is_same_cpu,
			 "faults a second, random 5 %%: ufdd / plain");
	arm.result = RESULT_FAULT;
	arm.has_background = false; /* it would leave few faults */
	arm.n_touches = arm.length_bytes / ram_page_bytes(arm.kind) / 20;
	row->is_rate = true;
	/* the quotient of times is that of rates the other way round */
	row->above = plainly(arm);
	row->below = by_ufdd(arm);
	groups_aim(row, true, 0, 0.3);
}

static const struct {
	const char *name;
	bool is_sequential;
	unsigned int percent;
	double target[2], gate[2]; /* on another CPU, on the same */
} walks[] = {
	{ "random walk", false, 100, { 5, 1.7 }, { 2.5, 0.7 } },
	{ "sequential walk", true, 100, { 6, 2.8 }, { 3, 1.2 } },
	{ "random 5 %", false, 5, { 1.0, 0.75 }, { 0.4, 0.3 } },
};

static void add_walks(struct rows *rows, struct arm arm, bool is_quick, bool is_same_cpu)
{
	arm.result = RESULT_WALK;
	arm.has_background = true;
	for (unsigned int i = 0; i < sizeof(walks) / sizeof(walks[0]); i++) {
		struct row *row;

		if (is_quick && is_same_cpu && i > 0)
			break;
		row = groups_add(rows, GROUP_HANDOFF, is_same_cpu, "%s: plain / ufdd",
				 walks[i].name);
		arm.is_sequential = walks[i].is_sequential;
		arm.n_touches = arm.length_bytes / ram_page_bytes(arm.kind) * walks[i].percent /
				100;
		row->above = plainly(arm);
		row->below = by_ufdd(arm);
		groups_aim(row, true, walks[i].target[is_same_cpu], walks[i].gate[is_same_cpu]);
	}
}

void groups_handoff(struct rows *rows, bool is_quick)
{
	struct arm arm = {
		.kind = RAM_ANON,
		.source = FROM_IMAGE,
		.length_bytes = groups_image_bytes(is_quick) / (is_quick ? 4 : 1),
	};

	for (unsigned int is_same_cpu = 0; is_same_cpu < 2; is_same_cpu++) {
		if (!is_quick || !is_same_cpu)
			add_faults(rows, arm, is_same_cpu);
		add_walks(rows, arm, is_quick, is_same_cpu);
	}
}
