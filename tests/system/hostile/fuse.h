/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A file whose server answers until it is open, and then no read any more, or nothing at all. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum fuse_way {
	FUSE_NO_READS, /* root's, for everybody: all but reads is answered */
	FUSE_NOTHING,  /* a user's, for himself: once it is open nothing is answered */
};

/*
 * An open fd of such a file. Needs root; the file system is mounted in a mount namespace of the
 * caller's own, its server is a child. Return: 0 or -errno (skip).
 */
int fuse_open_hung(int *ret_fd, uint64_t length_bytes, enum fuse_way way);
