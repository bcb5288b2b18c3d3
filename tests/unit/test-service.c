/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The service manager, played by a socket and the environment. */
#include "service.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "base/units.h"
#include "log.h"
#include "support/unit.h"

#define N_FDS 3

/* An abstract address, so that nothing is left; the test's pid makes it its own. */
static int manager_new(void)
{
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	char variable[64];
	int n;

	snprintf(variable, sizeof(variable), "@ufd-test-service-%d", getpid());
	setenv("NOTIFY_SOCKET", variable, 1);
	n = snprintf(address.sun_path + 1, sizeof(address.sun_path) - 1, "%s", variable + 1);
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&address,
			      (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + n)),
			 0);
	return fd;
}

/* The next message, or "" if there is none yet. */
static const char *manager_hear(int fd)
{
	static char text[1024];
	ssize_t n = recv(fd, text, sizeof(text) - 1, MSG_DONTWAIT);

	text[n > 0 ? n : 0] = '\0';
	return text;
}

START_TEST(each_word_is_told_as_the_manager_wants_it)
{
	int manager = manager_new();

	service_ready();
	ck_assert_str_eq(manager_hear(manager), "READY=1\nWATCHDOG=1");
	service_status("serving %d guests", 3);
	ck_assert_str_eq(manager_hear(manager), "STATUS=serving 3 guests");
	service_reloading();
	ck_assert_ptr_nonnull(strstr(manager_hear(manager), "RELOADING=1\nMONOTONIC_USEC="));
	service_stopping();
	ck_assert_str_eq(manager_hear(manager), "STOPPING=1");
	service_extend(2 * NSEC_PER_SEC);
	ck_assert_str_eq(manager_hear(manager), "EXTEND_TIMEOUT_USEC=2000000");
	close(manager);
}
END_TEST

/* ---- the watchdog ---- */

static int answer_from(void *userdata, const char **ret_what)
{
	*ret_what = "guest";
	return *(int *)userdata;
}

static int end_soon(struct event_base *base)
{
	const struct timeval soon = { .tv_usec = 60000 };

	return event_base_loopexit(base, &soon);
}

/* Runs the loop for three of its terms. Return: has the watchdog been fed? */
static bool is_fed(int is_alive, const char *pid)
{
	_cleanup_(service_freep) struct service *service = NULL;
	struct event_base *base = event_base_new();
	int manager = manager_new();
	bool is_heard;

	setenv("WATCHDOG_USEC", "40000", 1);
	setenv("WATCHDOG_PID", pid, 1);
	ck_assert_int_eq(service_new(&service, base, answer_from, &is_alive), 0);
	ck_assert_int_eq(end_soon(base), 0);
	event_base_dispatch(base);
	is_heard = strcmp(manager_hear(manager), "WATCHDOG=1") == 0;
	service = service_free(service);
	event_base_free(base);
	close(manager);
	return is_heard;
}

START_TEST(the_watchdog_is_fed_while_everything_turns)
{
	char pid[16];

	snprintf(pid, sizeof(pid), "%d", getpid());
	ck_assert(is_fed(1, pid));
	ck_assert(!is_fed(0, pid));
}
END_TEST

START_TEST(a_watchdog_of_another_process_is_not_ours)
{
	ck_assert(!is_fed(1, "1"));
}
END_TEST

/* ---- fds ---- */

struct taking {
	const char *wanted;
	int result;
	char names[64];
};

static int take(void *userdata, const char *name, int fd)
{
	struct taking *taking = userdata;

	strcat(strcat(taking->names, name), " ");
	if (strcmp(name, taking->wanted) != 0)
		return 0;
	if (taking->result < 0)
		close(fd);
	return taking->result;
}

static bool is_open(int fd)
{
	return fcntl(fd, F_GETFD) >= 0;
}

/* In a process that ends, for the first fds are the test's own. Exit status: 0, or where it failed. */
static _Noreturn void offer(int result, int expected, const char *names)
{
	struct taking taking = { .wanted = "varlink", .result = result };
	char pid[16];

	for (int fd = SD_LISTEN_FDS_START; fd < SD_LISTEN_FDS_START + N_FDS; fd++)
		if (dup2(STDIN_FILENO, fd) < 0)
			_exit(1);
	snprintf(pid, sizeof(pid), "%d", getpid());
	setenv("LISTEN_PID", pid, 1);
	setenv("LISTEN_FDS", "3", 1);
	setenv("LISTEN_FDNAMES", "l0:varlink:odd", 1);
	log_set_level(LOG_LEVEL_ERROR);
	if (service_take_fds(take, &taking) != expected)
		_exit(2);
	if (strcmp(taking.names, names) != 0)
		_exit(3);
	if (is_open(SD_LISTEN_FDS_START) || is_open(SD_LISTEN_FDS_START + 2))
		_exit(4);
	_exit(is_open(SD_LISTEN_FDS_START + 1) == (result > 0) ? 0 : 5);
}

static int offered(int result, int expected, const char *names)
{
	pid_t pid = fork();
	int status = -1;

	if (pid == 0)
		offer(result, expected, names);
	waitpid(pid, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

START_TEST(each_fd_is_offered_by_its_name_and_what_is_left_is_closed)
{
	ck_assert_int_eq(offered(1, 0, "l0 varlink odd "), 0);
}
END_TEST

START_TEST(after_a_failure_the_rest_is_closed_unseen)
{
	ck_assert_int_eq(offered(-EMFILE, -EMFILE, "l0 varlink "), 0);
}
END_TEST

int main(void)
{
	return unit_run("service",
			(struct unit_test[]){
				UNIT(each_word_is_told_as_the_manager_wants_it),
				UNIT(the_watchdog_is_fed_while_everything_turns),
				UNIT(a_watchdog_of_another_process_is_not_ours),
				UNIT(each_fd_is_offered_by_its_name_and_what_is_left_is_closed),
				UNIT(after_a_failure_the_rest_is_closed_unseen),
				{},
			});
}
