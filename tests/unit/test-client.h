/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The daemon's end of a connection, played by the test itself, in the client's own thread: answers
 * are written before the client asks, and what it asked is read afterwards.
 */
#pragma once

#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "support/unit.h"
#include "ufd/ufd.h"
#include "wire/frame.h"

DEFINE_CLEANUP(struct ufd_client, ufd_client_free)

#define ATTACHED(pid) "{\"parameters\":{\"guest\":{\"name\":\"g\",\"pid\":" #pid "}}}"
#define DONE	      "{\"parameters\":{}}"
#define NO_SUCH_GUEST \
	"{\"error\":\"io.ufd.guest.NoSuchGuest\",\"parameters\":{\"name\":\"g\",\"message\":\"there is no guest g\"}}"

/* @text and its NUL, as one message. */
static inline void server_says(int socket, const char *text)
{
	ck_assert_int_eq(send(socket, text, strlen(text) + 1, MSG_NOSIGNAL),
			 (ssize_t)strlen(text) + 1);
}

/* The next call the client made; it must be there already. */
static inline void server_hears(int socket, struct frame_reader *reader, const char *method,
				struct frame *ret)
{
	int r;

	while ((r = frame_reader_next(reader, ret)) == FRAME_NONE) {
		struct pollfd entry = { .fd = socket, .events = POLLIN };

		ck_assert_msg(poll(&entry, 1, 0) == 1, "the client has not called %s", method);
		ck_assert_int_eq(frame_reader_receive(reader, socket), 0);
	}
	ck_assert_int_eq(r, 0);
	ck_assert_str_eq(json_string_value(json_object_get(ret->message, "method")), method);
}

static inline json_t *parameter(const struct frame *frame, const char *name)
{
	return json_object_get(json_object_get(frame->message, "parameters"), name);
}

/* A client named "g" that talks to the returned socket; skips where there is no userfaultfd at all.
 */
static inline struct ufd_client *client_with_server(int *ret_server, uint64_t timeout_ns,
						    ufd_client_event_fn on_event, void *userdata,
						    const char *path)
{
	struct ufd_client *client = NULL;
	const char *error = "";
	int sockets[2];
	int r;

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
	UFD_OPTS(ufd_client_opts, opts, .guest = "g", .flags = UFD_CLIENT_USER_MODE,
		 .connection = sockets[1], .timeout_ns = timeout_ns, .on_event = on_event,
		 .userdata = userdata, .socket_path = path);
	r = ufd_client_new(&client, &opts, &error);
	close(sockets[1]);
	if (r == -ENOSYS || r == -EPERM)
		unit_skip("%s", error);
	ck_assert_msg(r == 0, "%s", error);
	*ret_server = sockets[0];
	return client;
}

/* Anonymous memory of @length bytes, described as "ram". */
static inline char *add_ram(struct ufd_client *client, size_t length)
{
	char *ram = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	ck_assert_ptr_ne(ram, MAP_FAILED);
	UFD_OPTS(ufd_client_memory_opts, opts, .name = "ram", .source = "zero", .address = ram,
		 .length = length);
	ck_assert_msg(ufd_client_add_memory(client, &opts) == 0, "%s", ufd_client_error(client));
	return ram;
}
