/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is asked of a listener, and its form as a text, in which it outlives us.
 *
 * Context of all: any.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <ufd/pager.h>

#include "base/cleanup.h"
#include "settings.h"

struct refusal;

/* Readable. Texts are owned by the one who has it: a copy owns its own. */
struct handoff_wish {
	char *path;
	char *dialect;	/* auto, firecracker, cloud-hypervisor, cloud-hypervisor-uffd */
	char *source;	/* SPEC; for cloud-hypervisor the folder that snapshots go to */
	char *name;	/* of guests; `%` becomes a number that counts up */
	char *consumer; /* tracks what guests write from their first instruction on; NULL: nobody */
	uid_t owner;	/* of the guests; may remove the listener */
	uid_t socket_uid; /* (uid_t)-1: as made */
	gid_t socket_gid;
	mode_t mode;
	uint64_t n_most;  /* guests; 0: without end. After the last one the listener goes */
	uint64_t n_taken; /* guests that came; counts against @n_most */
	struct settings settings;
};

/* Without texts, and open to its owner and his group only. */
struct handoff_wish wish_built_in(void);
void wish_done(struct handoff_wish *wish);

/* Return: 0 with @ret for wish_done(), or -ENOMEM. */
int wish_copy(const struct handoff_wish *wish, struct handoff_wish *ret);

/*
 * Path, name, mode and count: what can be said without the dialect. A missing name is made from the path.
 * Return: 0, -ENOMEM, or -ECANCELED: io.ufd.handoff.BadPath, org.varlink.service.InvalidParameter.
 */
int wish_check(struct handoff_wish *wish, struct refusal *refusal);

/* @ret: owned; one line. Return: 0 or -ENOMEM. */
int wish_print(const struct handoff_wish *wish, char **ret);

/* What wish_print() made, also of another release. Return: 0 with @ret for wish_done(), -EBADMSG, -ENOMEM. */
int wish_parse(const char *text, size_t n_text, struct handoff_wish *ret);

/* The name of guest number @number. */
void wish_guest_name(const struct handoff_wish *wish, uint64_t number,
		     char ret[static UFD_NAME_BYTES]);
