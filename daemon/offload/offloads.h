/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Restored Cloud Hypervisors whose pages are still asked for. A process each serves them (ufdd-offload); here
 * lies a second hold on everything it needs, in a bundle, so that another one goes on if it is killed.
 *
 * What becomes of them when we end: nothing, they are served by their processes. Below a manager of services that
 * keeps fds for us the bundle lies there, too (`o` and a number in base 36), and a successor watches over
 * them again; without one nobody does, but for their processes.
 *
 * Context of all, unless said otherwise: loop.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/cleanup.h"

struct event_base;
struct offloads;
struct refusal;
struct upgrade_fd;

#define OFFLOADS_MAX 256

int offloads_new(struct offloads **ret, struct event_base *base);
/* Forgets; they are served all the same. After jobs_free(). */
struct offloads *offloads_free(struct offloads *offloads);
DEFINE_CLEANUP(struct offloads, offloads_free)

/* Is this stored fd one of ours, by its name? Consumed then. */
bool offloads_offer(struct offloads *offloads, const char *name, int fd);
/* After the last offer: watch over them, and start what serves them where it is gone. */
void offloads_adopt(struct offloads *offloads);

/*
 * Hold on to a bundle before anything can be asked for. @bundle: consumed; @pidfd: of the process that serves,
 * consumed. offloads_begin() must follow.
 * Context: job; waits for the manager. Return: 0 with *ret_number, or -ECANCELED: LimitReached, SystemError.
 */
int offloads_keep(struct offloads *offloads, int bundle, int pidfd, uint32_t *ret_number,
		  struct refusal *refusal);
/* Watch over it until it is over, which it may be already. */
void offloads_begin(struct offloads *offloads, uint32_t number);

/* Owned array of OffloadRestore of io.ufd.handoff. */
json_t *offloads_json(struct offloads *offloads);

/* For a successor that is exec()ed. Borrowed; at most OFFLOADS_MAX. */
size_t offloads_fds(const struct offloads *offloads, struct upgrade_fd *ret);
