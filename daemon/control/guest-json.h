/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Guests as io.ufd.guest shows them, and as calls name them. */
#pragma once

#include <jansson.h>

struct call;
struct control;
struct refusal;
struct registration;

/* A Guest. Context: loop; @registration serves. */
json_t *guest_json(struct registration *registration);

/* Counters. Context: loop; @registration serves. */
json_t *guest_counters_json(struct registration *registration);

/* []Memory. Context: job, with the registry's lock held and an engine behind it. */
json_t *guest_memories_json(struct registration *registration);

/**
 * guest_of_call() - the guest that `name` names, if the caller may change it
 *
 * Context: loop. Return: 0 with a borrowed one, or -ECANCELED with NoSuchGuest or PermissionDenied.
 */
int guest_of_call(struct control *control, struct call *call, struct registration **ret,
		  struct refusal *refusal);

/* Always -ECANCELED. */
int refuse_no_guest(const char *name, struct refusal *refusal);
int refuse_permission(struct refusal *refusal);
