/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Processes by fd. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "kernel/pidfd.h"
#include "support/unit.h"

/* A process that does nothing until it is killed. */
static pid_t start_idler(void)
{
	pid_t pid = fork();

	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
	return pid;
}

START_TEST(a_process_is_alive_until_it_ends_reaped_or_not)
{
	_cleanup_(closep) int fd = -EBADF;
	pid_t pid = start_idler(), found = 0;
	struct pollfd end = { .events = POLLIN };
	siginfo_t info;

	ck_assert_int_eq(pidfd_open_pid(&fd, pid), 0);
	ck_assert(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	ck_assert_int_eq(pidfd_get_pid(fd, &found), 0);
	ck_assert_int_eq(found, pid);
	ck_assert(pidfd_is_alive(fd));

	ck_assert_int_eq(pidfd_kill(fd, SIGKILL), 0);
	end.fd = fd;
	ck_assert_int_eq(poll(&end, 1, 20000), 1);
	ck_assert(!pidfd_is_alive(fd));
	ck_assert_int_eq(waitid(P_PID, (id_t)pid, &info, WEXITED), 0);
	ck_assert(!pidfd_is_alive(fd));

	found = 42;
	ck_assert_int_eq(pidfd_get_pid(fd, &found), -ESRCH);
	ck_assert_int_eq(found, 42);
	ck_assert_int_eq(pidfd_kill(fd, SIGKILL), -ESRCH);
}
END_TEST

/* Also a zombie has its number still, and the moment when it began. */
START_TEST(a_process_has_begun_at_one_moment)
{
	uint64_t own = 0, ticks = 0, again = 0;
	pid_t pid = start_idler();
	siginfo_t info;

	/* a name with all that ends names */
	ck_assert_int_eq(prctl(PR_SET_NAME, ") R 1 (x"), 0);
	ck_assert_int_eq(pidfd_start_ticks(getpid(), &own), 0);
	ck_assert_int_eq(pidfd_start_ticks(pid, &ticks), 0);
	ck_assert_uint_ge(ticks, own);
	ck_assert_uint_lt(ticks - own, 60 * (uint64_t)sysconf(_SC_CLK_TCK));
	ck_assert_int_eq(kill(pid, SIGKILL), 0);
	ck_assert_int_eq(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
	ck_assert_int_eq(pidfd_start_ticks(pid, &again), 0);
	ck_assert_uint_eq(again, ticks);
	ck_assert_int_eq(waitid(P_PID, (id_t)pid, &info, WEXITED), 0);
	ck_assert_int_eq(pidfd_start_ticks(pid, &again), -ESRCH);
}
END_TEST

START_TEST(what_is_no_process_is_told)
{
	_cleanup_(closep) int other = open("/dev/null", O_RDONLY | O_CLOEXEC);
	pid_t pid = start_idler(), found;
	int fd = 42;

	kill(pid, SIGKILL);
	ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
	ck_assert_int_eq(pidfd_open_pid(&fd, pid), -ESRCH);
	ck_assert_int_eq(fd, 42);
	ck_assert_int_eq(pidfd_get_pid(other, &found), -EBADFD);
	ck_assert_int_eq(pidfd_get_pid(1000, &found), -EBADF);
}
END_TEST

START_TEST(an_fd_of_another_process_is_the_same_file)
{
	_cleanup_(closep) int fd = -EBADF, ours = -EBADF, theirs = -EBADF;
	int ends[2], copy = 42;
	pid_t pid;
	char byte = 0;

	ck_assert_int_eq(pipe2(ends, O_CLOEXEC), 0);
	pid = start_idler();
	ours = ends[0];
	close(ends[1]);

	ck_assert_int_eq(pidfd_open_pid(&fd, pid), 0);
	ck_assert_int_eq(pidfd_get_fd(fd, ends[1], &theirs), 0);
	ck_assert(fcntl(theirs, F_GETFD) & FD_CLOEXEC);
	ck_assert_int_eq(write(theirs, "x", 1), 1);
	ck_assert_int_eq(read(ours, &byte, 1), 1);
	ck_assert_int_eq(byte, 'x');

	ck_assert_int_eq(pidfd_get_fd(fd, 1000, &copy), -EBADF);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	ck_assert_int_eq(pidfd_get_fd(fd, ends[0], &copy), -ESRCH);
	ck_assert_int_eq(copy, 42);
}
END_TEST

/* A process that connects to a server of ours, and then does nothing. */
static pid_t connect_idler(int *ret_socket)
{
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr address = { .sa_family = AF_UNIX }; /* a free abstract one is chosen */
	struct sockaddr_storage name;
	socklen_t n_name = sizeof(name);
	pid_t pid;

	ck_assert_int_eq(bind(listener, &address, sizeof(address.sa_family)), 0);
	ck_assert_int_eq(listen(listener, 1), 0);
	ck_assert_int_eq(getsockname(listener, (struct sockaddr *)&name, &n_name), 0);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		int client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (connect(client, (struct sockaddr *)&name, n_name) < 0)
			_exit(1);
		for (;;)
			pause();
	}
	*ret_socket = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	ck_assert_int_ge(*ret_socket, 0);
	close(listener);
	return pid;
}

START_TEST(the_peer_of_a_socket_is_known_and_a_reaped_one_is_gone)
{
	_cleanup_(closep) int peer = -EBADF, pidfd = -EBADF;
	pid_t pid = connect_idler(&peer), found = 0;
	uid_t uid = 1;
	gid_t gid = 1;
	int again = -EBADF, r;

	ck_assert_int_eq(pidfd_of_peer(peer, &pidfd, &found, &uid, &gid), 0);
	ck_assert_int_eq(found, pid);
	ck_assert_uint_eq(uid, geteuid());
	ck_assert_uint_eq(gid, getegid());
	ck_assert(fcntl(pidfd, F_GETFD) & FD_CLOEXEC);
	ck_assert(pidfd_is_alive(pidfd));
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	ck_assert(!pidfd_is_alive(pidfd));

	/* newer kernels hand out pidfds of reaped processes */
	r = pidfd_of_peer(peer, &again, &found, &uid, &gid);
	ck_assert(r == -ESRCH || (r == 0 && !pidfd_is_alive(again)));
	if (r == 0)
		close(again);
}
END_TEST

START_TEST(what_is_no_socket_has_no_peer)
{
	_cleanup_(closep) int other = open("/dev/null", O_RDONLY | O_CLOEXEC);
	int pidfd = 42;
	pid_t pid;
	uid_t uid;
	gid_t gid;

	ck_assert_int_eq(pidfd_of_peer(other, &pidfd, &pid, &uid, &gid), -ENOTSOCK);
	ck_assert_int_eq(pidfd, 42);
}
END_TEST

int main(void)
{
	return unit_run("pidfd",
			(struct unit_test[]){
				UNIT(a_process_is_alive_until_it_ends_reaped_or_not),
				UNIT(a_process_has_begun_at_one_moment),
				UNIT(what_is_no_process_is_told),
				UNIT(an_fd_of_another_process_is_the_same_file),
				UNIT(the_peer_of_a_socket_is_known_and_a_reaped_one_is_gone),
				UNIT(what_is_no_socket_has_no_peer),
				{},
			});
}
