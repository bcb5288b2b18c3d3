/* SPDX-License-Identifier: MIT */
/* process_vm_readv(2), and /proc/PID/mem. */
#include "kernel/proc-memory.h"

#include <unistd.h>
#include <stdio.h>
#include <fcntl.h>
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

int proc_memory_open(int *ret_fd, pid_t pid)
{
	char path[32];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/mem", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? -ESRCH : -errno;
	*ret_fd = fd;
	return 0;
}

/* The kernel reads it without leave to wait: where userfaultfd would have it wait, it gives up. */
int proc_memory_peek(int fd, struct hva start, void *buffer, uint64_t length_bytes)
{
	for (uint64_t done = 0; done < length_bytes;) {
		ssize_t n = pread(fd, (char *)buffer + done, length_bytes - done,
				  (off_t)(start.v + done));

		if (n < 0)
			return -errno;
		if (n == 0)
			return -EIO;
		done += (uint64_t)n;
	}
	return 0;
}
