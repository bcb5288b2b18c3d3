/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Connections, and what comes on them. */
#include "firecracker/visitor.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "base/clock.h"
#include "base/units.h"
#include "kernel/pidfd.h"
#include "refusal.h"

#define MESSAGE_SECONDS 5

/* Clock ticks since boot, as process starts are counted. */
static uint64_t ticks_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_BOOTTIME, &now);
	return (uint64_t)now.tv_sec * (uint64_t)sysconf(_SC_CLK_TCK) +
	       (uint64_t)now.tv_nsec * (uint64_t)sysconf(_SC_CLK_TCK) / NSEC_PER_SEC;
}

/*
 * Whose connection it is. Where the kernel tells only a number, a process that is younger than the
 * connection has it from one that has ended.
 */
static int find_peer(struct visitor *visitor)
{
	uint64_t accepted_at = ticks_now(), started_at;
	uid_t uid;
	gid_t gid;
	int r;

	r = pidfd_of_peer(visitor->socket, &visitor->pidfd, &visitor->pid, &uid, &gid);
	if (r == 0)
		r = pidfd_start_ticks(visitor->pid, &started_at);
	if (r == 0 && started_at > accepted_at)
		r = -ESRCH;
	return r;
}

int visitor_accept(struct visitor **ret, int listener)
{
	_cleanup_(visitor_freep) struct visitor *visitor = malloc(sizeof(*visitor));
	int r;

	if (!visitor)
		return -ENOMEM;
	visitor->n_bytes = visitor->n_fds = 0;
	visitor->pidfd = -EBADF;
	visitor->deadline_ns = clock_now_ns() + MESSAGE_SECONDS * NSEC_PER_SEC;
	visitor->socket = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (visitor->socket < 0)
		return -errno;
	r = find_peer(visitor);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(visitor);
	return 0;
}

struct visitor *visitor_free(struct visitor *visitor)
{
	if (!visitor)
		return NULL;
	for (size_t i = 0; i < visitor->n_fds; i++)
		closep(&visitor->fds[i]);
	closep(&visitor->pidfd);
	closep(&visitor->socket);
	free(visitor);
	return NULL;
}

struct frontend_input visitor_input(const struct visitor *visitor)
{
	return (struct frontend_input){
		.bytes = visitor->bytes,
		.n_bytes = visitor->n_bytes,
		.fds = visitor->fds,
		.n_fds = visitor->n_fds,
	};
}

static void take_fds(struct visitor *visitor, struct msghdr *message)
{
	for (struct cmsghdr *head = CMSG_FIRSTHDR(message); head;
	     head = CMSG_NXTHDR(message, head)) {
		size_t n = (head->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS)
			continue;
		/* the room that recvmsg() had is no more than this */
		memcpy(visitor->fds + visitor->n_fds, CMSG_DATA(head), n * sizeof(int));
		visitor->n_fds += n;
	}
}

/* Return: 0 with what came in one piece (*ret_n 0: the end), -EAGAIN, -EMSGSIZE, other -errno. */
static int receive(struct visitor *visitor, size_t *ret_n)
{
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(FRONTEND_MAX_FDS * sizeof(int))];
	} control;
	struct iovec piece = { visitor->bytes + visitor->n_bytes,
			       sizeof(visitor->bytes) - visitor->n_bytes };
	struct msghdr message = {
		.msg_iov = &piece,
		.msg_iovlen = 1,
		.msg_control = control.room,
		.msg_controllen = CMSG_SPACE((FRONTEND_MAX_FDS - visitor->n_fds) * sizeof(int)),
	};
	ssize_t n = recvmsg(visitor->socket, &message, MSG_CMSG_CLOEXEC);

	if (n < 0)
		return -errno;
	take_fds(visitor, &message);
	if (message.msg_flags & MSG_CTRUNC)
		return -EMSGSIZE;
	visitor->n_bytes += (size_t)n;
	*ret_n = (size_t)n;
	return 0;
}

int visitor_read(struct visitor *visitor, struct frontend_offer *ret, struct refusal *refusal)
{
	struct frontend_input input;
	const struct frontend *frontend;
	bool is_ended = false;
	size_t n = 0;
	int r = 0;

	while (r == 0 && !is_ended && visitor->n_bytes <= FRONTEND_MAX_BYTES) {
		r = receive(visitor, &n);
		if (r == -EINTR)
			r = 0;
		else if (r == 0)
			is_ended = n == 0;
	}
	if (r < 0 && r != -EAGAIN)
		return refusal_set_errno(refusal, r, "the connection: %s",
					 r == -EMSGSIZE ? "too many file descriptors"
							: strerror(-r));
	if (is_ended && visitor->n_bytes == 0)
		return VISITOR_EMPTY;
	input = visitor_input(visitor);
	input.is_ended = is_ended;
	r = frontend_recognise(&input, &frontend, ret, refusal);
	if (r == FRONTEND_WHOLE && frontend != &frontend_firecracker)
		return refusal_set(refusal, "io.ufd.handoff.UnsupportedDialect",
				   json_pack("{s:s}", "dialect", frontend->name),
				   "the VMM speaks the dialect `%s`, which only ufdd serves",
				   frontend->name);
	return r == FRONTEND_MORE ? VISITOR_MORE : r;
}
