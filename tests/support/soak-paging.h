/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How a soak guest comes to the daemon: by libufd, or unmodified, brought by an attendant process.
 *
 * Either goes on through any number of deaths of the daemon, as a VMM or an operator would: what
 * was not answered is asked again.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "support/soak-board.h"

struct soak_memory;
struct ufd_client;

/* Of one guest, for all its rounds. */
struct soak_way {
	const char *name;
	const char *socket_path;
	const char *image_path;
	int image_fd; /* given with Attach in place of the path; -EBADF: the path is */
	bool by_pid;
	bool has_window;
	bool has_background;
	bool is_backing; /* the bytes are in the memory's own file */
};

/* Fields are private but for @way. */
struct soak_paging {
	struct soak_way way;
	struct soak_guest *board;
	struct ufd_client *client;
	pthread_mutex_t lock; /* libufd takes one call at a time */
	int attendant;	      /* socket; -EBADF for guests of libufd */
};

/* By pid: forks, and the parent becomes the attendant, which ends with its child's exit status. */
void soak_paging_init(struct soak_paging *paging, const struct soak_way *way,
		      struct soak_guest *board);

/*
 * Have a memory paged. Return: false if it is not known whether the daemon has got it; it was
 * taken away from it again, and is of no further use.
 */
bool soak_paging_arrive(struct soak_paging *paging, const struct soak_memory *memory);

/* Have everything filled, and end paging. */
void soak_paging_leave(struct soak_paging *paging);

/* Tell of a discard before it is made. Return: false if it must not be made now. */
bool soak_paging_announce(struct soak_paging *paging, struct soak_memory *memory, uint64_t page);

/* Look after the connection for at most @timeout_ms. */
void soak_paging_wait(struct soak_paging *paging, int event_fd, int timeout_ms);
