/* SPDX-License-Identifier: MIT */
/* NUL-framed JSON with file descriptors. */
#include "wire/frame.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"

#define CHUNK_BYTES (UINT32_C(64) << 10)

static void (*close_fd)(int fd); /* set before there are threads */

void frame_set_close(void (*given)(int fd))
{
	close_fd = given;
}

static void close_one(int fd)
{
	if (fd >= 0 && close_fd)
		close_fd(fd);
	else
		closep(&fd);
}

static void close_all(const int *fds, size_t n_fds)
{
	for (size_t i = 0; i < n_fds; i++)
		close_one(fds[i]);
}

void frame_drop_fds(struct frame *frame)
{
	close_all(frame->fds, frame->n_fds);
	free(frame->fds);
	frame->fds = NULL;
	frame->n_fds = 0;
}

void frame_done(struct frame *frame)
{
	frame_drop_fds(frame);
	json_decref(frame->message);
	*frame = (struct frame){};
}

void frame_reader_done(struct frame_reader *reader)
{
	for (size_t i = 0; i < reader->n_fds; i++)
		close_one(reader->fds[i].fd);
	free(reader->bytes);
	*reader = (struct frame_reader){};
}

/* Room for @n_more bytes behind those that are there. */
static int reader_reserve(struct frame_reader *reader, size_t n_more)
{
	size_t n_needed = reader->n_bytes + n_more;
	char *bytes;

	if (n_needed <= reader->n_allocated)
		return 0;
	if (n_needed < 2 * reader->n_allocated)
		n_needed = 2 * reader->n_allocated;
	bytes = realloc(reader->bytes, n_needed);
	if (!bytes)
		return -ENOMEM;
	reader->bytes = bytes;
	reader->n_allocated = n_needed;
	return 0;
}

/* Account for @n_new bytes behind the buffered ones, and queue the fds that came with them. */
static int reader_commit(struct frame_reader *reader, size_t n_new, const int *fds, size_t n_fds)
{
	reader->n_bytes += n_new;
	if (reader->n_fds + n_fds > FRAME_MAX_FDS || (n_fds && !n_new)) {
		close_all(fds, n_fds);
		return FRAME_TOO_MANY_FDS;
	}
	for (size_t i = 0; i < n_fds; i++)
		reader->fds[reader->n_fds++] = (struct frame_fd){
			.position = reader->position + reader->n_bytes - 1,
			.fd = fds[i],
		};
	return 0;
}

int frame_reader_feed(struct frame_reader *reader, const void *bytes, size_t n_bytes,
		      const int *fds, size_t n_fds)
{
	int r;

	r = reader_reserve(reader, n_bytes);
	if (r < 0) {
		close_all(fds, n_fds);
		return r;
	}
	if (n_bytes)
		memcpy(reader->bytes + reader->n_bytes, bytes, n_bytes);
	return reader_commit(reader, n_bytes, fds, n_fds);
}

/* What the kernel put beside the bytes. @ret_fds has room for FRAME_MAX_FDS. */
static void read_control(struct msghdr *header, struct ucred *ret_sender, int *ret_fds,
			 size_t *ret_n_fds)
{
	size_t n_fds = 0;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(header); c; c = CMSG_NXTHDR(header, c)) {
		if (c->cmsg_level != SOL_SOCKET)
			continue;
		if (c->cmsg_type == SCM_CREDENTIALS)
			memcpy(ret_sender, CMSG_DATA(c), sizeof(*ret_sender));
		if (c->cmsg_type == SCM_RIGHTS) {
			size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

			memcpy(ret_fds + n_fds, CMSG_DATA(c), n * sizeof(int));
			n_fds += n;
		}
	}
	*ret_n_fds = n_fds;
}

