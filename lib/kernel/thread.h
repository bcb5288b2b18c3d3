/* SPDX-License-Identifier: MIT */
/* How a thread shares its CPU with others. */
#pragma once

#define THREAD_BULK_NICE 19

/**
 * thread_set_nice() - of the thread that calls
 * @nice: THREAD_BULK_NICE for bulk work: whoever wakes up on its CPU meanwhile, as one who answers
 *	  faults does, gets that at once, not at the end of a time slice
 *
 * Smaller values than before need CAP_SYS_NICE; without it nothing changes.
 * Return: the value that it had.
 */
int thread_set_nice(int nice);

/* The nice value of the process: that of its first thread. */
int thread_process_nice(void);
