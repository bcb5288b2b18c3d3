/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A daemon of this build, or its twin whose calls fail, in a folder of its own. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "inject/board.h"

/* Readable. */
struct ufdd {
	char folder[64];
	char socket[96];
	bool forgets; /* what it knew when it dies */
	pid_t pid;    /* 0: not running */
	int pidfd;
};

/* What a twin is to do; zero is a daemon without failures. */
struct ufdd_twin {
	int board_fd;
	const struct board_plan *plan; /* NULL: no twin */
};

/* Make the folder. Ends the run without room. */
void ufdd_init(struct ufdd *ret);

/**
 * ufdd_start() - start one, and wait until it answers
 *
 * Ends with us. Ends the run if it neither ends nor listens within a while.
 * Return: false if it has ended by itself.
 */
bool ufdd_start(struct ufdd *ufdd, const struct ufdd_twin *twin);

/* @signal, and wait for the end. Return: as waitpid() says. */
int ufdd_stop(struct ufdd *ufdd, int signal);

/* SIGKILL if it runs, and no folder any more. */
void ufdd_done(struct ufdd *ufdd);
