/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A process that hands over what we have already: it lost its connection, or its daemon, and does not know
 * that the guest was kept.
 */
#pragma once

#include <stdbool.h>

struct paging;
struct plan;
struct plan_mapper;

/*
 * Is this the same hand-over as the one that made the guest? The same userfaultfd, and exactly the
 * same mappings of the same memories. Then there is nothing to do: what is absent, present and
 * discarded is known better here than by whoever asks.
 * Context: job, with the lock held.
 */
bool again_is_same(struct paging *paging, const struct plan *plan,
		   const struct plan_mapper *mapper);
