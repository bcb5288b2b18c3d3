/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Bytes and file descriptors of a connection. */
#include "handoff/gather.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "kernel/closing.h"
#include "refusal.h"

#define PIECE_BYTES 4096
#define KERNEL_FDS  253 /* as many as one message can carry: so that none is lost unseen */

void gather_init(struct gather *gather, int fd)
{
	*gather = (struct gather){ .fd = fd };
}

static void drop_fds(struct gather *gather)
{
	for (size_t i = 0; i < gather->n_fds; i++)
		closing_close(gather->fds[i]);
	gather->n_fds = 0;
}

void gather_done(struct gather *gather)
{
	drop_fds(gather);
	closep(&gather->fd);
	free(gather->bytes);
	*gather = (struct gather){ .fd = -EBADF };
}

static int refuse(struct refusal *refusal, const char *what, size_t n_most)
{
	return refusal_set(refusal, "io.ufd.handoff.BadMessage", NULL,
			   "more than %zu %s: no hand-over has as many", n_most, what);
}

/* Return: 0 or -ECANCELED; then those that did not fit are closed. */
static int take_fds(struct gather *gather, struct msghdr *message, struct refusal *refusal)
{
	bool is_too_many = message->msg_flags & MSG_CTRUNC;
	struct cmsghdr *header;

	for (header = CMSG_FIRSTHDR(message); header; header = CMSG_NXTHDR(message, header)) {
		size_t n = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < n; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(header) + i * sizeof(fd), sizeof(fd));
			if (gather->n_fds < FRONTEND_MAX_FDS) {
				gather->fds[gather->n_fds++] = fd;
			} else {
				closing_close(fd);
				is_too_many = true;
			}
		}
	}
	return is_too_many ? refuse(refusal, "file descriptors", FRONTEND_MAX_FDS) : 0;
}

static int make_room(struct gather *gather)
{
	char *more;

	if (gather->n_room - gather->n_bytes >= PIECE_BYTES)
		return 0;
	more = realloc(gather->bytes, gather->n_room + 2 * PIECE_BYTES);
	if (!more)
		return -ENOMEM;
	gather->bytes = more;
	gather->n_room += 2 * PIECE_BYTES;
	return 0;
}

/* Return: 1 if there may be more, 0 if not now, -ECANCELED. */
static int read_piece(struct gather *gather, struct refusal *refusal)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(KERNEL_FDS * sizeof(int))];
	} control;
	struct iovec piece;
	struct msghdr message = {
		.msg_iov = &piece,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	ssize_t n;

	if (make_room(gather) < 0)
		return refusal_set_errno(refusal, -ENOMEM, "no memory");
	piece.iov_base = gather->bytes + gather->n_bytes;
	piece.iov_len = gather->n_room - gather->n_bytes;
	n = recvmsg(gather->fd, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n <= 0) { /* an error is an end as well: the other side is gone */
		gather->is_ended = true;
		return 0;
	}
	gather->n_bytes += (size_t)n;
	if (take_fds(gather, &message, refusal) < 0)
		return -ECANCELED;
	if (gather->n_bytes > FRONTEND_MAX_BYTES)
		return refuse(refusal, "bytes", FRONTEND_MAX_BYTES);
	return 1;
}

int gather_read(struct gather *gather, struct refusal *refusal)
{
	int r;

	do
		r = read_piece(gather, refusal);
	while (r > 0);
	return r;
}

struct frontend_input gather_input(const struct gather *gather)
{
	return (struct frontend_input){
		.bytes = gather->bytes,
		.n_bytes = gather->n_bytes,
		.fds = gather->fds,
		.n_fds = gather->n_fds,
		.is_ended = gather->is_ended,
	};
}

void gather_shift(struct gather *gather, size_t n_bytes)
{
	gather->n_bytes -= n_bytes;
	memmove(gather->bytes, gather->bytes + n_bytes, gather->n_bytes);
	drop_fds(gather);
}
