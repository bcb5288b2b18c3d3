/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A scene: an ufdd, a bystander whose faults are timed and whose pages are compared, and one hostile
 * party. The bystander and its demand thread stay on the first CPU, all else on the last.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define SCENE_N_PAGES  UINT64_C(2048) /* of the bystander */
#define BYSTANDER      "bystander"
#define BYSTANDER_SEED 0xb
#define HOSTILE_SEED   0xa

/* How the daemon is started; zero is no limit. */
struct scene_limits {
	uint64_t nofile;
	uint64_t as_bytes;
	bool no_memlock;
};

/* Shared by all processes of a scene. */
struct stage {
	_Atomic bool is_under_way; /* the attack is */
	_Atomic bool must_stop;
	_Atomic bool is_bystander_leaving; /* its name is about to be free */
	_Atomic uint64_t n_rounds;	   /* of the attack */
	char complaint[512];		   /* what should not have been possible; ends the attack */
	char skipped[256];		   /* why the attack cannot be made here */
};

struct party;

/* Readable. */
struct attack {
	const char *name;
	void (*run)(struct party *party);
	struct scene_limits limits;
};

/*
 * Make the attack, as often as the timing needs. Everything else that goes wrong fails the test.
 * Context: a test's own process.
 */
void scene_play(const struct attack *attack);
