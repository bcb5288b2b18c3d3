/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Front end `process`: a userfaultfd made inside an unmodified process, and the memories to page
 * there. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/cleanup.h"
#include "base/units.h"
#include "kernel/backing.h"

struct refusal;

struct process_attachment;

/*
 * Settings of process_attach(). Start from PROCESS_OPTS_DEFAULT.
 *
 * @on_made is told of the attachment before the process keeps its copy for good: what it remembers,
 * a successor can close. It borrows. An error of it undoes the attach.
 */
struct process_opts {
	uint64_t timeout_ns; /* 0: PROCESS_TIMEOUT_NS */
	bool is_wp_sync;     /* ask for synchronous write-protect faults */
	int pidfd;	     /* borrowed; -EBADF: opened by pid */
	int device_fd;	     /* borrowed; /dev/userfaultfd, -EBADF: opened if we may */
	int remote_device; /* number of /dev/userfaultfd inside the process (QMP getfd), -1: none */
	const char *helper; /* path of ufdd-attach; NULL: $UFDD_ATTACH, the build tree's, the
			       installed one */
	int (*on_made)(void *userdata, const struct process_attachment *attachment,
		       struct refusal *refusal); /* 0 or -ECANCELED; NULL: nobody */
	void *userdata;
};

#define PROCESS_TIMEOUT_NS (5 * NSEC_PER_SEC)
#define PROCESS_OPTS_DEFAULT                                              \
	{                                                                 \
		.pidfd = -EBADF, .device_fd = -EBADF, .remote_device = -1 \
	}

/* Readable. What an attach leaves with us. */
struct process_attachment {
	pid_t pid;
	int pidfd;     /* owned */
	int uffd;      /* owned; after its handshake, nothing registered */
	int remote_fd; /* number of the process's own copy, which outlives us */
};

#define PROCESS_ATTACHMENT_NONE                                  \
	{                                                        \
		.pidfd = -EBADF, .uffd = -EBADF, .remote_fd = -1 \
	}

/**
 * process_attach() - make a userfaultfd inside a process
 * @ret: owned by the caller; process_attachment_done()
 *
 * The process keeps a copy, so that our death means stalled faults, not zeros. All tracing is done
 * by the helper program: if this process dies before it confirms, which is after @opts->on_made, the
 * helper either has not begun, or finishes and closes the copy again.
 *
 * Context: job; waits for at most the timeout and a second.
 * Return:  0, or -ECANCELED with @refusal set: io.ufd.guest.CannotAttach (traced, seccomp, hung,
 *	    gone, not permitted, ...), io.ufd.manager.NotSupported, io.ufd.manager.SystemError.
 */
int process_attach(pid_t pid, const struct process_opts *opts, struct process_attachment *ret,
		   struct refusal *refusal);

/**
 * process_detach() - close the process's own copy
 *
 * After everything is unregistered, and before our fd is closed: whoever closes the last one
 * lets absent pages read as zeros. A process that has ended needs nothing: that is success.
 * Fails too if other fds of the process still are this userfaultfd.
 *
 * Context: job; waits for at most the timeout and a second.
 * Return:  0, or -ECANCELED with @refusal set; the attachment stays the caller's in any case.
 */
int process_detach(const struct process_attachment *attachment, const struct process_opts *opts,
		   struct refusal *refusal);

/* Closes our fds only. Takes PROCESS_ATTACHMENT_NONE. */
void process_attachment_done(struct process_attachment *attachment);

/**
 * process_find_device() - /dev/userfaultfd among a process's fds, as QMP getfd leaves it there
 *
 * Context: job. Return: 0, -ENOENT, -ESRCH, other -errno.
 */
int process_find_device(pid_t pid, int *ret_remote_device);

/* Readable. One mapping of a memory. */
struct process_mapping {
	struct hva_range range;
	uint64_t offset_bytes; /* in the backing; 0 for anonymous memory */
};

/* Readable. One backing of a process, or one anonymous range. */
struct process_memory {
	char name[96]; /* unique among those found together */
	enum backing_kind kind;
	uint64_t page_bytes;
	uint64_t length_bytes; /* of the backing */
	dev_t device;
	ino_t inode;
	int fd; /* owned; O_RDWR on the backing, -EBADF for anonymous memory */
	struct process_mapping *mappings; /* owned; by address */
	size_t n_mappings;
};

/* Readable. */
struct process_memories {
	struct process_memory *memories; /* owned */
	size_t n_memories;
};

/**
 * process_find_memories() - choose the memories to page
 * @matches: each a name as in /proc/PID/maps (" (deleted)" and "/memfd:" may be left out),
 *	     `inode:N`, or `size:BYTES` of a mapping, which finds anonymous memory too. Each must
 *	     find something. None: every shared writable mapping of a memfd, tmpfs or hugetlbfs file
 * @ret:     owned by the caller; process_memories_done()
 *
 * Refuses mappings that another userfaultfd holds, and kinds that userfaultfd cannot serve.
 *
 * Context: job; reads smaps once a mapping.
 * Return:  0, or -ECANCELED with @refusal set.
 */
int process_find_memories(pid_t pid, const char *const *matches, size_t n_matches,
			  struct process_memories *ret, struct refusal *refusal);

/* The same without matches, of a process that we page already: to look at them. */
int process_find_paged_memories(pid_t pid, struct process_memories *ret, struct refusal *refusal);

void process_memories_done(struct process_memories *memories);
