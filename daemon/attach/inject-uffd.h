/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Making a userfaultfd inside another process, and closing its copy there. x86-64 only. */
#pragma once

#include "attach/inject-visit.h"

/* Both functions visit the target and fill in the reply. Context: as in inject-visit.h. */

/**
 * inject_create() - a userfaultfd of the target: O_CLOEXEC, O_NONBLOCK, before its handshake
 * @device_fd:	   /dev/userfaultfd to push in if the target may not create one itself, or -EBADF
 * @remote_device: number of /dev/userfaultfd inside the target, or -1
 * @ret_fd:	   our duplicate, owned by the caller; set if the reply says _INJECT_DONE
 *
 * The target keeps its own copy, number reply->remote_fd, and nothing else.
 */
void inject_create(const struct inject_target *target, int device_fd, int remote_device,
		   int *ret_fd, struct inject_reply *reply);

/**
 * inject_close() - close the target's copy
 * @uffd: our duplicate, which proves that @remote_fd is the one
 */
void inject_close(const struct inject_target *target, int uffd, int remote_fd,
		  struct inject_reply *reply);
