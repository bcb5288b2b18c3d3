/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a process that may go astray cannot take along. */
#pragma once

#include <sys/types.h>

/**
 * confine_self() - leave the caller's world behind, right after fork()
 * @parent: whose child we are; when the thread of it that forked ends, so do we
 * @life:   an fd beyond stderr, becomes CONFINE_LIFE_FD; all else that is inherited is closed, but
 *	    stderr, and stdin and stdout are /dev/null
 *
 * A process group of its own, the default action of every signal and none blocked, no core, private
 * memory and files of at most CONFINE_BYTES beyond what there is, and the first whom the kernel ends
 * when memory runs out. Nothing of it can fail but by being unknown to the kernel.
 *
 * Context: a child of fork() with one thread, all signals blocked.
 */
void confine_self(pid_t parent, int life);

#define CONFINE_BYTES	(UINT64_C(64) << 20)
#define CONFINE_LIFE_FD 3
