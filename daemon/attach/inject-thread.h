/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What /proc says of a process's threads: which of them a tracer can stop without harm. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Readable. Lines of /proc/PID/task/TID/status. */
struct thread_status {
	char state;	      /* R S D T t Z X */
	pid_t tracer;	      /* 0: none */
	int seccomp;	      /* 0 none, 1 strict, 2 filter */
	uint64_t deliverable; /* signals that are pending and not blocked */
};

/**
 * thread_read_status() - one thread as it is now
 * @proc_fd: directory /proc/PID, which stays with its process when the number is used again
 *
 * Context: any; does not block on the target. Return: 0, -ESRCH, other -errno.
 */
int thread_read_status(int proc_fd, pid_t tid, struct thread_status *ret);

/**
 * thread_choose() - the thread that is disturbed least and stops surely
 * @avoid: threads tried before
 *
 * A thread that waits in the kernel for a page never stops for a tracer: a fault in D state ignores
 * the request, and one in S state takes it for a signal and repeats the fault for ever. One that
 * waits for a page in user mode stops well. So: the main thread if it sleeps, else any sleeper,
 * else stopped and running ones, else user-mode faults.
 *
 * Context: any; does not block on the target.
 * Return:  0, INJECT_HUNG if no thread can be stopped now, -ESRCH if the process is gone, other
 * -errno.
 */
int thread_choose(int proc_fd, pid_t pid, const pid_t *avoid, size_t n_avoid, pid_t *ret_tid);
