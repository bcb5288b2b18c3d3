/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The sources of this room. */
#pragma once

#include "source/source.h"

int source_new_zero(struct source **ret);

/* The bytes are in the memory's own file. */
int source_new_backing(struct source **ret);

/**
 * source_new_file() - a raw image
 * @fd:     readable, regular file or block device; duplicated
 * @offset: of the source's first byte in the file
 *
 * Holes (SEEK_DATA) are zero. Reads ask preadv2(RWF_NOWAIT) first and go through the request's ring
 * when that would block. Each cold read compares inode, size and change time with those at open:
 * a difference answers SOURCE_CHANGED, never with bytes. Nothing is mapped: no SIGBUS.
 */
int source_new_file(struct source **ret, int fd, uint64_t offset);

/* The caller's own, as in pager.h. Return: 0, -EINVAL, -E2BIG, -ENOMEM. */
int source_new_callback(struct source **ret, const struct ufd_source_ops *ops, void *userdata);
