/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What we tell the service manager, and what it gives us.
 *
 * All of it does nothing, and fails at nothing, when no service manager started us.
 *
 * Context: main thread.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/cleanup.h"

struct event_base;
struct service;

/**
 * service_take_fn - take one fd that we were started with
 * @name: of the socket unit (FileDescriptorName=) or of the stored fd (FDNAME=)
 * @fd:	  consumed if the answer is 1, which is also when it is -errno
 *
 * The store's fds come in any order among the sockets, so ask the store first (store_offer()), then
 * compare names. Return: 1 taken, 0 not ours, or -errno.
 */
typedef int (*service_take_fn)(void *userdata, const char *name, int fd);

/**
 * service_take_fds() - everything in $LISTEN_FDS, once
 *
 * What nobody takes is told and closed. After a failure the rest is closed too.
 * Return: 0, or the -errno of @take or of an environment that makes no sense.
 */
int service_take_fds(service_take_fn take, void *userdata);

/**
 * service_alive_fn - does everything still turn that must?
 *
 * Return: 1; or 0 with *ret_what, the name of a guest whose thread does not.
 */
typedef int (*service_alive_fn)(void *userdata, const char **ret_what);

/**
 * service_new() - from now on the watchdog, if the unit has one, is fed
 *
 * Twice in each WatchdogSec=, if the loop comes to it and @is_alive says 1. If it says 0, nothing
 * is sent and the manager kills us when its time has passed: what is stored outlives that.
 * Return: 0, -ENOMEM.
 */
int service_new(struct service **ret, struct event_base *base, service_alive_fn is_alive,
		void *userdata);
struct service *service_free(struct service *service);
DEFINE_CLEANUP(struct service, service_free)

/* Every guest that was left is served, and the socket is in the loop. Also ends a reload. */
void service_ready(void);
void service_status(const char *format, ...) __attribute__((format(printf, 1, 2)));
void service_reloading(void);
void service_stopping(void);

/* We need this much longer, counted from now, to start, reload or stop. */
void service_extend(uint64_t extend_ns);
