/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Listening sockets that outlive us. */
#include "store/sockets.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "store/store.h"
#include "support/unit.h"

static char folder[] = "/tmp/ufd-sockets-XXXXXX";

static int open_folder(void)
{
	int fd;

	ck_assert_ptr_nonnull(mkdtemp(folder));
	fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ck_assert_int_ge(fd, 0);
	return fd;
}

static int listening(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX }; /* a name that the kernel finds */
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	ck_assert_int_eq(bind(fd, (struct sockaddr *)&address, sizeof(sa_family_t)), 0);
	ck_assert_int_eq(listen(fd, 1), 0);
	return fd;
}

START_TEST(a_folder_keeps_texts_and_counts)
{
	_cleanup_(sockets_freep) struct sockets *first = NULL, *second = NULL, *third = NULL;
	_cleanup_(closep) int shelf = open_folder(), fd = listening();
	struct stored_socket *stored = NULL;
	uint32_t a = 9, b = 9;
	size_t n = 0;

	ck_assert_int_eq(sockets_new(&first, shelf, false), 0);
	ck_assert_int_eq(sockets_keep(first, fd, "{\"a\":1}", 0, &a), 0);
	ck_assert_int_eq(sockets_keep(first, fd, "{\"b\":2}", 5, &b), 0);
	ck_assert_uint_ne(a, b);
	sockets_count(first, b, UINT64_MAX);
	sockets_drop(first, a);

	ck_assert_int_eq(sockets_new(&second, shelf, false), 0);
	ck_assert_int_eq(sockets_take(second, &stored, &n), 0);
	ck_assert_uint_eq(n, 1);
	ck_assert_str_eq(stored[0].text, "{\"b\":2}");
	ck_assert_uint_eq(stored[0].count, UINT64_MAX);
	ck_assert_int_lt(stored[0].fd, 0); /* no file holds a socket */
	stored_sockets_free(stored, n);
	sockets_drop(second, b);

	ck_assert_int_eq(sockets_new(&third, shelf, false), 0);
	ck_assert_int_eq(sockets_take(third, &stored, &n), 0);
	ck_assert_uint_eq(n, 0);
	stored_sockets_free(stored, n);
	ck_assert_int_eq(rmdir(folder), 0);
}
END_TEST

START_TEST(a_successor_gets_the_socket_itself)
{
	_cleanup_(sockets_freep) struct sockets *first = NULL, *second = NULL;
	_cleanup_(closep) int fd = listening();
	struct store_fd list[2];
	struct stored_socket *stored = NULL;
	size_t n = 0, n_fds = 0, n_bytes = 0;
	uint32_t number;
	int is = 0;
	socklen_t n_is = sizeof(is);

	ck_assert_int_eq(sockets_new(&first, -EBADF, false), 0);
	ck_assert_int_eq(sockets_keep(first, fd, "text", 3, &number), 0);
	sockets_add_up(first, &n_fds, &n_bytes);
	ck_assert_uint_eq(n_fds, 0); /* no manager keeps it */
	ck_assert_uint_eq(sockets_n(first), 1);
	ck_assert_uint_eq(sockets_list(first, list), 2);

	ck_assert_int_eq(sockets_new(&second, -EBADF, false), 0);
	ck_assert(!sockets_offer(second, "l0", -1));
	ck_assert(!sockets_offer(second, "handoff-x", -1));
	for (size_t i = 0; i < 2; i++) {
		ck_assert_uint_le(strlen(list[i].name), 5);
		ck_assert(sockets_offer(second, list[i].name, dup(list[i].fd)));
	}
	ck_assert_int_eq(sockets_take(second, &stored, &n), 0);
	ck_assert_uint_eq(n, 1);
	ck_assert_str_eq(stored[0].text, "text");
	ck_assert_uint_eq(stored[0].count, 3);
	ck_assert_int_eq(getsockopt(stored[0].fd, SOL_SOCKET, SO_ACCEPTCONN, &is, &n_is), 0);
	ck_assert_int_eq(is, 1);
	stored_sockets_free(stored, n);
}
END_TEST

START_TEST(what_is_none_is_forgotten)
{
	_cleanup_(sockets_freep) struct sockets *sockets = NULL;
	_cleanup_(closep) int shelf = open_folder();
	struct stored_socket *stored = NULL;
	size_t n = 9;
	int fd;

	fd = openat(shelf, "0.handoff", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	ck_assert_int_eq(write(fd, "7\nhalf", 6), 6);
	close(fd);
	ck_assert_int_eq(sockets_new(&sockets, shelf, false), 0);
	ck_assert(sockets_offer(sockets, "h1", dup(shelf))); /* no socket at all */
	ck_assert_int_eq(sockets_take(sockets, &stored, &n), 0);
	ck_assert_uint_eq(n, 0);
	ck_assert_int_ne(faccessat(shelf, "0.handoff", F_OK, 0), 0);
	stored_sockets_free(stored, n);
	ck_assert_int_eq(rmdir(folder), 0);
}
END_TEST

int main(void)
{
	return unit_run("sockets", (struct unit_test[]){
					   UNIT(a_folder_keeps_texts_and_counts),
					   UNIT(a_successor_gets_the_socket_itself),
					   UNIT(what_is_none_is_forgotten),
					   {},
				   });
}
