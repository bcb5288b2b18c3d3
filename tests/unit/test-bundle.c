/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Bundles: what is in them, after every way to be interrupted. */
#include "store/bundle.h"

#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "support/unit.h"

/* A handle whose fd can be told from others: an eventfd with this value in it. */
static struct ufd_handle make_handle(uint32_t id)
{
	struct ufd_handle handle = { .kind = UFD_HANDLE_BACKING, .id = id };

	handle.fd = eventfd(id + 1, EFD_CLOEXEC | EFD_NONBLOCK);
	ck_assert_int_ge(handle.fd, 0);
	return handle;
}

static void make_handles(struct ufd_handle *handles, uint32_t first, size_t n)
{
	for (size_t i = 0; i < n; i++)
		handles[i] = make_handle(first + (uint32_t)i);
}

/* Is it the one made by make_handle(@id)? */
static void check_handle(const struct ufd_handle *handle, uint32_t id)
{
	const uint64_t again = id + 1;
	uint64_t value = 0;

	ck_assert_uint_eq(handle->kind, UFD_HANDLE_BACKING);
	ck_assert_uint_eq(handle->id, id);
	ck_assert_int_eq(read(handle->fd, &value, sizeof(value)), sizeof(value));
	ck_assert_uint_eq(value, id + 1);
	ck_assert_int_eq(write(handle->fd, &again, sizeof(again)), sizeof(again));
	ck_assert_int_ne(fcntl(handle->fd, F_GETFD) & FD_CLOEXEC, 0);
}

/* The bundle holds handles @first to @first + @n. */
static void check_bundle(int bundle, uint32_t first, size_t n)
{
	struct ufd_handle found[UFD_MAX_HANDLES];
	size_t n_found = 0;

	ck_assert_int_eq(bundle_read(bundle, found, &n_found), 0);
	ck_assert_uint_eq(n_found, n);
	for (size_t i = 0; i < n; i++)
		check_handle(&found[i], first + (uint32_t)i);
	bundle_close_handles(found, n_found);
}

static const struct {
	const char *what;
	size_t n;
} sizes[] = {
	{ "none", 0 },
	{ "one", 1 },
	{ "a usual guest's", 4 },
	{ "as many as there can be", 160 },
};

START_TEST(what_was_written_is_read_any_number_of_times)
{
	struct ufd_handle handles[UFD_MAX_HANDLES];
	_cleanup_(closep) int bundle = -EBADF;

	ck_assert_int_eq(bundle_new(&bundle), 0);
	make_handles(handles, 7, sizes[_i].n);
	ck_assert_int_eq(bundle_write(bundle, handles, sizes[_i].n), 0);
	bundle_close_handles(handles, sizes[_i].n); /* the bundle has references of its own */
	for (int turn = 0; turn < 3; turn++)
		check_bundle(bundle, 7, sizes[_i].n);
}
END_TEST

START_TEST(a_new_set_replaces_the_old_one)
{
	struct ufd_handle handles[8];
	_cleanup_(closep) int bundle = -EBADF;

	ck_assert_int_eq(bundle_new(&bundle), 0);
	for (uint32_t turn = 0; turn < 100; turn++) {
		make_handles(handles, turn, 8);
		ck_assert_int_eq(bundle_write(bundle, handles, 1 + turn % 8), 0);
		bundle_close_handles(handles, 8);
		check_bundle(bundle, turn, 1 + turn % 8);
	}
	/* one message is left, not a hundred */
	ck_assert_int_ge(recv(bundle, NULL, 0, MSG_DONTWAIT), 0);
	ck_assert_int_lt(recv(bundle, NULL, 0, MSG_DONTWAIT), 0);
}
END_TEST

START_TEST(a_replaced_fd_is_let_go)
{
	struct ufd_handle handle = { .kind = UFD_HANDLE_SOURCE };
	_cleanup_(closep) int bundle = -EBADF;
	int pipe_fds[2];
	char byte;

	ck_assert_int_eq(bundle_new(&bundle), 0);
	ck_assert_int_eq(pipe2(pipe_fds, O_CLOEXEC | O_NONBLOCK), 0);
	handle.fd = pipe_fds[1];
	ck_assert_int_eq(bundle_write(bundle, &handle, 1), 0);
	close(pipe_fds[1]);
	ck_assert_int_eq(read(pipe_fds[0], &byte, 1), -1); /* EAGAIN: a writer is left */
	ck_assert_int_eq(bundle_write(bundle, NULL, 0), 0);
	ck_assert_int_eq(read(pipe_fds[0], &byte, 1), 0);
	close(pipe_fds[0]);
}
END_TEST

