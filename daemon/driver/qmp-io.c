/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* QMP on the wire: JSON objects, one a line, answers matched by id, events at any time. */
#include "driver/qmp-io.h"

#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/units.h"

/* The longest answers list a machine's devices; far below this. */
#define MAX_LINE_BYTES (16 * MIB)
#define READ_BYTES     (64 * KIB)

static int gone(const struct qmp *qmp, struct refusal *refusal)
{
	return refusal_set(refusal, QMP_DRIVER_FAILED, NULL,
			   "QEMU (pid %d) closed its monitor; its own log says why", qmp->pid);
}

int qmp_wait(struct qmp *qmp, int other, short events, bool *ret_is_ready, uint64_t deadline_ns,
	     const char *doing, struct refusal *refusal)
{
	struct pollfd fds[2] = {
		{ .fd = qmp->socket, .events = POLLIN },
		{ .fd = other, .events = events },
	};

	for (;;) {
		uint64_t now = clock_now_ns();
		uint64_t left_ms = now < deadline_ns ? (deadline_ns - now) / NSEC_PER_MSEC + 1 : 0;
		int n = poll(fds, 2, (int)min_u64(left_ms, INT32_MAX));

		if (n < 0 && errno != EINTR)
			return refusal_set_errno(refusal, -errno, "poll of the monitor failed");
		if (n > 0)
			break;
		if (clock_now_ns() >= deadline_ns)
			return refusal_set(refusal, QMP_DRIVER_FAILED, NULL,
					   "QEMU (pid %d) did not answer in time while %s",
					   qmp->pid, doing);
	}
	if (ret_is_ready)
		*ret_is_ready = fds[1].revents != 0;
	return fds[0].revents ? qmp_receive(qmp, refusal) : 0;
}

static ssize_t send_some(int socket, const char *bytes, size_t n_bytes, int fd)
{
	union {
		char space[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = {};
	struct iovec piece = { .iov_base = (void *)bytes, .iov_len = n_bytes };
	struct msghdr message = { .msg_iov = &piece, .msg_iovlen = 1 };

	if (fd >= 0) {
		struct cmsghdr *header;

		message.msg_control = control.space;
		message.msg_controllen = sizeof(control.space);
		header = CMSG_FIRSTHDR(&message);
		header->cmsg_level = SOL_SOCKET;
		header->cmsg_type = SCM_RIGHTS;
		header->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(header), &fd, sizeof(int));
	}
	return sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

int qmp_send(struct qmp *qmp, json_t *message, int fd, uint64_t deadline_ns,
	     struct refusal *refusal)
{
	_cleanup_(freep) char *text = json_dumps(message, JSON_COMPACT);
	size_t n_text, n_sent = 0;
	int r;

	if (!text)
		return refusal_set_errno(refusal, -ENOMEM, "command not sent");

	n_text = strlen(text);
	while (n_sent < n_text) {
		ssize_t n = send_some(qmp->socket, text + n_sent, n_text - n_sent, fd);

		if (n >= 0) {
			n_sent += n;
			fd = -EBADF; /* it went with the first byte */
		} else if (errno == EPIPE || errno == ECONNRESET) {
			return gone(qmp, refusal);
		} else if (errno == EAGAIN) {
			r = qmp_wait(qmp, qmp->socket, POLLOUT, NULL, deadline_ns,
				     "reading a command", refusal);
			if (r)
				return r;
		} else if (errno != EINTR) {
			return refusal_set_errno(refusal, -errno, "command not sent");
		}
	}
	return 0;
}

static void note_event(struct qmp *qmp, const char *event, json_t *message)
{
	const char *status = NULL;

	if (strcmp(event, "MIGRATION"))
		return;
	if (!json_unpack(message, "{s:{s:s}}", "data", "status", &status))
		snprintf(qmp->migration, sizeof(qmp->migration), "%s", status);
}

static void note_greeting(struct qmp *qmp, json_t *greeting)
{
	int major = 0, minor = 0, micro = 0;

	json_unpack(greeting, "{s:{s:{s:i,s:i,s:i}}}", "version", "qemu", "major", &major, "minor",
		    &minor, "micro", &micro);
	snprintf(qmp->version, sizeof(qmp->version), "%d.%d.%d", major, minor, micro);
	qmp->is_greeted = true;
}

static int take_line(struct qmp *qmp, const char *line, size_t n_line, struct refusal *refusal)
{
	const char *event;
	json_t *message, *id;

	if (strspn(line, " \t\r\n") >= n_line)
		return 0;

	message = json_loadb(line, n_line, 0, NULL);
	if (!json_is_object(message)) {
		json_decref(message);
		return refusal_set(refusal, QMP_DRIVER_FAILED, NULL,
				   "the monitor of pid %d does not speak QMP", qmp->pid);
	}

	event = json_string_value(json_object_get(message, "event"));
	id = json_object_get(message, "id");
	if (event) {
		note_event(qmp, event, message);
	} else if (json_object_get(message, "QMP")) {
		note_greeting(qmp, json_object_get(message, "QMP"));
	} else if (!qmp->answer && json_integer_value(id) == (json_int_t)qmp->last_id) {
		qmp->answer = json_incref(message);
	} /* else: the late answer of a command that nobody waits for any more */

	json_decref(message);
	return 0;
}

static int take_lines(struct qmp *qmp, struct refusal *refusal)
{
	size_t start = 0;
	int r = 0;

	while (!r) {
		char *end = memchr(qmp->input + start, '\n', qmp->n_input - start);

		if (!end)
			break;
		*end = '\0';
		r = take_line(qmp, qmp->input + start, end - qmp->input - start, refusal);
		start = end + 1 - qmp->input;
	}
	memmove(qmp->input, qmp->input + start, qmp->n_input - start);
	qmp->n_input -= start;
	return r;
}

static int make_room(struct qmp *qmp, struct refusal *refusal)
{
	size_t n = qmp->n_input + READ_BYTES;
	char *input;

	if (n <= qmp->n_allocated)
		return 0;
	if (n > MAX_LINE_BYTES)
		return refusal_set(refusal, QMP_DRIVER_FAILED, NULL,
				   "the monitor of pid %d sent a line of more than 16 MiB",
				   qmp->pid);
	n = max_u64(n, 2 * qmp->n_allocated);
	input = realloc(qmp->input, n);
	if (!input)
		return refusal_set_errno(refusal, -ENOMEM, "answer not read");
	qmp->input = input;
	qmp->n_allocated = n;
	return 0;
}

int qmp_receive(struct qmp *qmp, struct refusal *refusal)
{
	int r;

	for (;;) {
		ssize_t n;

		r = make_room(qmp, refusal);
		if (r)
			return r;

		n = recv(qmp->socket, qmp->input + qmp->n_input, READ_BYTES, MSG_DONTWAIT);
		if (n == 0 || (n < 0 && errno == ECONNRESET))
			return gone(qmp, refusal);
		if (n < 0 && errno == EAGAIN)
			return 0;
		if (n < 0 && errno != EINTR)
			return refusal_set_errno(refusal, -errno, "answer not read");
		if (n > 0) {
			qmp->n_input += n;
			r = take_lines(qmp, refusal);
			if (r)
				return r;
		}
	}
}
