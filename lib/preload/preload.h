/* SPDX-License-Identifier: MIT */
/*
 * libufd-preload: a VMM that knows nothing of ufd hands its memory over, because LD_PRELOAD put
 * this library into it (ufdctl-run(1)).
 *
 * Theory of operation. The constructor reads the environment, makes the userfaultfd and connects,
 * before the VMM has a sandbox. Then one of two things:
 *
 * - a source is named: mappings that are guest memory are handed over as they are made, in mmap();
 *   the VMM gets its address when faults there are served. If that fails, so does mmap(): a VMM that
 *   went on would read zeros in place of its data.
 * - none is: the userfaultfd is offered to the daemon, and whoever brings this process as a guest
 *   later (ufdctl restore, guest attach) need not trace it.
 *
 * There is no thread and no signal handler. What cannot be told to a daemon that has died is told,
 * by the next call that has something to tell, to the one that came after it; until then the guest
 * is looked after by what that daemon was left (its store or state directory).
 *
 * Only announcements that the kernel does not make are made here: it tells of madvise() itself.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* A mapping that was made, or is about to be. */
struct view {
	void *address;
	size_t length;
	int prot;
	int flags; /* MAP_ */
	int fd;
	off_t offset;
};

/* Is anything to be done at all? Async-signal-safe and cheap. */
bool preload_is_on(void);

/* Has this to be handed over once it is made? Its @address may be anything. */
bool preload_wants(const struct view *view);

/* Return: 0, or -1 with errno: it was not handed over, and why was said. */
int preload_hand_over(const struct view *view);

/* Whole mappings in the range that were handed over are about to go. Return: 0, or -1 with errno. */
int preload_forget(const void *address, size_t length);

/* Is a byte of the range a page that the daemon may have to bring? */
bool preload_holds(const void *address, size_t length);

/* A hole is about to be punched into the file. Return: 0, or -1 with errno: it must stay. */
int preload_note_hole(int fd, uint64_t offset, uint64_t length);