/* As a process leaves it that is killed between sending the new message and taking the old one off. */
static void append_by_hand(int bundle, const struct ufd_handle *handles, size_t n)
{
	_cleanup_(closep) int other = -EBADF;
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(8 * sizeof(int))];
	} control = {};
	char text[512];
	struct iovec part = { .iov_base = text, .iov_len = sizeof(text) };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
	int fds[8];
	ssize_t length;

	/* what a message looks like, another bundle tells */
	ck_assert_int_eq(bundle_new(&other), 0);
	ck_assert_int_eq(bundle_write(other, handles, n), 0);
	length = recv(other, text, sizeof(text), MSG_DONTWAIT);
	ck_assert_int_gt(length, 0);
	part.iov_len = (size_t)length;
	for (size_t i = 0; i < n; i++)
		fds[i] = handles[i].fd;
	message.msg_control = &control;
	message.msg_controllen = CMSG_SPACE(n * sizeof(int));
	control.header.cmsg_level = SOL_SOCKET;
	control.header.cmsg_type = SCM_RIGHTS;
	control.header.cmsg_len = CMSG_LEN(n * sizeof(int));
	memcpy(CMSG_DATA(&control.header), fds, n * sizeof(int));
	ck_assert_int_eq(sendmsg(bundle, &message, 0), length);
}

START_TEST(of_two_messages_after_a_crash_the_last_counts)
{
	struct ufd_handle old[2], new[3];
	_cleanup_(closep) int bundle = -EBADF;

	ck_assert_int_eq(bundle_new(&bundle), 0);
	make_handles(old, 10, 2);
	make_handles(new, 20, 3);
	ck_assert_int_eq(bundle_write(bundle, old, 2), 0);
	append_by_hand(bundle, new, 3);
	check_bundle(bundle, 20, 3);
	check_bundle(bundle, 20, 3); /* to look takes nothing off */

	/* and the next change takes both off */
	ck_assert_int_eq(bundle_write(bundle, old, 2), 0);
	check_bundle(bundle, 10, 2);
	ck_assert_int_ge(recv(bundle, NULL, 0, MSG_DONTWAIT), 0);
	ck_assert_int_lt(recv(bundle, NULL, 0, MSG_DONTWAIT), 0);
	bundle_close_handles(old, 2);
	bundle_close_handles(new, 3);
}
END_TEST

/* Where a dead reader was in the queue is remembered by the socket. */
START_TEST(a_reader_that_was_killed_leaves_no_trace)
{
	struct ufd_handle handles[3];
	_cleanup_(closep) int bundle = -EBADF;
	char text[512];
	int zero = 0;

	ck_assert_int_eq(bundle_new(&bundle), 0);
	make_handles(handles, 3, 3);
	ck_assert_int_eq(bundle_write(bundle, handles, 3), 0);
	ck_assert_int_eq(setsockopt(bundle, SOL_SOCKET, SO_PEEK_OFF, &zero, sizeof(zero)), 0);
	ck_assert_int_gt(recv(bundle, text, 5, MSG_PEEK | MSG_DONTWAIT), 0);
	check_bundle(bundle, 3, 3);

	ck_assert_int_eq(setsockopt(bundle, SOL_SOCKET, SO_PEEK_OFF, &zero, sizeof(zero)), 0);
	ck_assert_int_gt(recv(bundle, text, 5, MSG_PEEK | MSG_DONTWAIT), 0);
	ck_assert_int_eq(bundle_write(bundle, handles, 2), 0);
	check_bundle(bundle, 3, 2);
	bundle_close_handles(handles, 3);
}
END_TEST

