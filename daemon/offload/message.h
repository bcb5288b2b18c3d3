/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Between ufdd and the process that serves a restore (ufdd-offload), on a SOCK_SEQPACKET:
 *
 *	keep	 here is the bundle; answered by `kept` when it outlives both. Nothing of the guest ran
 *	runs	 Cloud Hypervisor has everything but the pages
 *	failed	 it does not take it; why
 *
 * Context of all: any; block.
 */
#pragma once

#include <stdint.h>

enum message_kind {
	MESSAGE_KEEP = 1, /* with an fd */
	MESSAGE_KEPT,
	MESSAGE_RUNS,
	MESSAGE_FAILED,
};

/* Readable. */
struct message {
	uint32_t kind;
	char error[96]; /* of MESSAGE_FAILED: name of the refusal */
	char text[1024];
};

/* @fd: borrowed; -EBADF: none. Return: 0 or -errno. */
int message_send(int socket, const struct message *message, int fd);

/*
 * @ret_fd: owned by the caller; -EBADF if none came. @timeout_ms: -1: none.
 * Return: 0, -ETIMEDOUT, -ECONNRESET (the other side has ended), -EBADMSG, -errno.
 */
int message_receive(int socket, struct message *ret, int *ret_fd, int timeout_ms);
