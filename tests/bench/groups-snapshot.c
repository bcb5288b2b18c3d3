/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The rows of snapshots. */
#include <string.h>

#include "base/units.h"
#include "groups.h"

static const struct {
	const char *name, *codec;
	double gate; /* to pread and write; a quarter of it to memcpy */
} saves[] = {
	{ "none", "none", 0.3 },
	{ "lz4", "lz4", 0.1 },
	{ "zstd:1", "zstd:1", 0.04 },
};

/* Time of the plain way / time of the save: throughput of the save / throughput of the plain way. */
static void add_saves(struct rows *rows, struct arm arm, bool is_quick)
{
	arm.result = RESULT_SAVE;
	for (unsigned int i = 0; i < sizeof(saves) / sizeof(saves[0]); i++)
		for (unsigned int is_memcpy = 0; is_memcpy < (is_quick ? 1 : 2); is_memcpy++) {
			struct row *row = groups_add(rows, GROUP_SNAPSHOT, false,
						     "save, %s: throughput / %s", saves[i].name,
						     is_memcpy ? "memcpy" : "pread and write");

			row->floor = FLOOR_MEMCPY;
			row->moved_bytes = arm.length_bytes;
			arm.name = is_memcpy ? "memcpy" : "pread and write";
			arm.way = is_memcpy ? SAVE_MEMCPY : SAVE_PREAD_WRITE;
			row->above = arm;
			arm.name = "save";
			arm.way = SAVE_STILL;
			arm.codec = saves[i].codec;
			row->below = arm;
			groups_aim(row, true, 0, is_memcpy ? saves[i].gate / 4 : saves[i].gate);
		}
}

static const struct {
	const char *name;
	enum save_way way;
	bool is_sync;
} pauses[] = {
	{ "rounds", SAVE_ROUNDS, false },
	{ "copy before write", SAVE_BEFORE_WRITE, true },
};

/* Below: the guest stands still until all is copied, on the same kind of context. */
static void add_pauses(struct rows *rows, struct arm arm)
{
	arm.result = RESULT_PAUSE;
	arm.codec = "none";
	arm.gap_ns = 50 * NSEC_PER_USEC;
	for (unsigned int i = 0; i < sizeof(pauses) / sizeof(pauses[0]); i++) {
		struct row *row = groups_add(rows, GROUP_SNAPSHOT, false, "pause: %s / paused save",
					     pauses[i].name);

		row->floor = FLOOR_MEMCPY;
		arm.is_sync = pauses[i].is_sync;
		arm.way = pauses[i].way;
		arm.name = pauses[i].name;
		row->above = arm;
		arm.way = SAVE_STILL;
		arm.name = "paused save";
		row->below = arm;
		groups_aim(row, false, 0, 1);
	}
}

static const char *const codecs[] = { "none", "lz4" };

static void add_writes(struct rows *rows, struct arm arm, bool is_quick)
{
	arm.result = RESULT_WRITES_P99;
	arm.is_sync = true;
	arm.gap_ns = 20 * NSEC_PER_USEC;
	arm.n_touches = is_quick ? 2000 : 10000;
	for (unsigned int i = 0; i < sizeof(codecs) / sizeof(codecs[0]); i++) {
		struct row *row = groups_add(rows, GROUP_SNAPSHOT, false,
					     "write p99: copy before write, %s / no save",
					     codecs[i]);

		arm.codec = codecs[i];
		arm.way = SAVE_BEFORE_WRITE;
		arm.name = "copy before write";
		row->above = arm;
		arm.way = SAVE_NOT;
		arm.name = "no save";
		row->below = arm;
		groups_aim(row, false, 0, 50);
	}
}

void groups_snapshot(struct rows *rows, bool is_quick)
{
	struct arm arm = { .server = SERVER_ENGINE,
			   .kind = RAM_SHMEM,
			   .length_bytes = groups_image_bytes(is_quick) / 2 };

	arm.n_touches = arm.length_bytes / ram_page_bytes(arm.kind);
	add_pauses(rows, arm);
	add_writes(rows, arm, is_quick);
	add_saves(rows, arm, is_quick);
}