START_TEST(it_outlives_the_process_that_wrote_it)
{
	_cleanup_(closep) int bundle = -EBADF;
	int status = -1;
	pid_t pid;

	ck_assert_int_eq(bundle_new(&bundle), 0);
	pid = fork();
	if (pid == 0) {
		struct ufd_handle handles[4];

		make_handles(handles, 30, 4);
		_exit(bundle_write(bundle, handles, 4) ? 1 : 0);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
	check_bundle(bundle, 30, 4);
}
END_TEST

START_TEST(nobody_else_can_send_into_it)
{
	struct sockaddr_un name = {};
	socklen_t length = sizeof(name);
	struct ufd_handle handle = make_handle(5);
	_cleanup_(closep) int bundle = -EBADF, foreign = -EBADF;

	ck_assert_int_eq(bundle_new(&bundle), 0);
	ck_assert_int_eq(bundle_write(bundle, &handle, 1), 0);
	ck_assert_int_eq(getsockname(bundle, (struct sockaddr *)&name, &length), 0);
	foreign = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	ck_assert_int_ge(foreign, 0);
	ck_assert_int_eq(sendto(foreign, "evil", 4, 0, (struct sockaddr *)&name, length), -1);
	ck_assert_int_eq(errno, EPERM);
	ck_assert_int_eq(connect(foreign, (struct sockaddr *)&name, length), -1);
	check_bundle(bundle, 5, 1);
	bundle_close_handles(&handle, 1);
}
END_TEST

static const struct {
	const char *what;
	const char *text;
	size_t n_text;
} nonsense[] = {
	{ "an empty message", "", 0 },
	{ "too short for a head", "dub", 3 },
	{ "another magic", "xxxxyyyyzzzzaaaa", 16 },
	{ "handles without fds", "dub1\1\0\0\0\1\0\0\0\0\0\0\0", 16 },
	{ "more handles than there can be", "dub1\377\377\377\377", 8 },
};

/* Somebody who inherited the socket may send what he likes: it is refused whole, never guessed. */
START_TEST(what_is_no_message_of_ours_is_refused)
{
	struct ufd_handle found[UFD_MAX_HANDLES];
	_cleanup_(closep) int bundle = -EBADF;
	size_t n = 77;

	ck_assert_int_eq(bundle_new(&bundle), 0);
	ck_assert_int_eq(send(bundle, nonsense[_i].text, nonsense[_i].n_text, 0),
			 (ssize_t)nonsense[_i].n_text);
	ck_assert_msg(bundle_read(bundle, found, &n) == -EBADMSG, "%s", nonsense[_i].what);
	ck_assert_uint_eq(n, 77);
}
END_TEST

START_TEST(an_endless_queue_is_refused)
{
	struct ufd_handle found[UFD_MAX_HANDLES], handle = make_handle(1);
	_cleanup_(closep) int bundle = -EBADF;
	size_t n;

	ck_assert_int_eq(bundle_new(&bundle), 0);
	for (int i = 0; i < 100; i++)
		append_by_hand(bundle, &handle, 1);
	ck_assert_int_eq(bundle_read(bundle, found, &n), -EBADMSG);
	bundle_close_handles(&handle, 1);
}
END_TEST

START_TEST(one_that_was_never_written_has_nothing)
{
	struct ufd_handle found[UFD_MAX_HANDLES];
	_cleanup_(closep) int bundle = -EBADF;
	size_t n;

	ck_assert_int_eq(bundle_new(&bundle), 0);
	ck_assert_int_eq(bundle_read(bundle, found, &n), -ENODATA);
}
END_TEST

START_TEST(without_room_for_its_fds_it_is_not_read_in_part)
{
	struct ufd_handle handles[16], found[UFD_MAX_HANDLES];
	_cleanup_(closep) int bundle = -EBADF;
	struct rlimit limit, few;
	size_t n = 77;

	ck_assert_int_eq(bundle_new(&bundle), 0);
	make_handles(handles, 0, 16);
	ck_assert_int_eq(bundle_write(bundle, handles, 16), 0);
	getrlimit(RLIMIT_NOFILE, &limit);
	few = limit;
	few.rlim_cur = (rlim_t)handles[15].fd + 4;
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &few), 0);
	ck_assert_int_eq(bundle_read(bundle, found, &n), -EMFILE);
	ck_assert_uint_eq(n, 77);
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
	check_bundle(bundle, 0, 16);
	bundle_close_handles(handles, 16);
}
END_TEST

START_TEST(a_set_that_cannot_be_sent_leaves_the_old_one)
{
	struct ufd_handle handles[2];
	_cleanup_(closep) int bundle = -EBADF;

	ck_assert_int_eq(bundle_new(&bundle), 0);
	make_handles(handles, 0, 2);
	ck_assert_int_eq(bundle_write(bundle, handles, 2), 0);
	ck_assert_int_eq(bundle_write(bundle, handles, UFD_MAX_HANDLES + 1), -ENOSPC);
	close(handles[1].fd);
	handles[1].fd = 9999;
	ck_assert_int_eq(bundle_write(bundle, handles, 2), -EBADF);
	check_bundle(bundle, 0, 2);
	close(handles[0].fd);
}
END_TEST

START_TEST(other_fds_are_no_bundles)
{
	_cleanup_(closep) int bundle = -EBADF, file = -EBADF, lone = -EBADF;
	int pair[2];

	ck_assert_int_eq(bundle_new(&bundle), 0);
	file = open("/dev/null", O_RDWR | O_CLOEXEC);
	lone = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, pair), 0);
	ck_assert(bundle_is(bundle));
	ck_assert(!bundle_is(file));
	ck_assert(!bundle_is(lone));
	ck_assert(!bundle_is(pair[0]));
	ck_assert(!bundle_is(-1));
	close(pair[0]);
	close(pair[1]);
}
END_TEST

int main(void)
{
	return unit_run("bundle",
			(struct unit_test[]){
				UNIT_TABLE(what_was_written_is_read_any_number_of_times, sizes),
				UNIT(a_new_set_replaces_the_old_one),
				UNIT(a_replaced_fd_is_let_go),
				UNIT(of_two_messages_after_a_crash_the_last_counts),
				UNIT(a_reader_that_was_killed_leaves_no_trace),
				UNIT(it_outlives_the_process_that_wrote_it),
				UNIT(nobody_else_can_send_into_it),
				UNIT_TABLE(what_is_no_message_of_ours_is_refused, nonsense),
				UNIT(an_endless_queue_is_refused),
				UNIT(one_that_was_never_written_has_nothing),
				UNIT(without_room_for_its_fds_it_is_not_read_in_part),
				UNIT(a_set_that_cannot_be_sent_leaves_the_old_one),
				UNIT(other_fds_are_no_bundles),
				{},
			});
}
