/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Files that somebody else answers for: a FUSE server, a host on the network. He may take for ever,
 * and what waits for him cannot be interrupted. Bytes are therefore read by the ring, and all else
 * that would ask him is left out.
 */
#pragma once

#include <stdbool.h>

struct statx;

/*
 * As fstat(), but never asks the other side: the attributes are as old as the last answer that
 * somebody else got. Context: any; does not block. Return: 0 or -errno.
 */
int remote_stat(int fd, struct statx *ret);

/* Does the file system of @fd ask somebody else? Context: job; reads /proc/self/mountinfo. */
bool remote_is(int fd);
