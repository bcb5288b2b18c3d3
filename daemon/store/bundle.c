/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Handles in the queue of a socket. */
#include "store/bundle.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/cleanup.h"

#define MAGIC	   UINT32_C(0x31627564)
#define MAX_QUEUED 64 /* far more than two: whatever it is, it is not ours */

_Static_assert(UFD_MAX_HANDLES <= 253, "one message takes no more fds");

/* What comes with the fds, in their order. */
struct entry {
	uint32_t kind;
	uint32_t id;
};
struct head {
	uint32_t magic;
	uint32_t n_handles;
};
struct text {
	struct head head;
	struct entry entries[UFD_MAX_HANDLES];
};

union control {
	struct cmsghdr header;
	char bytes[CMSG_SPACE(UFD_MAX_HANDLES * sizeof(int))];
};

/* Name and length of a Unix socket or its peer. */
struct address {
	struct sockaddr_un name;
	socklen_t length;
};

/*
 * A name is needed to connect to, for a moment: the kernel picks an abstract one. Between the two calls
 * somebody may have guessed it and sent something: that is thrown away. Afterwards the kernel
 * refuses every sender but the socket itself.
 */
int bundle_new(int *ret_fd)
{
	struct address address = { .name.sun_family = AF_UNIX, .length = sizeof(address.name) };
	_cleanup_(closep) int fd = -EBADF;

	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	if (bind(fd, (struct sockaddr *)&address.name, sizeof(sa_family_t)) < 0 ||
	    getsockname(fd, (struct sockaddr *)&address.name, &address.length) < 0 ||
	    connect(fd, (struct sockaddr *)&address.name, address.length) < 0)
		return -errno;
	while (recv(fd, NULL, 0, MSG_DONTWAIT) >= 0)
		;
	*ret_fd = TAKE_FD(fd);
	return 0;
}

static bool is_option(int fd, int option, int wanted)
{
	socklen_t n = sizeof(int);
	int value = -1;

	return getsockopt(fd, SOL_SOCKET, option, &value, &n) == 0 && value == wanted;
}

bool bundle_is(int fd)
{
	struct address own = { .length = sizeof(own.name) };
	struct address peer = { .length = sizeof(peer.name) };

	return is_option(fd, SO_DOMAIN, AF_UNIX) && is_option(fd, SO_TYPE, SOCK_DGRAM) &&
	       getsockname(fd, (struct sockaddr *)&own.name, &own.length) == 0 &&
	       getpeername(fd, (struct sockaddr *)&peer.name, &peer.length) == 0 &&
	       own.length > sizeof(sa_family_t) && own.length == peer.length &&
	       memcmp(&own.name, &peer.name, own.length) == 0;
}

/* How far looking has come is a property of the socket, which a dead process may have left anywhere. */
static int set_peek(int bundle, int offset)
{
	return setsockopt(bundle, SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof(offset)) < 0 ? -errno
											: 0;
}

/* How many messages are queued: each look begins at the byte where the one before ended. */
static int count_messages(int bundle, size_t *ret_n)
{
	struct text text;
	size_t n = 0;
	int r;

	r = set_peek(bundle, 0);
	if (r < 0)
		return r;
	while (n <= MAX_QUEUED && recv(bundle, &text, sizeof(text), MSG_PEEK | MSG_DONTWAIT) >= 0)
		n++;
	r = set_peek(bundle, -1);
	if (r == 0)
		*ret_n = n;
	return r;
}

