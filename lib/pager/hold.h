/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copy before write (fault/before-write.h), of a guest of the façade. */
#pragma once

#include <stdint.h>

struct before_write;
struct ufd_pager_guest;

/*
 * Of its memories as they are now; not set yet. Context: job; allocates. Return: as
 * before_write_new().
 */
int pager_before_write_new(struct ufd_pager_guest *paged, uint64_t ring_bytes,
			   struct before_write **ret);

/*
 * NULL: no more. Context: job; waits for the demand thread. Return: 0, -EBUSY, -ESRCH (it was not
 * started).
 */
int pager_before_write_set(struct ufd_pager_guest *paged, struct before_write *hook);
