/* SPDX-License-Identifier: MIT */
/* Messages on a stream socket: JSON objects ended by a NUL byte, with file descriptors beside them.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#define FRAME_MAX_BYTES (UINT32_C(1) << 20) /* of one message, without its NUL */
#define FRAME_MAX_DEPTH 32		    /* of nested objects and arrays */
#define FRAME_MAX_FDS	253 /* of one message; the kernel's own limit (SCM_MAX_FD) */

enum frame_outcome {
	_FRAME_DONE,
	FRAME_NONE,	/* nothing (whole) is there yet */
	FRAME_END,	/* the other side has closed its writing half */
	FRAME_TOO_LONG, /* more than FRAME_MAX_BYTES without a NUL */
	FRAME_TOO_DEEP, /* found before any recursive parser sees it */
	FRAME_BAD_JSON, /* not one JSON object: syntax, duplicate keys, UTF-8, NUL in a string, big
			   numbers */
	FRAME_TOO_MANY_FDS, /* or the kernel had to drop some (MSG_CTRUNC) */
};

/* Embedded; zero is empty. */
struct frame {
	json_t *message; /* owned; an object */
	int *fds;	 /* owned array of owned fds; taken ones are -EBADF */
	size_t n_fds;
	struct ucred sender; /* who wrote its last byte; pid 0 without SO_PASSCRED */
};

void frame_done(struct frame *frame);

/* Close the fds, keep the message. */
void frame_drop_fds(struct frame *frame);

/* The stream's fd and the number of the byte it arrived with. Private. */
struct frame_fd {
	uint64_t position;
	int fd;
};

/* Embedded; zero is a fresh stream. Private. */
struct frame_reader {
	char *bytes; /* owned */
	size_t n_bytes;
	size_t n_allocated;
	size_t n_scanned;  /* no NUL before this one */
	uint64_t position; /* of bytes[0] in the stream */
	struct frame_fd fds[FRAME_MAX_FDS];
	size_t n_fds;
	struct ucred sender;
};

/*
 * How fds that nobody took are closed from now on, by all threads: close() may wait for a file
 * system that a stranger serves. NULL is close().
 */
void frame_set_close(void (*close_fd)(int fd));

/* Closes what nobody took. */
void frame_reader_done(struct frame_reader *reader);

/**
 * frame_reader_feed() - bytes that arrived, and the fds that came with them
 * @fds: consumed, also on failure
 *
 * The kernel ends a read after the bytes that carried fds, so they belong to the message that
 * holds the last of @bytes. Call frame_reader_next() until FRAME_NONE before feeding more.
 *
 * Context: any; allocates. Return: 0, FRAME_TOO_MANY_FDS, or -ENOMEM.
 */
int frame_reader_feed(struct frame_reader *reader, const void *bytes, size_t n_bytes,
		      const int *fds, size_t n_fds);

/**
 * frame_reader_receive() - feed from a socket, one read
 *
 * Context: any; allocates; blocks if the socket does.
 * Return: 0, FRAME_NONE (EAGAIN), FRAME_END, FRAME_TOO_MANY_FDS, or -errno.
 */
int frame_reader_receive(struct frame_reader *reader, int socket);

/**
 * frame_reader_next() - the oldest whole message
 * @ret: overwritten; release with frame_done()
 *
 * After any outcome but FRAME_NONE the stream is broken: nothing tells where the next message
 * starts. Return: 0, FRAME_NONE, FRAME_TOO_LONG, FRAME_TOO_DEEP, FRAME_BAD_JSON, or -ENOMEM.
 */
int frame_reader_next(struct frame_reader *reader, struct frame *ret);

/* Has a message begun that has not ended? After frame_reader_next() said FRAME_NONE. */
bool frame_reader_is_amid(const struct frame_reader *reader);

/* For people. */
const char *frame_outcome_text(int outcome);

/**
 * frame_encode() - the bytes of a message, its NUL included
 * @message: borrowed
 *
 * Return: 0 with owned @ret_bytes, -EMSGSIZE beyond FRAME_MAX_BYTES, -ENOMEM.
 */
int frame_encode(const json_t *message, char **ret_bytes, size_t *ret_n_bytes);

/**
 * frame_send() - as many bytes as the socket takes now, the fds with the first of them
 * @fds: borrowed; sent if at least one byte was
 *
 * Never raises SIGPIPE. Return: 0, FRAME_NONE (EAGAIN), -EMSGSIZE for too many fds, other -errno.
 */
int frame_send(int socket, const void *bytes, size_t n_bytes, const int *fds, size_t n_fds,
	       size_t *ret_n_sent);
