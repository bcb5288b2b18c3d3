/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A process with a libufd client, which does what libufd(3) says it must: a call that fails is made
 * again, when dispatch has found the daemon; bytes are discarded only if the announcement may have
 * arrived. Each page that is touched is compared. Every function ends the run when something is wrong.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "inject/ufdd.h"
#include "support/pattern.h"
#include "ufd/ufd.h"

#define PLAY_PAGES 32
#define PLAY_RAMS  3

struct ram {
	const char *name;
	bool is_anon;
	char *bytes;
	int memfd;
	uint32_t generations[PLAY_PAGES];
	_Atomic int wrong_page; /* -1: none */
};

struct play {
	struct ufdd ufdd;
	const struct ufdd_twin *twin; /* which ufdd is; NULL: it has no failures */
	struct ufd_client *client;
	struct ram rams[PLAY_RAMS];
	int image;
};

/* Memories and their image; no daemon and no client yet. */
void play_init(struct play *play);
/* Every page is compared once more. The daemon has gone, or goes. */
void play_done(struct play *play);

/* Attach, touch, discard, plug in, plug out. */
void play_use(struct play *play);
/* The same with the next daemon; @play->ufdd runs. */
void play_go_on(struct play *play);
void play_detach(struct play *play);
