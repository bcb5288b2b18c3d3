/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * All handles of a guest behind one file descriptor, so that a store of few fds can keep many.
 *
 * Theory of operation: a bundle is an AF_UNIX datagram socket that is connected to itself. File
 * descriptors that are sent into it lie in its queue as long as any process has it open, and are
 * looked at by MSG_PEEK, which duplicates them and leaves them there. Each change sends one message
 * with every handle (at most 253 fit), and only then takes the older ones off the queue: killed at
 * any instruction, the queue holds the old set, the new one, or both, and the last message counts.
 * Nobody else can send into it, for a socket takes datagrams from its peer only. Looking changes
 * nothing, so that one process may look at what another one keeps.
 *
 * The kernel counts fds in flight per user against RLIMIT_NOFILE of the sender (admission.h).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include <ufd/pager.h>

/* An empty one; O_CLOEXEC. @ret_fd: owned by the caller. Return: 0 or -errno. */
int bundle_new(int *ret_fd);

/* Is this fd a bundle (and not some other socket of that name)? */
bool bundle_is(int fd);

/**
 * bundle_write() - replace what is in it
 * @handles: their fds are borrowed
 *
 * Context: job or main; does not block. Return: 0; -ENOSPC (more than UFD_MAX_HANDLES),
 *          -ETOOMANYREFS (RLIMIT_NOFILE), -ENOBUFS, -errno: then the old set is still there.
 */
int bundle_write(int bundle, const struct ufd_handle *handles, size_t n_handles);

/**
 * bundle_read() - duplicates of what is in it
 * @handles: at least UFD_MAX_HANDLES; the fds are the caller's, for bundle_close_handles()
 *
 * Context: any, one at a time. Return: 0, -ENODATA (nothing was ever written), -EBADMSG (something
 *          in it is no message of ours), -EMFILE, -errno.
 */
int bundle_read(int bundle, struct ufd_handle *handles, size_t *ret_n);

void bundle_close_handles(struct ufd_handle *handles, size_t n_handles);
