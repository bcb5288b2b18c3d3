/* SPDX-License-Identifier: MIT */
/* How a thread shares its CPU with others. */
#include "kernel/thread.h"

#include <sched.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

/*
 * Weight alone leaves a thread its CPU until the slice that it was given is over, and that is 3 ms
 * long. Since Linux 6.12 a thread may ask for a shorter one; earlier ones do not look at it.
 */
#define BULK_SLICE_NS 100000 /* the shortest that there is */

/* The first version of the kernel's struct sched_attr, which all know. */
struct attributes {
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime_ns, deadline_ns, period_ns; /* of a fair thread: its slice, 0 the usual */
};

int thread_set_nice(int nice)
{
	int before = getpriority(PRIO_PROCESS, 0);
	const struct attributes attributes = {
		.size = sizeof(attributes),
		.policy = SCHED_OTHER,
		.nice = nice,
		.runtime_ns = nice == THREAD_BULK_NICE ? BULK_SLICE_NS : 0,
	};

	/* the policy of an administrator (chrt) is his: a nice value has no meaning there */
	if (sched_getscheduler(0) == SCHED_OTHER)
		(void)syscall(SYS_sched_setattr, 0, &attributes, 0);
	return before;
}

int thread_process_nice(void)
{
	return getpriority(PRIO_PROCESS, (id_t)getpid());
}
