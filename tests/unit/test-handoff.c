/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Wishes as they outlive us, and what is gathered from a connection. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "handoff/gather.h"
#include "handoff/wish.h"
#include "refusal.h"
#include "support/unit.h"

static struct handoff_wish whole(void)
{
	struct handoff_wish wish = wish_built_in();

	wish.path = strdup("/run/vms/web.sock");
	wish.dialect = strdup("firecracker");
	wish.source = strdup("file:/srv/a,,b \"quoted\"");
	wish.name = strdup("web-%");
	wish.consumer = strdup("diff");
	wish.owner = 1234;
	wish.socket_gid = 77;
	wish.mode = 0640;
	wish.n_most = 9;
	wish.settings.background = 0;
	return wish;
}

START_TEST(a_wish_comes_back_as_it_was)
{
	_cleanup_(wish_done) struct handoff_wish wish = whole(), back = {};
	_cleanup_(freep) char *text = NULL;

	ck_assert_int_eq(wish_print(&wish, &text), 0);
	ck_assert_int_eq(wish_parse(text, strlen(text), &back), 0);
	ck_assert_str_eq(back.path, wish.path);
	ck_assert_str_eq(back.dialect, wish.dialect);
	ck_assert_str_eq(back.source, wish.source);
	ck_assert_str_eq(back.name, wish.name);
	ck_assert_str_eq(back.consumer, wish.consumer);
	ck_assert_uint_eq(back.owner, 1234);
	ck_assert_uint_eq(back.socket_uid, (uid_t)-1);
	ck_assert_uint_eq(back.socket_gid, 77);
	ck_assert_uint_eq(back.mode, 0640);
	ck_assert_uint_eq(back.n_most, 9);
	ck_assert_mem_eq(&back.settings, &wish.settings, sizeof(wish.settings));
}
END_TEST

START_TEST(every_beginning_of_a_wish_is_none)
{
	_cleanup_(wish_done) struct handoff_wish wish = whole();
	_cleanup_(freep) char *text = NULL;
	struct handoff_wish back = {};

	ck_assert_int_eq(wish_print(&wish, &text), 0);
	for (size_t n = 0; n < strlen(text); n++)
		ck_assert_int_eq(wish_parse(text, n, &back), -EBADMSG);
	ck_assert_ptr_null(back.path);
}
END_TEST

START_TEST(what_a_later_release_adds_is_no_harm)
{
	static const char text[] =
		"{\"path\":\"/a\",\"dialect\":\"auto\",\"source\":\"zero\",\"name\":\"a\","
		"\"owner\":0,\"socket_uid\":0,\"socket_gid\":0,\"mode\":384,\"count\":0,"
		"\"settings\":{\"colour\":\"blue\"},\"later\":[1]}";
	_cleanup_(wish_done) struct handoff_wish wish = {};

	ck_assert_int_eq(wish_parse(text, strlen(text), &wish), 0);
	ck_assert_uint_eq(wish.mode, 0600);
	ck_assert_ptr_null(wish.consumer);
}
END_TEST

static const struct {
	const char *path, *name;
	const char *error; /* its end; NULL: none */
	const char *guest; /* number 7 */
} names[] = {
	{ "/run/fc.sock", NULL, NULL, "fc-7" },
	{ "/run/.hidden", NULL, NULL, "_hidden-7" },
	{ "/run/a b", NULL, NULL, "a_b-7" },
	{ "/run/x", "web", NULL, "web" },
	{ "/run/x", "w%b", NULL, "w7b" },
	{ "/run/x", "%%", "InvalidParameter", NULL },
	{ "/run/x", "", "InvalidParameter", NULL },
	{ "/run/x", "../x", "InvalidParameter", NULL },
	{ "/run/x", "a b", "InvalidParameter", NULL },
	{ "/run/x", "-x", "InvalidParameter", NULL },
	{ "run/x", NULL, "BadPath", NULL },
	{ "/run/", NULL, "BadPath", NULL },
	{ "", NULL, "BadPath", NULL },
};

START_TEST(names_are_those_of_guests)
{
	_cleanup_(wish_done) struct handoff_wish wish = wish_built_in();
	_cleanup_(refusal_done) struct refusal refusal = {};
	char guest[UFD_NAME_BYTES];
	int r;

	wish.path = strdup(names[_i].path);
	wish.name = names[_i].name ? strdup(names[_i].name) : NULL;
	r = wish_check(&wish, &refusal);
	if (names[_i].error) {
		ck_assert_int_eq(r, -ECANCELED);
		ck_assert_ptr_nonnull(strstr(refusal.error, names[_i].error));
		return;
	}
	ck_assert_int_eq(r, 0);
	wish_guest_name(&wish, 7, guest);
	ck_assert_str_eq(guest, names[_i].guest);
}
END_TEST

