/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What every method that brings a guest begins and ends with.
 *
 * Context of all: loop.
 */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "base/units.h"

struct call;
struct control;
struct refusal;
struct registration;
struct settings;

/* Filling a whole memory first (other_mappers=eager) takes its time. */
#define ARRIVE_TIMEOUT_NS (600 * NSEC_PER_SEC)

/* The daemon's defaults, and `settings` of the call over them. Return: 0; 1 if an error was sent.
 */
int arrive_settings(struct control *control, struct call *call, struct settings *ret);

/*
 * Take the name.
 *
 * Return: 0 with a reference; 1 if the guest of that name is just leaving: the method will run again;
 *	   or -ECANCELED with GuestExists, InvalidParameter, LimitReached.
 */
int arrive_register(struct control *control, struct call *call, const char *name,
		    const struct settings *settings, struct registration **ret,
		    struct refusal *refusal);

/*
 * A call for a guest that is just arriving waits: it was brought by somebody who did not wait for the
 * answer, perhaps the caller himself. Return: true if the method will run again.
 */
bool arrive_await(struct control *control, struct call *call, const char *name);

/* Always -ECANCELED. */
int refuse_existing(const char *name, struct refusal *refusal);

/* It serves: reply with `guest`. */
void arrive_reply(struct registration *registration, pid_t pid, int pidfd, uid_t owner,
		  struct call *call);
