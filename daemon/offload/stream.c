/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One of Cloud Hypervisor's migration connections. */
#include "offload/stream.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "refusal.h"

#define SLICE_MS 200 /* how late a cancellation may be seen */
#define MAX_FDS	 8   /* more than one is odd; as many are closed, the kernel drops the rest */

union control {
	struct cmsghdr header;
	char bytes[CMSG_SPACE(MAX_FDS * sizeof(int))];
};

/* Until something can be done. Return: 0, -ETIMEDOUT, -ECANCELED, -errno. */
static int stream_wait(const struct stream *stream, short events)
{
	uint64_t deadline_ns = clock_now_ns() + stream->idle_ns;
	struct pollfd fd = { .fd = stream->fd, .events = events };

	for (;;) {
		int n = poll(&fd, 1, SLICE_MS);

		if (n > 0)
			return 0;
		if (n < 0 && errno != EINTR)
			return -errno;
		if (stream->is_cancelled && stream->is_cancelled(stream->userdata))
			return -ECANCELED;
		if (stream->idle_ns && clock_now_ns() >= deadline_ns)
			return -ETIMEDOUT;
	}
}

static void take_fds(struct msghdr *message, int *ret_fd)
{
	for (struct cmsghdr *part = CMSG_FIRSTHDR(message); part;
	     part = CMSG_NXTHDR(message, part)) {
		int fds[MAX_FDS];
		size_t n;

		if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS)
			continue;
		n = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		memcpy(fds, CMSG_DATA(part), n * sizeof(int));
		for (size_t i = 0; i < n; i++) {
			if (ret_fd && *ret_fd < 0)
				*ret_fd = fds[i];
			else
				close(fds[i]);
		}
	}
}

/* Return: how many came, 0 at the end, -errno. */
static ssize_t receive_some(const struct stream *stream, void *bytes, size_t n_bytes, int *ret_fd)
{
	struct iovec part = { .iov_base = bytes, .iov_len = n_bytes };
	union control control;
	struct msghdr message = { .msg_iov = &part,
				  .msg_iovlen = 1,
				  .msg_control = &control,
				  .msg_controllen = sizeof(control) };
	ssize_t n = recvmsg(stream->fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	if (n < 0)
		return -errno;
	take_fds(&message, ret_fd);
	return n;
}

int stream_receive(const struct stream *stream, void *bytes, size_t n_bytes, int *ret_fd)
{
	size_t n_done = 0;

	while (n_done < n_bytes) {
		ssize_t n = receive_some(stream, (char *)bytes + n_done, n_bytes - n_done, ret_fd);
		int r;

		if (n > 0) {
			n_done += (size_t)n;
			continue;
		}
		if (n == 0)
			return n_done ? -ECONNRESET : STREAM_ENDED;
		if (n != -EAGAIN && n != -EINTR)
			return (int)n;
		r = stream_wait(stream, POLLIN);
		if (r < 0)
			return r;
	}
	return 0;
}

static ssize_t send_some(const struct stream *stream, const void *bytes, size_t n_bytes, int fd)
{
	struct iovec part = { .iov_base = (void *)bytes, .iov_len = n_bytes };
	union control control = {};
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
	ssize_t n;

	if (fd >= 0) {
		message.msg_control = &control;
		message.msg_controllen = CMSG_SPACE(sizeof(int));
		control.header.cmsg_level = SOL_SOCKET;
		control.header.cmsg_type = SCM_RIGHTS;
		control.header.cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(&control.header), &fd, sizeof(int));
	}
	n = sendmsg(stream->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
	return n < 0 ? -errno : n;
}

int stream_send(const struct stream *stream, const void *bytes, size_t n_bytes, int fd)
{
	size_t n_done = 0;

	while (n_done < n_bytes) {
		ssize_t n = send_some(stream, (const char *)bytes + n_done, n_bytes - n_done, fd);
		int r;

		if (n > 0) {
			n_done += (size_t)n;
			fd = -EBADF; /* it went with the first bytes */
			continue;
		}
		if (n != -EAGAIN && n != -EINTR)
			return (int)n;
		r = stream_wait(stream, POLLOUT);
		if (r < 0)
			return r;
	}
	return 0;
}

int stream_refuse(int r, const char *doing, struct refusal *refusal)
{
	const char *why = r == STREAM_ENDED || r == -ECONNRESET || r == -EPIPE
				  ? "Cloud Hypervisor closed the connection"
			  : r == -ETIMEDOUT ? "Cloud Hypervisor is silent"
			  : r == -ECANCELED ? "there is no more time for it"
					    : strerror(-r);

	return refusal_set(refusal, "io.ufd.handoff.OffloadFailed", NULL, "%s: %s", doing, why);
}

int stream_receive_request(const struct stream *stream, struct ch_request *ret,
			   struct refusal *refusal)
{
	uint8_t head[CH_HEAD_BYTES];
	int r = stream_receive(stream, head, sizeof(head), NULL);

	if (r == STREAM_ENDED)
		return r;
	if (r < 0)
		return stream_refuse(r, "waiting for a request", refusal);
	return ch_request_read(head, sizeof(head), ret, refusal);
}

int stream_answer(const struct stream *stream, bool is_ok)
{
	const struct ch_response response = { .is_ok = is_ok };
	uint8_t head[CH_HEAD_BYTES];

	ch_response_write(&response, head);
	return stream_send(stream, head, sizeof(head), -EBADF);
}

int stream_ask(const struct stream *stream, enum ch_command command, const void *bytes,
	       size_t n_bytes, int fd, struct refusal *refusal)
{
	const struct ch_request request = { .command = command, .n_payload = n_bytes };
	struct ch_response response = {};
	uint8_t head[CH_HEAD_BYTES];
	int r;

	ch_request_write(&request, head);
	r = stream_send(stream, head, sizeof(head), -EBADF);
	if (r == 0)
		r = stream_send(stream, bytes, n_bytes, fd);
	if (r == 0)
		r = stream_receive(stream, head, sizeof(head), NULL);
	if (r != 0)
		return stream_refuse(r, ch_command_word(command), refusal);
	r = ch_response_read(head, sizeof(head), &response, refusal);
	if (r == 0 && (!response.is_ok || response.n_payload))
		return refusal_set(refusal, "io.ufd.handoff.OffloadFailed", NULL,
				   "Cloud Hypervisor answers %s by an error; its own log says why",
				   ch_command_word(command));
	return r;
}
