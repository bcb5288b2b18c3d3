/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copy before write, of a guest of the façade. */
#include "pager/hold.h"

#include <errno.h>

#include "fault/before-write.h"
#include "pager/paged.h"

int pager_before_write_new(struct ufd_pager_guest *paged, uint64_t ring_bytes,
			   struct before_write **ret)
{
	int r;

	pthread_mutex_lock(&paged->model_lock);
	r = before_write_new(ret, paged->guest, ring_bytes);
	pthread_mutex_unlock(&paged->model_lock);
	return r;
}

int pager_before_write_set(struct ufd_pager_guest *paged, struct before_write *hook)
{
	struct demand *demand = paged_demand(paged);

	return demand ? before_write_set(demand, hook) : -ESRCH;
}
