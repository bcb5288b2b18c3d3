/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Frames: bytes cut anywhere, broken in every way, with fds beside them. */
#include "wire/frame.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "support/unit.h"

#define BYTES(text) text, sizeof(text)

static int open_null(void)
{
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	ck_assert_int_ge(fd, 0);
	return fd;
}

static const struct {
	const char *what;
	const char *bytes;
	size_t n_bytes; /* 0: strlen() and the NUL */
	int outcome;
} streams[] = {
	{ "an object", "{\"a\":1}", 0, 0 },
	{ "the empty object", "{}", 0, 0 },
	{ "2^63 - 1", "{\"a\":9223372036854775807}", 0, 0 },
	{ "a bracket in a string",
	  "{\"a\":\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\\\"[[[[[[\"}", 0, 0 },
	{ "nothing before the NUL", "", 0, FRAME_BAD_JSON },
	{ "no JSON", "garbage", 0, FRAME_BAD_JSON },
	{ "an array", "[]", 0, FRAME_BAD_JSON },
	{ "a string", "\"a\"", 0, FRAME_BAD_JSON },
	{ "two objects", "{}{}", 0, FRAME_BAD_JSON },
	{ "a key twice", "{\"a\":1,\"a\":2}", 0, FRAME_BAD_JSON },
	{ "single quotes", "{'a':1}", 0, FRAME_BAD_JSON },
	{ "2^64", "{\"a\":18446744073709551616}", 0, FRAME_BAD_JSON },
	{ "NaN", "{\"a\":NaN}", 0, FRAME_BAD_JSON },
	{ "no UTF-8", "{\"a\":\"\xff\"}", 0, FRAME_BAD_JSON },
	{ "a lone surrogate", "{\"a\":\"\\ud800\"}", 0, FRAME_BAD_JSON },
	{ "an escaped NUL", "{\"a\":\"\\u0000\"}", 0, FRAME_BAD_JSON },
	{ "an open object", "{\"a\":", 0, FRAME_BAD_JSON },
	{ "no NUL yet", "{\"a\":1}", 7, FRAME_NONE },
	{ "more closed than opened", "]]]]{}", 0, FRAME_BAD_JSON },
};

static size_t stream_length(int row)
{
	return streams[row].n_bytes ? streams[row].n_bytes : strlen(streams[row].bytes) + 1;
}

START_TEST(each_stream_has_its_outcome)
{
	_cleanup_(frame_reader_done) struct frame_reader reader = {};
	_cleanup_(frame_done) struct frame frame = {};
	size_t n = stream_length(_i);

	ck_assert_int_eq(frame_reader_feed(&reader, streams[_i].bytes, n, NULL, 0), 0);
	ck_assert_msg(frame_reader_next(&reader, &frame) == streams[_i].outcome, "%s",
		      streams[_i].what);
	ck_assert((frame.message != NULL) == (streams[_i].outcome == 0));
}
END_TEST

/* The same bytes, one by one, and in two pieces cut at each place. */
START_TEST(a_cut_changes_nothing)
{
	size_t n = stream_length(_i);

	for (size_t cut = 0; cut <= n; cut++) {
		_cleanup_(frame_reader_done) struct frame_reader reader = {};
		_cleanup_(frame_done) struct frame frame = {};

		ck_assert_int_eq(frame_reader_feed(&reader, streams[_i].bytes, cut, NULL, 0), 0);
		if (cut < n)
			ck_assert_int_eq(frame_reader_next(&reader, &frame), FRAME_NONE);
		ck_assert_int_eq(
			frame_reader_feed(&reader, streams[_i].bytes + cut, n - cut, NULL, 0), 0);
		ck_assert_msg(frame_reader_next(&reader, &frame) == streams[_i].outcome,
			      "%s, cut at %zu", streams[_i].what, cut);
	}
}
END_TEST

START_TEST(several_frames_come_one_by_one)
{
	_cleanup_(frame_reader_done) struct frame_reader reader = {};
	struct frame frame;

	ck_assert_int_eq(
		frame_reader_feed(&reader, BYTES("{\"n\":0}\0{\"n\":1}\0{\"n\":2}"), NULL, 0), 0);
	for (int i = 0; i < 3; i++) {
		ck_assert_int_eq(frame_reader_next(&reader, &frame), 0);
		ck_assert_int_eq(json_integer_value(json_object_get(frame.message, "n")), i);
		frame_done(&frame);
	}
	ck_assert_int_eq(frame_reader_next(&reader, &frame), FRAME_NONE);
}
END_TEST

static const struct {
	const char *what;
	size_t n_spaces;
	bool has_end;
	int outcome;
} lengths[] = {
	{ "the longest", FRAME_MAX_BYTES - 2, true, 0 },
	{ "one byte more", FRAME_MAX_BYTES - 1, true, FRAME_TOO_LONG },
	{ "the longest, its NUL to come", FRAME_MAX_BYTES - 2, false, FRAME_NONE },
	{ "one byte more, its NUL to come", FRAME_MAX_BYTES - 1, false, FRAME_TOO_LONG },
};

