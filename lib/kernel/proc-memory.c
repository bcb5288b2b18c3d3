/* SPDX-License-Identifier: MIT */
/* process_vm_readv(2). */
#include "kernel/proc-memory.h"

#include <errno.h>
#include <sys/uio.h>

int proc_memory_read(pid_t pid, struct hva start, void *buffer, uint64_t length_bytes)
{
	char *to = buffer;

	while (length_bytes > 0) {
		struct iovec into = { to, length_bytes };
		struct iovec from = { (void *)(uintptr_t)start.v, length_bytes };
		ssize_t n = process_vm_readv(pid, &into, 1, &from, 1, 0);

		if (n < 0)
			return -errno;
		if (n == 0)
			return -EFAULT;
		to += n;
		start = hva_add(start, n);
		length_bytes -= n;
	}
	return 0;
}
