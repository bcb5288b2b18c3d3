/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Who may write to a guest's memory without its page tables showing it. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct refusal;
struct registration;

/* Readable. Zero is none. */
struct hazards {
	uint32_t
		kinds; /* enum proc_hazard, of all its processes; only such as end when the VMM is paused */
	bool is_unknown; /* the files of a process cannot be looked at */
	char words[256]; /* "process 4711 has /var/disk open with O_DIRECT (fd 12)" */
};

/**
 * hazards_look() - through the open files of each process of the guest
 *
 * Context: job, without the lock; reads /proc. Return: 0; -ECANCELED with io.ufd.dirty.NotTrackable
 * if one of them has memory pinned for as long as it pleases, or if the guest has gone
 * (NoSuchGuest).
 */
int hazards_look(struct registration *registration, struct hazards *ret, struct refusal *refusal);
