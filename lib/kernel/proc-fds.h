/* SPDX-License-Identifier: MIT */
/*
 * Open files of a process that may write to memory behind its page tables.
 *
 * Whoever has a page pinned (get_user_pages) made it writable once, and writes to it later without a
 * fault: a page that was write-protected in between looks clean, and is not. What the kernel copies by
 * itself (buffered reads, sockets, vhost-net) goes through the page tables, and faults.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/units.h"

/* Bits. The first three pin pages while a request is in flight, the others for as long as they please. */
enum proc_hazard {
	PROC_HAZARD_DIRECT_IO = 1 << 0, /* a file that is open with O_DIRECT */
	PROC_HAZARD_IO_URING =
		1 << 1, /* no O_DIRECT in sight, but files may be registered with it */
	PROC_HAZARD_VHOST_SCSI = 1 << 2,
	PROC_HAZARD_FIXED_BUFFER = 1 << 3, /* an io_uring has buffers of the ranges registered */
	PROC_HAZARD_VFIO = 1 << 4,
	PROC_HAZARD_VDPA = 1 << 5,
	PROC_HAZARD_IOMMUFD = 1 << 6,
	PROC_HAZARD_RDMA = 1 << 7,
};
#define PROC_HAZARDS_BRIEF   (PROC_HAZARD_DIRECT_IO | PROC_HAZARD_IO_URING | PROC_HAZARD_VHOST_SCSI)
#define PROC_HAZARDS_LASTING (0xff & ~PROC_HAZARDS_BRIEF)

/* Readable. */
struct proc_hazards {
	uint32_t kinds;	  /* enum proc_hazard */
	int fd;		  /* the first file of the worst kind; -1: none */
	uint32_t fd_kind; /* of that file */
	char target[128]; /* its name as the kernel prints it, cut */
};

/**
 * proc_fds_look() - what of this kind a process has open
 * @ranges: of its memory that matter: buffers elsewhere are no hazard
 *
 * Context: job; reads /proc. Return: 0, -ESRCH, -EACCES, other -errno.
 */
int proc_fds_look(pid_t pid, const struct hva_range *ranges, size_t n_ranges,
		  struct proc_hazards *ret);

/* One file by its link in /proc/PID/fd and its open flags. Return: enum proc_hazard or 0. */
uint32_t proc_fds_judge(const char *target, unsigned int flags);

/* One line of fdinfo: a buffer registered with an io_uring ("    0: 0x7f.../4096"). */
bool proc_fds_parse_buffer(const char *line, struct hva_range *ret);
