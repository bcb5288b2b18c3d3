/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Between ufdd and the process that serves a restore. */
#include "offload/message.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "base/cleanup.h"

union control {
	struct cmsghdr header;
	char bytes[CMSG_SPACE(sizeof(int))];
};

int message_send(int socket, const struct message *message, int fd)
{
	struct iovec part = { .iov_base = (void *)message, .iov_len = sizeof(*message) };
	struct msghdr head = { .msg_iov = &part, .msg_iovlen = 1 };
	union control control = {};

	if (fd >= 0) {
		head.msg_control = &control;
		head.msg_controllen = sizeof(control);
		control.header.cmsg_level = SOL_SOCKET;
		control.header.cmsg_type = SCM_RIGHTS;
		control.header.cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(&control.header), &fd, sizeof(int));
	}
	return sendmsg(socket, &head, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

static int await(int socket, int timeout_ms)
{
	struct pollfd fd = { .fd = socket, .events = POLLIN };
	int n = poll(&fd, 1, timeout_ms);

	while (n < 0 && errno == EINTR)
		n = poll(&fd, 1, timeout_ms);
	return n > 0 ? 0 : n == 0 ? -ETIMEDOUT : -errno;
}

int message_receive(int socket, struct message *ret, int *ret_fd, int timeout_ms)
{
	struct message message = {};
	struct iovec part = { .iov_base = &message, .iov_len = sizeof(message) };
	union control control;
	struct msghdr head = { .msg_iov = &part,
			       .msg_iovlen = 1,
			       .msg_control = &control,
			       .msg_controllen = sizeof(control) };
	_cleanup_(closep) int fd = -EBADF;
	const struct cmsghdr *came;
	ssize_t n;
	int r;

	r = await(socket, timeout_ms);
	if (r < 0)
		return r;
	n = recvmsg(socket, &head, MSG_CMSG_CLOEXEC);
	if (n <= 0)
		return n < 0 ? -errno : -ECONNRESET;
	came = CMSG_FIRSTHDR(&head);
	if (came && came->cmsg_type == SCM_RIGHTS)
		memcpy(&fd, CMSG_DATA(came), sizeof(int));
	if (n != sizeof(message))
		return -EBADMSG;
	message.error[sizeof(message.error) - 1] = '\0';
	message.text[sizeof(message.text) - 1] = '\0';
	*ret = message;
	*ret_fd = TAKE_FD(fd);
	return 0;
}