static int send_message(int bundle, const struct ufd_handle *handles, size_t n_handles)
{
	struct text text = { .head = { .magic = MAGIC, .n_handles = (uint32_t)n_handles } };
	struct iovec part = { .iov_base = &text,
			      .iov_len = sizeof(text.head) + n_handles * sizeof(struct entry) };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
	union control control = {};
	int fds[UFD_MAX_HANDLES];

	for (size_t i = 0; i < n_handles; i++) {
		text.entries[i] = (struct entry){ handles[i].kind, handles[i].id };
		fds[i] = handles[i].fd;
	}
	if (n_handles) {
		message.msg_control = &control;
		message.msg_controllen = CMSG_SPACE(n_handles * sizeof(int));
		control.header.cmsg_level = SOL_SOCKET;
		control.header.cmsg_type = SCM_RIGHTS;
		control.header.cmsg_len = CMSG_LEN(n_handles * sizeof(int));
		memcpy(CMSG_DATA(&control.header), fds, n_handles * sizeof(int));
	}
	return sendmsg(bundle, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
}

int bundle_write(int bundle, const struct ufd_handle *handles, size_t n_handles)
{
	size_t n_older = 0;
	int r;

	if (n_handles > UFD_MAX_HANDLES)
		return -ENOSPC;
	r = count_messages(bundle, &n_older);
	if (r == 0)
		r = send_message(bundle, handles, n_handles);
	/* without room for fds they are not duplicated: the queue's own references just go */
	for (size_t i = 0; r == 0 && i < n_older; i++)
		if (recv(bundle, NULL, 0, MSG_DONTWAIT) < 0)
			r = -errno;
	return r;
}

void bundle_close_handles(struct ufd_handle *handles, size_t n_handles)
{
	for (size_t i = 0; i < n_handles; i++) {
		closep(&handles[i].fd);
		handles[i].fd = -EBADF;
	}
}

/* A message as it is received, and the fds of it, which are the reader's at once. */
struct reading {
	struct text text;
	size_t n_text;
	int fds[UFD_MAX_HANDLES];
	size_t n_fds;
	bool is_cut;
};

static void close_reading(struct reading *reading)
{
	for (size_t i = 0; i < reading->n_fds; i++)
		close(reading->fds[i]);
	reading->n_fds = 0;
}

/* The next message, if there is one. Return: 0, -EAGAIN after the last, -errno. */
static int peek_message(int bundle, struct reading *ret)
{
	struct iovec part = { .iov_base = &ret->text, .iov_len = sizeof(ret->text) };
	union control control;
	struct msghdr message = { .msg_iov = &part,
				  .msg_iovlen = 1,
				  .msg_control = &control,
				  .msg_controllen = sizeof(control) };
	ssize_t n = recvmsg(bundle, &message, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	if (n < 0)
		return -errno;
	close_reading(ret); /* the one before does not count */
	ret->n_text = (size_t)n;
	ret->is_cut = message.msg_flags & (MSG_CTRUNC | MSG_TRUNC);
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
		size_t n_fds = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		memcpy(ret->fds + ret->n_fds, CMSG_DATA(c), n_fds * sizeof(int));
		ret->n_fds += n_fds;
	}
	return 0;
}

static bool is_sound(const struct reading *reading)
{
	const struct head *head = &reading->text.head;

	return reading->n_text >= sizeof(*head) && head->magic == MAGIC &&
	       head->n_handles <= UFD_MAX_HANDLES && head->n_handles == reading->n_fds &&
	       reading->n_text == sizeof(*head) + head->n_handles * sizeof(struct entry);
}

int bundle_read(int bundle, struct ufd_handle *handles, size_t *ret_n)
{
	struct reading reading = {};
	unsigned int n = 0;
	int r;

	r = set_peek(bundle, 0);
	if (r < 0)
		return r;
	while ((r = peek_message(bundle, &reading)) == 0 && n <= MAX_QUEUED)
		n++;
	set_peek(bundle, -1);
	if (r == -EAGAIN)
		r = n == 0		 ? -ENODATA
		    : is_sound(&reading) ? 0
		    : reading.is_cut	 ? -EMFILE
					 : -EBADMSG;
	else if (r == 0)
		r = -EBADMSG;
	if (r < 0) {
		close_reading(&reading);
		return r;
	}
	for (size_t i = 0; i < reading.n_fds; i++)
		handles[i] = (struct ufd_handle){
			.kind = reading.text.entries[i].kind,
			.id = reading.text.entries[i].id,
			.fd = reading.fds[i],
		};
	*ret_n = reading.n_fds;
	return 0;
}
