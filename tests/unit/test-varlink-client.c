/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The blocking client and the messages it exchanges, against a scripted other side. */
#include "wire/varlink-client.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/units.h"
#include "support/unit.h"
#include "wire/frame.h"
#include "wire/varlink.h"

#define SOON (clock_now_ns() + 20 * NSEC_PER_SEC)

/* ---- messages ---- */

static const struct {
	const char *what;
	const char *json;
	bool is_call;
	bool is_reply;
} messages[] = {
	{ "a bare call", "{\"method\":\"a.B\"}", true, false },
	{ "a full call", "{\"method\":\"a.B\",\"parameters\":{\"a\":1},\"more\":true}", true,
	  false },
	{ "null parameters", "{\"method\":\"a.B\",\"parameters\":null}", true, false },
	{ "an array for parameters", "{\"method\":\"a.B\",\"parameters\":[]}", false, false },
	{ "a number for a method", "{\"method\":1}", false, false },
	{ "no method, which is a reply", "{}", false, true },
	{ "an unknown member", "{\"method\":\"a.B\",\"onewy\":true}", false, false },
	{ "a string for a flag", "{\"method\":\"a.B\",\"more\":\"yes\"}", false, false },
	{ "more and oneway", "{\"method\":\"a.B\",\"more\":true,\"oneway\":true}", false, false },
	{ "a reply", "{\"parameters\":{},\"continues\":true}", false, true },
	{ "an error", "{\"error\":\"a.B\",\"parameters\":{}}", false, true },
	{ "an error that continues", "{\"error\":\"a.B\",\"continues\":true}", false, false },
	{ "a number for an error", "{\"error\":1}", false, false },
	{ "a reply with a string", "{\"parameters\":\"\"}", false, false },
};

START_TEST(calls_and_replies_are_told_from_others)
{
	json_t *message = json_loads(messages[_i].json, 0, NULL);
	struct varlink_call call;
	struct varlink_reply reply;

	ck_assert_msg((varlink_call_parse(message, &call) == 0) == messages[_i].is_call, "%s",
		      messages[_i].what);
	if (json_object_get(message, "method") == NULL)
		ck_assert_msg((varlink_reply_parse(message, &reply) == 0) == messages[_i].is_reply,
			      "%s", messages[_i].what);
	json_decref(message);
}
END_TEST

START_TEST(a_call_that_is_made_is_a_call)
{
	json_t *message = varlink_call_new("a.B", json_pack("{s:i}", "n", 3), _i & 1, _i & 2);
	struct varlink_call call;

	ck_assert_int_eq(varlink_call_parse(message, &call), 0);
	ck_assert_str_eq(call.method, "a.B");
	ck_assert_int_eq(json_integer_value(json_object_get(call.parameters, "n")), 3);
	ck_assert(call.is_more == !!(_i & 1));
	ck_assert(call.is_oneway == !!(_i & 2));
	json_decref(message);
}
END_TEST

/* ---- the client ---- */

static void open_pair(struct varlink_client **ret_client, int *ret_other)
{
	int pair[2];

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	ck_assert_int_eq(varlink_client_adopt(ret_client, pair[0]), 0);
	*ret_other = pair[1];
}

static void say(int fd, const char *text)
{
	ck_assert_int_eq(write(fd, text, strlen(text) + 1), (ssize_t)strlen(text) + 1);
}

START_TEST(replies_come_in_order_with_their_fds)
{
	_cleanup_(varlink_client_freep) struct varlink_client *client = NULL;
	_cleanup_(varlink_answer_done) struct varlink_answer answer = {};
	int other, fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	size_t n_sent;

	open_pair(&client, &other);
	ck_assert_int_eq(varlink_client_send(client, "a.B", NULL, NULL, 0, VARLINK_MORE, SOON), 0);
	say(other, "{\"parameters\":{\"n\":1},\"continues\":true}");
	ck_assert_int_eq(frame_send(other, "{\"error\":\"a.E\"}", 16, &fd, 1, &n_sent), 0);
	ck_assert_int_eq(varlink_client_next(client, SOON, &answer), 0);
	ck_assert(answer.has_more);
	ck_assert_ptr_null(answer.error);
	ck_assert_uint_eq(answer.n_fds, 0);
	varlink_answer_done(&answer);
	ck_assert_int_eq(varlink_client_next(client, SOON, &answer), 0);
	ck_assert_str_eq(answer.error, "a.E");
	ck_assert(json_is_object(answer.parameters));
	ck_assert_uint_eq(answer.n_fds, 1);
	close(fd);
	close(other);
}
END_TEST

