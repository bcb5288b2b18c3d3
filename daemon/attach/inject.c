/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Messages between ufdd and its attach helper. */
#include "attach/inject.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/units.h"

enum { MAX_FDS = 2 };

union fd_control {
	struct cmsghdr header;
	char bytes[CMSG_SPACE(MAX_FDS * sizeof(int))];
};

int inject_send(int socket, const void *bytes, size_t n_bytes, const int *fds, size_t n_fds)
{
	struct iovec part = { .iov_base = (void *)bytes, .iov_len = n_bytes };
	union fd_control control = {};
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
	int sent[MAX_FDS];
	size_t n_sent = 0;

	for (size_t i = 0; i < n_fds && n_sent < MAX_FDS; i++)
		if (fds[i] >= 0)
			sent[n_sent++] = fds[i];
	if (n_sent > 0) {
		control.header.cmsg_level = SOL_SOCKET;
		control.header.cmsg_type = SCM_RIGHTS;
		control.header.cmsg_len = CMSG_LEN(n_sent * sizeof(int));
		memcpy(CMSG_DATA(&control.header), sent, n_sent * sizeof(int));
		message.msg_control = &control;
		message.msg_controllen = CMSG_SPACE(n_sent * sizeof(int));
	}

	return sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? -errno : 0;
}

/* Whatever came is closed here or owned by the caller; too many fds are cut off by the kernel. */
static void take_fds(struct msghdr *message, int *ret_fds, size_t n_fds)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
		int received[MAX_FDS];
		size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		memcpy(received, CMSG_DATA(c), n * sizeof(int));
		for (size_t i = 0; i < n; i++) {
			if (i < n_fds)
				ret_fds[i] = received[i];
			else
				close(received[i]);
		}
	}
}

static int wait_readable(int socket, uint64_t deadline_ns)
{
	struct pollfd waited = { .fd = socket, .events = POLLIN };

	for (;;) {
		uint64_t now = clock_now_ns();
		uint64_t left = deadline_ns > now ? deadline_ns - now : 0;
		struct timespec timeout = { left / NSEC_PER_SEC, left % NSEC_PER_SEC };
		int n = ppoll(&waited, 1, &timeout, NULL);

		if (n > 0)
			return 0;
		if (n == 0)
			return -ETIMEDOUT;
		if (errno != EINTR)
			return -errno;
	}
}

int inject_receive(int socket, void *bytes, size_t n_bytes, int *ret_fds, size_t n_fds,
		   uint64_t deadline_ns)
{
	struct iovec part = { .iov_base = bytes, .iov_len = n_bytes };
	union fd_control control = {};
	struct msghdr message = {
		.msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	ssize_t n;
	int r;

	r = wait_readable(socket, deadline_ns);
	if (r < 0)
		return r;
	n = recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (n < 0)
		return errno == ECONNRESET ? -EPIPE : -errno;

	for (size_t i = 0; i < n_fds; i++)
		ret_fds[i] = -EBADF;
	take_fds(&message, ret_fds, n_fds);
	if (n == (ssize_t)n_bytes && !(message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)))
		return 0;

	for (size_t i = 0; i < n_fds; i++)
		closep(&ret_fds[i]);
	return n == 0 ? -EPIPE : -EBADMSG;
}
