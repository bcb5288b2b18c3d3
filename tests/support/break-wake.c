/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Linked into a ufdd of its own (ufdd-break-wake): it recovers without waking anybody.
 *
 * Faults that the former daemon had read are then never seen again, and their threads wait for
 * ever: the soak must notice. Every other wake is as in ufdd.
 */
#include "fault/demand.h"

#include <stdbool.h>

/* The linker's names for a function that is wrapped, and for what it was. */
void __wrap_put_recover(struct demand *demand);
void __real_put_recover(struct demand *demand);
void __wrap_park_wake_all(struct demand *demand);
void __real_park_wake_all(struct demand *demand);

/* The first wake after put_recover() is the recovery's. */
static _Thread_local bool is_recovering;

void __wrap_put_recover(struct demand *demand)
{
	__real_put_recover(demand);
	is_recovering = true;
}

void __wrap_park_wake_all(struct demand *demand)
{
	if (!is_recovering)
		__real_park_wake_all(demand);
	is_recovering = false;
}
