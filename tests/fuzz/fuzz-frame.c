/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Fuzz target: bytes of a stream, in pieces, through the frames and the messages in them. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fuzz/fuzz.h"
#include "wire/frame.h"
#include "wire/varlink.h"

#define LONG_BYTES 4096

/* What was understood can be said again, and means the same. */
static void repeat(json_t *message)
{
	struct frame_reader reader = {};
	struct frame frame = {};
	size_t n_bytes;
	char *bytes;

	if (frame_encode(message, &bytes, &n_bytes) < 0)
		return; /* escapes made it longer than a frame */
	FUZZ_ASSERT(frame_reader_feed(&reader, bytes, n_bytes, NULL, 0) == 0);
	FUZZ_ASSERT(frame_reader_next(&reader, &frame) == 0);
	FUZZ_ASSERT(json_equal(frame.message, message));
	frame_done(&frame);
	frame_reader_done(&reader);
	free(bytes);
}

/* @again is consumed, and must be a call or a reply as @message is. */
static void look_call(const struct varlink_call *call, json_t *again)
{
	struct varlink_call second;

	FUZZ_ASSERT(varlink_call_parse(again, &second) == 0);
	FUZZ_ASSERT(strcmp(call->method, second.method) == 0);
	FUZZ_ASSERT(call->is_more == second.is_more && call->is_oneway == second.is_oneway);
	json_decref(again);
}

static void look_reply(const struct varlink_reply *reply, json_t *again)
{
	struct varlink_reply second;

	FUZZ_ASSERT(varlink_reply_parse(again, &second) == 0);
	FUZZ_ASSERT(!reply->error == !second.error && reply->has_more == second.has_more);
	json_decref(again);
}

static void look(json_t *message)
{
	struct varlink_reply reply;
	struct varlink_call call;

	if (varlink_call_parse(message, &call) == 0)
		look_call(&call, varlink_call_new(call.method, json_incref(call.parameters),
						  call.is_more, call.is_oneway));
	if (varlink_reply_parse(message, &reply) == 0)
		look_reply(&reply, reply.error ? varlink_error_new(reply.error,
								   json_incref(reply.parameters))
					       : varlink_reply_new(json_incref(reply.parameters),
								   reply.has_more));
	repeat(message);
}

/* Return: true while the stream is sound. */
static bool take_frames(struct frame_reader *reader)
{
	struct frame frame;
	int r;

	while ((r = frame_reader_next(reader, &frame)) == 0) {
		look(frame.message);
		if (frame.n_fds > 1)
			frame_drop_fds(&frame);
		frame_done(&frame);
	}
	FUZZ_ASSERT(frame_outcome_text(r) && frame_outcome_text(-r));
	return r == FRAME_NONE;
}

/* One piece through a socket, with as many fds as its first byte says. Return: false at the end. */
static bool pass(int pair[2], struct frame_reader *reader, const uint8_t *bytes, size_t n_bytes)
{
	int fds[FRAME_MAX_FDS + 1] = {};
	size_t n_fds = bytes[0] & 0x80 ? 0 : bytes[0] & 7, n_sent = 0;
	int r;

	if (bytes[0] == 0xf0)
		n_fds = FRAME_MAX_FDS; /* twice for one message are too many */
	if (bytes[0] == 0xf1)
		n_fds = FRAME_MAX_FDS + 1;
	for (size_t i = 0; i < n_fds; i++)
		fds[i] = pair[0];
	r = frame_send(pair[0], bytes, n_bytes, fds, n_fds, &n_sent);
	FUZZ_ASSERT((r == 0 && n_sent == n_bytes) || n_fds > FRAME_MAX_FDS);
	do
		r = frame_reader_receive(reader, pair[1]);
	while (r == 0 && take_frames(reader));
	return r == FRAME_NONE;
}

/* The first byte says how long the pieces are. */
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
	struct frame_reader *reader = calloc(1, sizeof(*reader));
	size_t n_piece = n_bytes ? (size_t)bytes[0] + 1 : 1;
	bool is_sound = true;
	const int on = 1;
	int pair[2];

	if (n_bytes > LONG_BYTES)
		n_piece *= 64; /* a million reads of a byte would find nothing new */
	FUZZ_ASSERT(reader &&
		    socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
	FUZZ_ASSERT(setsockopt(pair[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) == 0);
	for (size_t i = 1; is_sound && i < n_bytes; i += n_piece)
		is_sound = pass(pair, reader, bytes + i,
				n_bytes - i < n_piece ? n_bytes - i : n_piece);
	close(pair[0]);
	if (is_sound)
		FUZZ_ASSERT(frame_reader_receive(reader, pair[1]) == FRAME_END || reader->n_fds);
	frame_reader_done(reader);
	free(reader);
	close(pair[1]);
	return 0;
}