static const struct {
	const char *what;
	const char *bytes;
	size_t n_bytes;
	int result;
} ends[] = {
	{ "silence", "", 0, -ETIMEDOUT },
	{ "half a reply", "{\"parameters\"", 13, -ETIMEDOUT },
	{ "garbage", "hello", 6, -EPROTO },
	{ "an object that is no reply", "{\"parameters\":1}", 17, -EPROTO },
};

START_TEST(what_is_no_reply_is_an_error)
{
	_cleanup_(varlink_client_freep) struct varlink_client *client = NULL;
	struct varlink_answer answer;
	int other;

	open_pair(&client, &other);
	ck_assert_int_eq(write(other, ends[_i].bytes, ends[_i].n_bytes), (ssize_t)ends[_i].n_bytes);
	ck_assert_msg(varlink_client_next(client, clock_now_ns() + NSEC_PER_MSEC, &answer) ==
			      ends[_i].result,
		      "%s", ends[_i].what);
	close(other);
}
END_TEST

START_TEST(a_service_that_goes_away_is_noticed)
{
	_cleanup_(varlink_client_freep) struct varlink_client *client = NULL;
	struct varlink_answer answer;
	int other;

	open_pair(&client, &other);
	close(other);
	ck_assert_int_eq(varlink_client_next(client, SOON, &answer), -ECONNRESET);
	ck_assert_int_eq(varlink_client_send(client, "a.B", NULL, NULL, 0, 0, SOON), -EPIPE);
}
END_TEST

/* The other side reads late: a call longer than the socket's buffer is sent in pieces. */
static void *read_call(void *userdata)
{
	struct frame_reader *reader = calloc(1, sizeof(*reader));
	struct frame frame;
	int fd = *(int *)userdata, r;
	json_t *length;

	while ((r = frame_reader_next(reader, &frame)) == FRAME_NONE)
		if (frame_reader_receive(reader, fd) != 0)
			break;
	if (r == 0) {
		char text[64];

		length = json_object_get(json_object_get(frame.message, "parameters"), "text");
		snprintf(text, sizeof(text), "{\"parameters\":{\"n\":%zu}}",
			 json_string_length(length));
		say(fd, text);
		frame_done(&frame);
	}
	frame_reader_done(reader);
	free(reader);
	return NULL;
}

START_TEST(a_long_call_is_sent_whole)
{
	_cleanup_(varlink_client_freep) struct varlink_client *client = NULL;
	_cleanup_(varlink_answer_done) struct varlink_answer answer = {};
	size_t n = FRAME_MAX_BYTES - 1000;
	_cleanup_(freep) char *text = calloc(1, n + 1);
	json_t *parameters;
	pthread_t thread;
	int other;

	open_pair(&client, &other);
	memset(text, 'x', n);
	parameters = json_pack("{s:s}", "text", text);
	pthread_create(&thread, NULL, read_call, &other);
	ck_assert_int_eq(varlink_client_call(client, "a.B", parameters, NULL, 0, SOON, &answer), 0);
	pthread_join(thread, NULL);
	ck_assert_int_eq(json_integer_value(json_object_get(answer.parameters, "n")),
			 (json_int_t)n);
	json_decref(parameters);
	close(other);
}
END_TEST

START_TEST(nobody_listens)
{
	struct varlink_client *client = NULL;
	char path[200];

	memset(path, 'a', sizeof(path));
	path[sizeof(path) - 1] = '\0';
	ck_assert_int_eq(varlink_client_connect(&client, "/nonexistent/socket"), -ENOENT);
	ck_assert_int_eq(varlink_client_connect(&client, path), -ENAMETOOLONG);
	ck_assert_ptr_null(client);
}
END_TEST

int main(void)
{
	return unit_run(
		"varlink-client",
		(struct unit_test[]){
			UNIT_TABLE(calls_and_replies_are_told_from_others, messages),
			{ "a_call_that_is_made_is_a_call", a_call_that_is_made_is_a_call, 3 },
			UNIT(replies_come_in_order_with_their_fds),
			UNIT_TABLE(what_is_no_reply_is_an_error, ends),
			UNIT(a_service_that_goes_away_is_noticed),
			UNIT(a_long_call_is_sent_whole),
			UNIT(nobody_listens),
			{},
		});
}
