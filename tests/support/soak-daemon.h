/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The daemon that a soak run kills, and whoever starts it again. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/*
 * Readable.
 * @group: its service's control group, where a service manager starts it anew
 * @program, @socket_path, @state_dir: or else: started, and started anew, by us
 */
struct soak_daemon {
	const char *group;
	const char *program;
	const char *socket_path;
	const char *state_dir;
	pid_t pid;
	int pidfd;
};

/* When one daemon died, CLOCK_MONOTONIC. */
struct soak_kill {
	uint64_t before_ns; /* just before the signal was sent */
	uint64_t after_ns;  /* just after */
	uint64_t dead_ns;   /* the process had ended by then */
};

/* Wait until one runs. Return: false if none does by the deadline. */
bool soak_daemon_await(struct soak_daemon *daemon, uint64_t deadline_ns);

/* Has it ended by itself? */
bool soak_daemon_is_dead(const struct soak_daemon *daemon);

/* SIGKILL, and wait for its end. */
void soak_daemon_kill(struct soak_daemon *daemon, struct soak_kill *ret);

void soak_daemon_done(struct soak_daemon *daemon);
