/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What ufdd and its helper ufdd-attach say to each other: one request, one reply, one confirmation,
 * over a SOCK_SEQPACKET pair that is the helper's fd 0.
 *
 * The request carries a pidfd, and a second fd: /dev/userfaultfd to push into the target (CREATE,
 * optional) or the userfaultfd whose copy is to be closed (CLOSE). The reply to CREATE carries the
 * new userfaultfd. Without a confirmation the helper closes the target's copy again, so that a ufdd
 * that died, or gave up waiting, leaves nothing behind.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define INJECT_VERSION 1
/* What the helper is called in /proc/PID/comm: one that is still busy is waited for. */
#define INJECT_HELPER_NAME "ufdd-attach"

enum inject_verb {
	INJECT_CREATE = 1, /* make a userfaultfd in the target and hand a duplicate over */
	INJECT_CLOSE,	   /* close the target's copy of one */
};

/* How it went. Also what the helper's own functions return as named outcomes. */
enum inject_outcome {
	_INJECT_DONE,
	INJECT_GONE,	     /* the process ended */
	INJECT_TRACED,	     /* `number` is the tracer's pid */
	INJECT_FORBIDDEN,    /* ptrace refused */
	INJECT_HUNG,	     /* no thread could be stopped before the deadline */
	INJECT_SECCOMP,	     /* a seccomp filter is there, and we may not suspend it */
	INJECT_FOREIGN_ABI,  /* not a 64-bit x86 thread */
	INJECT_NO_VDSO,	     /* no system call instruction found */
	INJECT_DISPATCHED,   /* syscall user dispatch would catch our calls */
	INJECT_UNPRIVILEGED, /* the target may not create one, and no device was at hand */
	INJECT_NO_FDS,	     /* the target's fd table is full */
	INJECT_NO_DEVICE,    /* the fd named in the target is not /dev/userfaultfd */
	INJECT_NOT_OURS,     /* the number to close means another file by now */
	INJECT_FAILED,	     /* `error` of system call `number` */
	INJECT_THREAD_GONE,  /* inside the helper only: try another thread */
	_INJECT_N,
};

struct inject_request {
	uint32_t version;
	uint32_t verb;
	int32_t pid;
	int32_t remote_fd;    /* CREATE: /dev/userfaultfd inside the target, or -1; CLOSE: what to
				 close */
	uint64_t deadline_ns; /* CLOCK_MONOTONIC */
};

struct inject_reply {
	uint32_t version;
	uint32_t outcome;
	int32_t remote_fd; /* CREATE: number of the userfaultfd inside the target */
	int32_t error;	   /* positive errno */
	int32_t number;	   /* INJECT_FAILED: system call, -1: none of the target's */
	int32_t n_left;	   /* CLOSE: other fds of the target that still are this userfaultfd */
};

/* The confirmation. */
struct inject_keep {
	uint32_t version;
};

/**
 * inject_send() - one message with at most two fds
 * @fds: those that are negative are left out
 *
 * Context: any; the message is small, so a fresh pair never blocks. Return: 0 or -errno (-EPIPE).
 */
int inject_send(int socket, const void *bytes, size_t n_bytes, const int *fds, size_t n_fds);

/**
 * inject_receive() - one message of exactly @n_bytes
 * @ret_fds:	 owned by the caller; -EBADF where none came
 * @deadline_ns: CLOCK_MONOTONIC
 *
 * Context: job; waits until @deadline_ns.
 * Return:  0, -ETIMEDOUT, -EPIPE (the other end is gone), -EBADMSG (not of this size), other
 * -errno.
 */
int inject_receive(int socket, void *bytes, size_t n_bytes, int *ret_fds, size_t n_fds,
		   uint64_t deadline_ns);
