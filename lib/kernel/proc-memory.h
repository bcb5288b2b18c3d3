/* SPDX-License-Identifier: MIT */
/* Bytes of another process, as it sees them itself. */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "base/units.h"

/**
 * proc_memory_read() - copy a range out of a process
 *
 * A page that is not there is made, as a read of the process itself would make it: on a range that is
 * registered for missing faults this waits for whoever serves them. A pid may be another process's
 * by now: ask its pidfd afterwards.
 *
 * Context: any but demand; may block on the process's faults. Return: 0, -EFAULT (part of it is not mapped,
 * or poisoned), -EPERM (ptrace-attach rights), -ESRCH, other -errno.
 */
int proc_memory_read(pid_t pid, struct hva start, void *buffer, uint64_t length_bytes);

/*
 * The same without waiting for anybody: a page that is not there is -EIO. For the demand thread, whom such a
 * page would wait for. The fd is good until the process ends or runs another program.
 */
/* Context: any but demand. Return: 0 with an owned fd, -EACCES (ptrace-attach rights), -ESRCH, other -errno. */
int proc_memory_open(int *ret_fd, pid_t pid);
/* Context: any; may wait for a swap device. Return: 0, -EIO, other -errno. */
int proc_memory_peek(int fd, struct hva start, void *buffer, uint64_t length_bytes);
