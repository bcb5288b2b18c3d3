/* SPDX-License-Identifier: MIT */
/* What the guest knows to be zero, while no daemon knows it. */
#pragma once

#include "client/client.h"

/**
 * zeroing_find_complete() - which memories hold all their bytes
 *
 * The daemon unregisters a memory when nothing of it is absent any more; so one that is not
 * registered is complete, and its holes are zero. Marks them; those that no daemon had yet are not
 * meant.
 * Return: 0 or -errno, with the client's error set.
 */
int zeroing_find_complete(struct ufd_client *client);

enum zeroing_outcome {
	_ZEROING_DONE,
	ZEROING_MORE, /* one step is done: call again */
};

/**
 * zeroing_step() - give discarded bytes zero pages, at most 64 MiB of them
 *
 * For a client without a daemon only: it may read the userfaultfd.
 * Return: 0 when no discarded byte is without a page, ZEROING_MORE, or -errno with the client's
 * error set.
 */
int zeroing_step(struct ufd_client *client);
