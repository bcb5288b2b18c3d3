/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Clients that follow events. */
#pragma once

#include <jansson.h>

#include "base/cleanup.h"

struct call;
struct watch;

/* Context of all: loop; allocates. */
int watch_new(struct watch **ret);
struct watch *watch_free(struct watch *watch);
DEFINE_CLEANUP(struct watch, watch_free)

/* A call that wants more: it gets the empty first reply now, and every event from now on. Return: 0
 * or -ENOMEM. */
int watch_add(struct watch *watch, struct call *call);

/* @event: consumed; an Event of io.ufd.manager. */
void watch_tell(struct watch *watch, json_t *event);
