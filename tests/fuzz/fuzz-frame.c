/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Fuzz target: bytes of a stream, in pieces, through the frames and the messages in them. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz/fuzz.h"
#include "wire/frame.h"
#include "wire/varlink.h"

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

static void look(json_t *message)
{
	struct varlink_reply reply;
	struct varlink_call call;

	if (varlink_call_parse(message, &call) == 0)
		FUZZ_ASSERT(call.method && (!call.parameters || json_is_object(call.parameters)));
	if (varlink_reply_parse(message, &reply) == 0)
		FUZZ_ASSERT(!reply.parameters || json_is_object(reply.parameters));
	repeat(message);
}

/* Return: true while the stream is sound. */
static bool take_frames(struct frame_reader *reader)
{
	struct frame frame;
	int r;

	while ((r = frame_reader_next(reader, &frame)) == 0) {
		look(frame.message);
		frame_done(&frame);
	}
	FUZZ_ASSERT(frame_outcome_text(r));
	return r == FRAME_NONE;
}

/* The first byte says how long the pieces are. */
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
	struct frame_reader reader = {};
	size_t n_piece = n_bytes ? (size_t)bytes[0] + 1 : 1;

	for (size_t i = 1; i < n_bytes; i += n_piece) {
		size_t n = n_bytes - i < n_piece ? n_bytes - i : n_piece;

		FUZZ_ASSERT(frame_reader_feed(&reader, bytes + i, n, NULL, 0) == 0);
		if (!take_frames(&reader))
			break;
	}
	frame_reader_done(&reader);
	return 0;
}