START_TEST(a_frame_has_at_most_a_mebibyte)
{
	_cleanup_(frame_reader_done) struct frame_reader reader = {};
	_cleanup_(frame_done) struct frame frame = {};
	_cleanup_(freep) char *bytes = malloc(lengths[_i].n_spaces + 3);

	bytes[0] = '{';
	memset(bytes + 1, ' ', lengths[_i].n_spaces);
	bytes[lengths[_i].n_spaces + 1] = '}';
	bytes[lengths[_i].n_spaces + 2] = '\0';
	ck_assert_int_eq(frame_reader_feed(&reader, bytes,
					   lengths[_i].n_spaces + 2 + lengths[_i].has_end, NULL, 0),
			 0);
	ck_assert_msg(frame_reader_next(&reader, &frame) == lengths[_i].outcome, "%s",
		      lengths[_i].what);
}
END_TEST

static const struct {
	const char *open;
	const char *close;
	size_t depth;
	int outcome;
} depths[] = {
	{ "{\"a\":", "}", FRAME_MAX_DEPTH - 1, 0 },
	{ "{\"a\":", "}", FRAME_MAX_DEPTH, FRAME_TOO_DEEP },
	{ "[", "]", FRAME_MAX_DEPTH - 1, 0 },
	{ "[", "]", 200000, FRAME_TOO_DEEP },
	{ "[", "", 500000, FRAME_TOO_DEEP },
	{ "{\"a\":", "", 150000, FRAME_TOO_DEEP },
};

START_TEST(depth_is_counted_before_anything_recurses)
{
	size_t n_open = strlen(depths[_i].open), n_close = strlen(depths[_i].close);
	size_t n = 7 + depths[_i].depth * (n_open + n_close) + 2;
	_cleanup_(frame_reader_done) struct frame_reader reader = {};
	_cleanup_(frame_done) struct frame frame = {};
	_cleanup_(freep) char *bytes = malloc(n + 8);
	char *at = stpcpy(bytes, "{\"x\":");

	for (size_t i = 0; i < depths[_i].depth; i++)
		at = stpcpy(at, depths[_i].open);
	at = stpcpy(at, "1");
	for (size_t i = 0; i < depths[_i].depth; i++)
		at = stpcpy(at, depths[_i].close);
	at = stpcpy(at, "}");
	ck_assert_int_eq(frame_reader_feed(&reader, bytes, (size_t)(at - bytes) + 1, NULL, 0), 0);
	ck_assert_int_eq(frame_reader_next(&reader, &frame), depths[_i].outcome);
}
END_TEST

/* ---- fds ---- */

START_TEST(fds_belong_to_the_message_that_ends_their_chunk)
{
	_cleanup_(frame_reader_done) struct frame_reader reader = {};
	int fd = open_null();
	struct frame frame;

	/* the kernel ends a read after the bytes that carried fds: {"n":1} carried it */
	ck_assert_int_eq(frame_reader_feed(&reader, BYTES("{\"n\":0}\0{\"n\":1}"), &fd, 1), 0);
	ck_assert_int_eq(frame_reader_next(&reader, &frame), 0);
	ck_assert_uint_eq(frame.n_fds, 0);
	frame_done(&frame);
	ck_assert_int_eq(frame_reader_next(&reader, &frame), 0);
	ck_assert_uint_eq(frame.n_fds, 1);
	ck_assert_int_eq(frame.fds[0], fd);
	frame_done(&frame);
	ck_assert_int_eq(fcntl(fd, F_GETFD), -1); /* leftovers are closed */
}
END_TEST

START_TEST(fds_wait_for_the_rest_of_their_message)
{
	_cleanup_(frame_reader_done) struct frame_reader reader = {};
	_cleanup_(frame_done) struct frame frame = {};
	int first = open_null(), second = open_null();

	ck_assert_int_eq(frame_reader_feed(&reader, "{\"n\"", 4, &first, 1), 0);
	ck_assert_int_eq(frame_reader_next(&reader, &frame), FRAME_NONE);
	ck_assert_int_eq(frame_reader_feed(&reader, BYTES(":0}"), &second, 1), 0);
	ck_assert_int_eq(frame_reader_next(&reader, &frame), 0);
	ck_assert_uint_eq(frame.n_fds, 2);
	ck_assert_int_eq(frame.fds[0], first);
	ck_assert_int_eq(frame.fds[1], second);
}
END_TEST

START_TEST(more_fds_than_a_message_may_have_are_closed)
{
	_cleanup_(frame_reader_done) struct frame_reader reader = {};
	int fds[FRAME_MAX_FDS], late = open_null();

	for (size_t i = 0; i < FRAME_MAX_FDS; i++)
		fds[i] = open_null();
	ck_assert_int_eq(frame_reader_feed(&reader, "{", 1, fds, FRAME_MAX_FDS), 0);
	ck_assert_int_eq(frame_reader_feed(&reader, "}", 1, &late, 1), FRAME_TOO_MANY_FDS);
	ck_assert_int_eq(fcntl(late, F_GETFD), -1);
	/* the unit test's own check sees that the reader closes the others */
}
END_TEST