int frame_reader_receive(struct frame_reader *reader, int socket)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * FRAME_MAX_FDS) +
			   CMSG_SPACE(sizeof(struct ucred))];
	} control;
	int fds[sizeof(control) / sizeof(int)];
	struct iovec part;
	struct msghdr header = {
		.msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	size_t n_fds;
	ssize_t n;
	int r;

	r = reader_reserve(reader, CHUNK_BYTES);
	if (r < 0)
		return r;
	part = (struct iovec){ reader->bytes + reader->n_bytes, CHUNK_BYTES };

	do
		n = recvmsg(socket, &header, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == EAGAIN ? FRAME_NONE : -errno;

	read_control(&header, &reader->sender, fds, &n_fds);
	r = reader_commit(reader, (size_t)n, fds, n_fds);
	if (r != 0)
		return r;
	if (header.msg_flags & MSG_CTRUNC)
		return FRAME_TOO_MANY_FDS;
	return n == 0 ? FRAME_END : 0;
}

/*
 * Nesting, counted outside of strings. Bytes that are no JSON at all may be counted wrongly, but
 * never too low: a parser that recurses has seen each bracket counted here.
 */
static bool is_too_deep(const char *bytes, size_t n_bytes)
{
	unsigned int depth = 0;
	bool is_string = false;

	for (size_t i = 0; i < n_bytes; i++) {
		char c = bytes[i];

		if (is_string) {
			if (c == '\\')
				i++;
			else if (c == '"')
				is_string = false;
		} else if (c == '"') {
			is_string = true;
		} else if (c == '{' || c == '[') {
			if (++depth > FRAME_MAX_DEPTH)
				return true;
		} else if ((c == '}' || c == ']') && depth > 0) {
			depth--;
		}
	}
	return false;
}

static int parse_message(const char *bytes, size_t n_bytes, json_t **ret)
{
	json_error_t error;
	json_t *message;

	if (is_too_deep(bytes, n_bytes))
		return FRAME_TOO_DEEP;
	message = json_loadb(bytes, n_bytes, JSON_REJECT_DUPLICATES, &error);
	if (!message)
		return json_error_code(&error) == json_error_out_of_memory ? -ENOMEM
									   : FRAME_BAD_JSON;
	if (!json_is_object(message)) {
		json_decref(message);
		return FRAME_BAD_JSON;
	}
	*ret = message;
	return 0;
}

/* Hand the fds that arrived before stream byte @end to @frame. */
static int take_fds(struct frame_reader *reader, uint64_t end, struct frame *frame)
{
	size_t n = 0;

	while (n < reader->n_fds && reader->fds[n].position < end)
		n++;
	if (n == 0)
		return 0;
	frame->fds = calloc(n, sizeof(*frame->fds));
	if (!frame->fds)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++)
		frame->fds[i] = reader->fds[i].fd;
	frame->n_fds = n;
	reader->n_fds -= n;
	memmove(reader->fds, reader->fds + n, reader->n_fds * sizeof(*reader->fds));
	return 0;
}

int frame_reader_next(struct frame_reader *reader, struct frame *ret)
{
	_cleanup_(frame_done) struct frame frame = { .sender = reader->sender };
	const char *end = NULL;
	size_t n_frame;
	int r;

	if (reader->n_scanned < reader->n_bytes)
		end = memchr(reader->bytes + reader->n_scanned, '\0',
			     reader->n_bytes - reader->n_scanned);
	n_frame = end ? (size_t)(end - reader->bytes) : reader->n_bytes;
	if (n_frame > FRAME_MAX_BYTES)
		return FRAME_TOO_LONG;
	if (!end) {
		reader->n_scanned = reader->n_bytes;
		return FRAME_NONE;
	}

	r = take_fds(reader, reader->position + n_frame + 1, &frame);
	if (r < 0)
		return r;
	r = parse_message(reader->bytes, n_frame, &frame.message);
	if (r != 0)
		return r;

	n_frame++;
	reader->position += n_frame;
	reader->n_bytes -= n_frame;
	reader->n_scanned = 0;
	memmove(reader->bytes, reader->bytes + n_frame, reader->n_bytes);
	*ret = frame;
	frame = (struct frame){};
	return 0;
}

bool frame_reader_is_amid(const struct frame_reader *reader)
{
	return reader->n_bytes > 0;
}

const char *frame_outcome_text(int outcome)
{
	static const char *const texts[] = {
		[FRAME_NONE] = "no whole message",
		[FRAME_END] = "end of stream",
		[FRAME_TOO_LONG] = "a message longer than 1 MiB",
		[FRAME_TOO_DEEP] = "a message nested deeper than 32 levels",
		[FRAME_BAD_JSON] = "a message that is not one strict JSON object",
		[FRAME_TOO_MANY_FDS] = "more than 253 file descriptors, or some were lost",
	};

	if (outcome < 0)
		return strerror(-outcome);
	if (outcome == 0 || (size_t)outcome >= sizeof(texts) / sizeof(texts[0]))
		return "success";
	return texts[outcome];
}

int frame_encode(const json_t *message, char **ret_bytes, size_t *ret_n_bytes)
{
	char *text = json_dumps(message, JSON_COMPACT);

	if (!text)
		return -ENOMEM;
	if (strlen(text) > FRAME_MAX_BYTES) {
		free(text);
		return -EMSGSIZE;
	}
	*ret_bytes = text;
	*ret_n_bytes = strlen(text) + 1;
	return 0;
}

int frame_send(int socket, const void *bytes, size_t n_bytes, const int *fds, size_t n_fds,
	       size_t *ret_n_sent)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * FRAME_MAX_FDS)];
	} control = {};
	struct iovec part = { (void *)bytes, n_bytes };
	struct msghdr header = { .msg_iov = &part, .msg_iovlen = 1 };
	ssize_t n;

	if (n_fds > FRAME_MAX_FDS)
		return -EMSGSIZE;
	if (n_fds) {
		header.msg_control = &control;
		header.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
		control.align.cmsg_level = SOL_SOCKET;
		control.align.cmsg_type = SCM_RIGHTS;
		control.align.cmsg_len = CMSG_LEN(sizeof(int) * n_fds);
		memcpy(CMSG_DATA(&control.align), fds, sizeof(int) * n_fds);
	}
	do
		n = sendmsg(socket, &header, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == EAGAIN ? FRAME_NONE : -errno;
	*ret_n_sent = (size_t)n;
	return 0;
}