START_TEST(the_longest_name_has_room_for_every_number)
{
	_cleanup_(wish_done) struct handoff_wish wish = wish_built_in();
	_cleanup_(refusal_done) struct refusal refusal = {};
	char guest[UFD_NAME_BYTES];

	wish.path = strdup("/run/x");
	wish.name = malloc(UFD_NAME_BYTES);
	memset(wish.name, 'a', UFD_NAME_BYTES);
	strcpy(wish.name + UFD_NAME_BYTES - 22, "%");
	ck_assert_int_eq(wish_check(&wish, &refusal), 0);
	wish_guest_name(&wish, UINT64_MAX, guest);
	ck_assert_ptr_nonnull(strstr(guest, "18446744073709551615"));
	strcpy(wish.name + UFD_NAME_BYTES - 22, "a%");
	ck_assert_int_eq(wish_check(&wish, &refusal), -ECANCELED);
}
END_TEST

/* ---- gathering ---- */

static struct gather gather;
static int other;

static void connect_pair(void)
{
	int pair[2];

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair),
			 0);
	gather_init(&gather, pair[0]);
	other = pair[1];
}

static void send_with(const char *text, size_t n_fds)
{
	char control[CMSG_SPACE(64 * sizeof(int))] = {};
	struct iovec piece = { .iov_base = (char *)text, .iov_len = strlen(text) };
	struct msghdr message = { .msg_iov = &piece, .msg_iovlen = 1 };
	struct cmsghdr *header;

	if (n_fds) {
		message.msg_control = control;
		message.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
		header = CMSG_FIRSTHDR(&message);
		header->cmsg_level = SOL_SOCKET;
		header->cmsg_type = SCM_RIGHTS;
		header->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
		for (size_t i = 0; i < n_fds; i++)
			memcpy(CMSG_DATA(header) + i * sizeof(int), &other, sizeof(int));
	}
	ck_assert_int_eq(sendmsg(other, &message, 0), (ssize_t)strlen(text));
}

START_TEST(pieces_and_their_fds_are_put_together)
{
	struct refusal refusal = {};

	connect_pair();
	ck_assert_int_eq(gather_read(&gather, &refusal), 0);
	ck_assert_uint_eq(gather.n_bytes, 0);
	send_with("ab", 1);
	send_with("cd", 2);
	ck_assert_int_eq(gather_read(&gather, &refusal), 0);
	ck_assert_uint_eq(gather.n_bytes, 4);
	ck_assert_mem_eq(gather.bytes, "abcd", 4);
	ck_assert_uint_eq(gather.n_fds, 3);
	ck_assert(fcntl(gather.fds[2], F_GETFD) & FD_CLOEXEC);
	ck_assert(!gather.is_ended);
	gather_shift(&gather, 3);
	ck_assert_uint_eq(gather.n_bytes, 1);
	ck_assert_uint_eq(gather.n_fds, 0);
	ck_assert_int_eq(gather.bytes[0], 'd');
	close(other);
	ck_assert_int_eq(gather_read(&gather, &refusal), 0);
	ck_assert(gather.is_ended);
	gather_done(&gather);
}
END_TEST

START_TEST(too_many_fds_are_refused_and_closed)
{
	_cleanup_(refusal_done) struct refusal refusal = {};

	connect_pair();
	send_with("x", FRONTEND_MAX_FDS + 1);
	ck_assert_int_eq(gather_read(&gather, &refusal), -ECANCELED);
	ck_assert_str_eq(refusal.error, "io.ufd.handoff.BadMessage");
	gather_done(&gather);
	close(other);
}
END_TEST

START_TEST(too_many_bytes_are_refused)
{
	_cleanup_(refusal_done) struct refusal refusal = {};
	char text[4097];
	int r = 0;

	memset(text, ' ', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	connect_pair();
	for (size_t n = 0; r == 0 && n <= 2 * FRONTEND_MAX_BYTES; n += sizeof(text) - 1) {
		send_with(text, 0);
		r = gather_read(&gather, &refusal);
	}
	ck_assert_int_eq(r, -ECANCELED);
	ck_assert_uint_le(gather.n_bytes, FRONTEND_MAX_BYTES + sizeof(text));
	gather_done(&gather);
	close(other);
}
END_TEST

int main(void)
{
	return unit_run("handoff", (struct unit_test[]){
					   UNIT(a_wish_comes_back_as_it_was),
					   UNIT(every_beginning_of_a_wish_is_none),
					   UNIT(what_a_later_release_adds_is_no_harm),
					   UNIT_TABLE(names_are_those_of_guests, names),
					   UNIT(the_longest_name_has_room_for_every_number),
					   UNIT(pieces_and_their_fds_are_put_together),
					   UNIT(too_many_fds_are_refused_and_closed),
					   UNIT(too_many_bytes_are_refused),
					   {},
				   });
}