/* Over a real socket: what frame_send() sends, frame_reader_receive() hears. */
START_TEST(fds_travel)
{
	_cleanup_(frame_reader_done) struct frame_reader reader = {};
	_cleanup_(frame_done) struct frame frame = {};
	int pair[2], fds[FRAME_MAX_FDS], n = _i ? FRAME_MAX_FDS : 1;
	const int on = 1;
	size_t n_sent;

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair),
			 0);
	ck_assert_int_eq(setsockopt(pair[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)), 0);
	ck_assert_int_eq(frame_reader_receive(&reader, pair[1]), FRAME_NONE);
	for (int i = 0; i < n; i++)
		fds[i] = open_null();
	ck_assert_int_eq(frame_send(pair[0], BYTES("{}"), fds, (size_t)n, &n_sent), 0);
	ck_assert_uint_eq(n_sent, 3);
	for (int i = 0; i < n; i++)
		close(fds[i]);
	ck_assert_int_eq(frame_reader_receive(&reader, pair[1]), 0);
	ck_assert_int_eq(frame_reader_next(&reader, &frame), 0);
	ck_assert_uint_eq(frame.n_fds, (size_t)n);
	for (int i = 0; i < n; i++)
		ck_assert_int_eq(fcntl(frame.fds[i], F_GETFD), FD_CLOEXEC);
	ck_assert_int_eq(frame.sender.pid, getpid());
	close(pair[0]);
	ck_assert_int_eq(frame_reader_receive(&reader, pair[1]), FRAME_END);
	close(pair[1]);
}
END_TEST

START_TEST(one_fd_too_many_is_not_sent)
{
	int fds[FRAME_MAX_FDS + 1] = { 0 };
	size_t n_sent;

	ck_assert_int_eq(frame_send(0, BYTES("{}"), fds, FRAME_MAX_FDS + 1, &n_sent), -EMSGSIZE);
}
END_TEST

START_TEST(what_is_encoded_is_read_back)
{
	_cleanup_(frame_reader_done) struct frame_reader reader = {};
	_cleanup_(frame_done) struct frame frame = {};
	_cleanup_(freep) char *bytes = NULL;
	json_t *message = json_pack("{s:I, s:s}", "a", (json_int_t)INT64_MAX, "b", "\xc3\xa4");
	size_t n_bytes;

	ck_assert_int_eq(frame_encode(message, &bytes, &n_bytes), 0);
	ck_assert_int_eq(frame_reader_feed(&reader, bytes, n_bytes, NULL, 0), 0);
	ck_assert_int_eq(frame_reader_next(&reader, &frame), 0);
	ck_assert(json_equal(frame.message, message));
	json_decref(message);
}
END_TEST

START_TEST(a_message_beyond_the_limit_is_not_encoded)
{
	_cleanup_(freep) char *text = calloc(1, FRAME_MAX_BYTES + 1);
	char *bytes = NULL;
	json_t *message;
	size_t n_bytes;

	memset(text, 'a', FRAME_MAX_BYTES);
	message = json_pack("{s:s}", "a", text);
	ck_assert_int_eq(frame_encode(message, &bytes, &n_bytes), -EMSGSIZE);
	ck_assert_ptr_null(bytes);
	json_decref(message);
}
END_TEST

START_TEST(every_outcome_has_its_words)
{
	for (int i = FRAME_NONE; i <= FRAME_TOO_MANY_FDS; i++)
		ck_assert_str_ne(frame_outcome_text(i), "success");
	ck_assert_str_eq(frame_outcome_text(0), "success");
	ck_assert_str_eq(frame_outcome_text(-ENOMEM), strerror(ENOMEM));
}
END_TEST

int main(void)
{
	return unit_run("varlink-frame",
			(struct unit_test[]){
				UNIT_TABLE(each_stream_has_its_outcome, streams),
				UNIT_TABLE(a_cut_changes_nothing, streams),
				UNIT(several_frames_come_one_by_one),
				UNIT_TABLE(a_frame_has_at_most_a_mebibyte, lengths),
				UNIT_TABLE(depth_is_counted_before_anything_recurses, depths),
				UNIT(fds_belong_to_the_message_that_ends_their_chunk),
				UNIT(fds_wait_for_the_rest_of_their_message),
				UNIT(more_fds_than_a_message_may_have_are_closed),
				{ "fds_travel", fds_travel, 2 },
				UNIT(one_fd_too_many_is_not_sent),
				UNIT(what_is_encoded_is_read_back),
				UNIT(a_message_beyond_the_limit_is_not_encoded),
				UNIT(every_outcome_has_its_words),
				{},
			});
}
