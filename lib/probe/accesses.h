/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Accesses to one page that the kernel makes for a system call.
 *
 * Context: the experiment's process; touch() any of its threads.
 */
#pragma once

#include <liburing.h>

#include "probe/lab.h"

/* What an access works with; private to accesses.c. */
struct access_tools {
	uint8_t *own; /* a page of ours, for the other end of a copy */
	int pipe[2];
	int mem;  /* /proc/self/mem */
	int disk; /* one page long, O_DIRECT */
	struct io_uring ring;
};

struct access {
	const char *name;
	/* NULL: nothing to prepare. Skips where it cannot be. */
	void (*prepare)(struct probe_run *run, struct access_tools *tools);
	/* Of 4 KiB at @page. Return: 0 or -errno; a part is -EIO. */
	int (*touch)(struct access_tools *tools, uint8_t *page);
};

/* Reads. */
extern const struct access access_vm_readv, access_write, access_direct_write, access_vmsplice,
	access_mem_read, access_populate_read;
/* Writes. */
extern const struct access access_vm_writev, access_read, access_direct_read, access_pin,
	access_populate_write, access_wake_op, access_wake_op_private, access_mem_write;
/* Neither, or one of both. */
extern const struct access access_mlock, access_mincore, access_willneed;

/* Ready for @access; each of them takes tools of its own. */
void access_prepare(struct probe_run *run, const struct access *access,
		    struct access_tools *ret_tools);

/*
 * @access of page 0 of @memory in a thread, each of its faults answered: wp ones by un-protecting,
 * others by COPY of @byte. Return: the number of faults; *@ret_result is what touch() said.
 */
unsigned int access_try(struct probe_run *run, const struct access *access,
			struct access_tools *tools, const struct lab_memory *memory, int uffd,
			uint8_t byte, int *ret_result);

/* A child of fork() that shares all pages with us and does nothing, until it is ended. */
pid_t access_share(struct probe_run *run);
void access_unshare(struct probe_run *run, pid_t child);
