/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Draining: every guest is filled, and no new one is taken, so that the daemon can be stopped, or the
 * host's memory looked at, without anybody waiting.
 *
 * Filling is a job that takes turns at the engine with other calls. Guests whose attach was under way
 * are filled by another round. What no process maps any more is not waited for.
 *
 * Context of all: loop.
 */
#pragma once

#include <stdbool.h>

#include "base/cleanup.h"

struct call;
struct control;
struct drain;
struct refusal;

/* @control outlives it. Return: 0 or -ENOMEM. */
int drain_new(struct drain **ret, struct control *control);
struct drain *drain_free(struct drain *drain);
DEFINE_CLEANUP(struct drain, drain_free)

/* Begin, or go on: guests that came since are filled, too. */
void drain_start(struct drain *drain);

/* Take new guests again. Whoever follows gets his last reply; what is being filled goes on. */
void drain_cancel(struct drain *drain);

/* Nobody fills on the control side any more, until drain_start(): the engine is about to be parked. */
void drain_pause(struct drain *drain);

bool drain_is_on(const struct drain *drain);

/* Reply now, and if the client asked for more ten times a second until nothing is absent. Return: 0 or -ENOMEM. */
int drain_reply(struct drain *drain, struct call *call);

/* For a guest that wants to arrive. Return: 0, or -ECANCELED with @refusal set. */
int drain_check(const struct drain *drain, struct refusal *refusal);
