/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The sources of this room. */
#pragma once

#include "source/source.h"

int source_new_zero(struct source **ret);

/* The bytes are in the memory's own file. */
int source_new_backing(struct source **ret);

/* One that cannot be had any more, of a memory that has all its pages: every read says SOURCE_CHANGED. */
int source_new_gone(struct source **ret, const char *spec);

/**
 * source_new_file() - a raw image
 * @fd:     readable, regular file or block device; duplicated. O_NONBLOCK is taken off its open
 *	    file, since io_uring would answer EAGAIN where it should wait for the disk
 * @offset: of the source's first byte in the file
 *
 * Holes (SEEK_DATA) are zero. Reads ask preadv2(RWF_NOWAIT) first and go through the request's ring
 * when that would block. Each cold read, and each search for holes, compares inode, size and change
 * times with those at open: a difference answers SOURCE_CHANGED, never with bytes, for ever
 * after. (Times change when the file is unlinked or replaced by a rename, too: an image must
 * stay where it is while guests live on it.) Nothing is mapped: no SIGBUS.
 *
 * Context: any; allocates. Return: 0, -EINVAL (another kind of file, or it ends before @offset),
 * -EBADF (not readable), other -errno.
 */
int source_new_file(struct source **ret, int fd, uint64_t offset);

/* Takes O_NONBLOCK off the open file. Return: 0, -EBADF (not readable), -errno. */
int source_make_blocking(int fd);

/* Of an open file; asks nobody that may let us wait. Return: 0, -EINVAL (no regular file or block device), -errno. */
int source_identify(int fd, struct source_identity *ret);

/* The caller's own, as in pager.h. Return: 0, -EINVAL, -E2BIG, -ENOMEM. */
int source_new_callback(struct source **ret, const struct ufd_source_ops *ops, void *userdata);
