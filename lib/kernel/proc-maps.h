/* SPDX-License-Identifier: MIT */
/* Who maps what: /proc/PID/maps and smaps, and every process that maps one file. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/units.h"

/* Readable. One line of /proc/PID/maps. */
struct proc_map {
	pid_t pid;
	struct hva_range range;
	uint64_t file_offset_bytes;
	dev_t device; /* 0 for anonymous memory */
	ino_t inode;  /* 0 for anonymous memory */
	bool is_shared;
	bool is_readable;
	bool is_writable;
	char name[64]; /* path as the kernel prints it, cut; "" for anonymous memory */
};

/* Readable. */
struct proc_maps {
	struct proc_map *maps; /* owned; by pid, then address */
	size_t n_maps;
};

void proc_maps_done(struct proc_maps *maps);

/* All mappings of one process. Return: 0, -ESRCH, -EACCES, other -errno. */
int proc_maps_read(pid_t pid, struct proc_maps *ret);

/**
 * proc_maps_of_file() - every mapping of one inode, in every process that can be seen
 * @ret_n_hidden: processes whose maps could not be read for lack of rights; may be NULL
 *
 * Context: job; reads all of /proc, milliseconds on a busy host.
 */
int proc_maps_of_file(dev_t device, ino_t inode, struct proc_maps *ret, size_t *ret_n_hidden);

/* Readable. What smaps says of one mapping. */
struct proc_map_flags {
	bool is_uffd_missing; /* um */
	bool is_uffd_wp;      /* uw */
	bool is_uffd_minor;   /* ui */
	uint64_t page_bytes;  /* KernelPageSize */
};

/* The mapping that holds @address. Return: 0, -ENOENT, -ESRCH, -EACCES. */
int proc_map_flags(pid_t pid, struct hva address, struct proc_map_flags *ret);
