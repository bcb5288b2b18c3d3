/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Memory whose file a pager fills behind its back: what the experiments on minor faults share.
 *
 * Context of all: the experiment's process, any of its threads.
 */
#pragma once

#include "probe/lab.h"

#define MISSING_MINOR (UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR)

/* Readable. */
struct minor {
	struct lab_memory memory;
	int uffd; /* registered over all of it */
};

/* Skips if the kernel has no minor mode, or no protection, for @backing. */
struct minor minor_prepare(struct probe_run *run, enum lab_backing backing, size_t n_pages,
			   uint64_t modes);

/* CONTINUE of page @i: 0 or -errno. */
int minor_continue(const struct minor *minor, size_t i, uint64_t mode);

/* The first byte of page @i as the file has it. */
uint8_t minor_file_byte(struct probe_run *run, const struct minor *minor, size_t i);
