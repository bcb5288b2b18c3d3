/* SPDX-License-Identifier: MIT */
/* A blocking Varlink client. */
#include "wire/varlink-client.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <sys/un.h>

#include "base/clock.h"
#include "base/units.h"
#include "wire/frame.h"
#include "wire/varlink.h"

struct varlink_client {
	int socket; /* owned, non-blocking */
	struct frame_reader reader;
};

void varlink_answer_done(struct varlink_answer *answer)
{
	for (size_t i = 0; i < answer->n_fds; i++)
		closep(&answer->fds[i]);
	free(answer->fds);
	free(answer->error);
	json_decref(answer->parameters);
	*answer = (struct varlink_answer){};
}

int varlink_client_adopt(struct varlink_client **ret, int given)
{
	_cleanup_(varlink_client_freep) struct varlink_client *client = NULL;
	_cleanup_(closep) int socket = given;
	int flags;

	flags = fcntl(socket, F_GETFL);
	if (flags < 0 || fcntl(socket, F_SETFL, flags | O_NONBLOCK) < 0)
		return -errno;
	client = calloc(1, sizeof(*client));
	if (!client)
		return -ENOMEM;
	client->socket = TAKE_FD(socket);
	*ret = TAKE_PTR(client);
	return 0;
}

int varlink_client_connect(struct varlink_client **ret, const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	_cleanup_(closep) int fd = -EBADF;

	if (strlen(path) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	strcpy(address.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return -errno;
	return varlink_client_adopt(ret, TAKE_FD(fd));
}

struct varlink_client *varlink_client_free(struct varlink_client *client)
{
	if (!client)
		return NULL;
	frame_reader_done(&client->reader);
	closep(&client->socket);
	free(client);
	return NULL;
}

int varlink_client_fd(const struct varlink_client *client)
{
	return client->socket;
}

/* Return: 0 when one of @events is there, -ETIMEDOUT, other -errno. */
static int client_wait(struct varlink_client *client, short events, uint64_t deadline_ns)
{
	struct pollfd entry = { .fd = client->socket, .events = events };

	for (;;) {
		int timeout_ms = -1;
		int r;

		if (deadline_ns) {
			uint64_t now_ns = clock_now_ns();
			uint64_t left_ns = deadline_ns > now_ns ? deadline_ns - now_ns : 0;

			/* rounded up: a deadline must not make us look a thousand times a
			 * millisecond */
			timeout_ms = (int)min_u64((left_ns + NSEC_PER_MSEC - 1) / NSEC_PER_MSEC,
						  INT_MAX);
		}
		r = poll(&entry, 1, timeout_ms);
		if (r > 0)
			return 0;
		if (r < 0 && errno != EINTR)
			return -errno;
		if (deadline_ns && clock_now_ns() >= deadline_ns)
			return -ETIMEDOUT;
	}
}

int varlink_client_send(struct varlink_client *client, const char *method, json_t *parameters,
			const int *fds, size_t n_fds, unsigned int flags, uint64_t deadline_ns)
{
	_cleanup_(freep) char *bytes = NULL;
	size_t n_bytes, n_done = 0;
	json_t *message;
	int r;

	message = varlink_call_new(method, json_incref(parameters), flags & VARLINK_MORE,
				   flags & VARLINK_ONEWAY);
	if (!message)
		return -ENOMEM;
	r = frame_encode(message, &bytes, &n_bytes);
	json_decref(message);
	if (r < 0)
		return r;

	while (n_done < n_bytes) {
		size_t n;

		r = frame_send(client->socket, bytes + n_done, n_bytes - n_done,
			       n_done ? NULL : fds, n_done ? 0 : n_fds, &n);
		if (r < 0)
			return r;
		if (r == FRAME_NONE) {
			r = client_wait(client, POLLOUT, deadline_ns);
			if (r < 0)
				return r;
			continue;
		}
		n_done += n;
	}
	return 0;
}

static int answer_from_frame(struct frame *frame, struct varlink_answer *ret)
{
	_cleanup_(varlink_answer_done) struct varlink_answer answer = {};
	struct varlink_reply reply;
	int r;

	r = varlink_reply_parse(frame->message, &reply);
	if (r != 0)
		return r < 0 ? r : -EPROTO;
	if (reply.error) {
		answer.error = strdup(reply.error);
		if (!answer.error)
			return -ENOMEM;
	}
	answer.parameters = reply.parameters ? json_incref(reply.parameters) : json_object();
	if (!answer.parameters)
		return -ENOMEM;
	answer.has_more = reply.has_more;
	answer.fds = TAKE_PTR(frame->fds);
	answer.n_fds = frame->n_fds;
	frame->n_fds = 0;
	*ret = answer;
	answer = (struct varlink_answer){};
	return 0;
}

int varlink_client_next(struct varlink_client *client, uint64_t deadline_ns,
			struct varlink_answer *ret)
{
	_cleanup_(frame_done) struct frame frame = {};
	int r;

	for (;;) {
		r = frame_reader_next(&client->reader, &frame);
		if (r < 0)
			return r;
		if (r == 0)
			return answer_from_frame(&frame, ret);
		if (r != FRAME_NONE)
			return -EPROTO;

		r = frame_reader_receive(&client->reader, client->socket);
		if (r == FRAME_NONE)
			r = client_wait(client, POLLIN, deadline_ns);
		if (r < 0)
			return r;
		if (r == FRAME_END)
			return -ECONNRESET;
		if (r != 0)
			return -EPROTO;
	}
}

int varlink_client_call(struct varlink_client *client, const char *method, json_t *parameters,
			const int *fds, size_t n_fds, uint64_t deadline_ns,
			struct varlink_answer *ret)
{
	int r;

	r = varlink_client_send(client, method, parameters, fds, n_fds, 0, deadline_ns);
	if (r < 0)
		return r;
	return varlink_client_next(client, deadline_ns, ret);
}
