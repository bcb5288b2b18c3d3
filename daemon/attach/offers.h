/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Userfaultfds that processes made for whoever brings them as guests later (Offer of io.ufd.guest): no
 * tracing then. An offer lasts as long as the connection that it came on, and so not beyond an exec.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <sys/queue.h>
#include <sys/types.h>

#include "attach/front-end.h"

struct offer;

/* Embedded. Private. */
struct offers {
	pthread_mutex_t lock;
	LIST_HEAD(, offer) offer_list; /* the newest first */
};

void offers_init(struct offers *offers);
void offers_done(struct offers *offers);

/**
 * offers_put() - this process may be brought by this userfaultfd
 * @owner: the connection; what it offered before is forgotten
 * @uffd:  has been proved to be one; duplicated
 *
 * Context: any. Return: 0, -ENOMEM, -errno of the duplicate.
 */
int offers_put(struct offers *offers, const void *owner, pid_t pid, int uffd,
	       enum front_end front_end);

/* Context: any. */
void offers_forget(struct offers *offers, const void *owner);

/**
 * offers_find() - a duplicate of what the process offered
 * @is_wp_sync: synchronous write-protect faults are wanted: one without WP_ASYNC
 * @ret_uffd:   owned by the caller
 *
 * Whether it is really of that process shows when a range is registered (plan_apply()).
 * Context: any. Return: 0, -ENOENT, -errno.
 */
int offers_find(struct offers *offers, pid_t pid, bool is_wp_sync, int *ret_uffd,
		enum front_end *ret_front_end);
