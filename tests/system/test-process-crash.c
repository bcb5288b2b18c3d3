/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ufdd killed at any moment of an attach: the target lives, and keeps nothing that nobody
 * confirmed. */
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "attach/inject.h"
#include "base/clock.h"
#include "kernel/pidfd.h"
#include "refusal.h"
#include "support/target-attach.h"
#include "support/target-busy.h"
#include "support/unit.h"

extern char **environ;

enum { N_KILLS = 100, N_KILLS_LEAST = 10, KILLS_S = 20, KILLS_SHORT_S = 5, SETTLE_S = 40 };

enum { NOBODY = 65534 };

static void become_nobody(void)
{
	if (setresuid(NOBODY, NOBODY, NOBODY) < 0)
		_exit(1);
}

static _Noreturn void play_ufdd(pid_t target, uint64_t *n_attached)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (;;) {
		struct process_attachment attachment = PROCESS_ATTACHMENT_NONE;
		struct refusal refusal = {};

		if (process_attach(target, &attach_opts, &attachment, &refusal) < 0)
			_exit(1);
		__atomic_fetch_add(n_attached, 1, __ATOMIC_RELAXED);
		if (process_detach(&attachment, &attach_opts, &refusal) < 0)
			_exit(1);
		process_attachment_done(&attachment);
	}
}

/* The process's userfaultfds; and how many fds it has in all. */
static size_t count_uffds(pid_t pid, size_t *ret_n_all)
{
	_cleanup_(freep) char *fds = NULL;
	size_t n = 0;

	fds = list_fds_of(pid, ret_n_all);
	for (const char *at = fds; (at = strstr(at, "[userfaultfd]")); at++)
		n++;
	return n;
}

/* Is a helper of ours still at work on this target? */
static bool is_traced(pid_t pid)
{
	_cleanup_(closep) int fd = -EBADF;
	char path[48], text[4096];
	bool is_any = false;
	struct dirent *entry;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	dir = opendir(path);
	ck_assert_ptr_nonnull(dir);
	while ((entry = readdir(dir))) {
		ssize_t n;

		closep(&fd);
		snprintf(text, sizeof(text), "%s/status", entry->d_name);
		fd = openat(dirfd(dir), text, O_RDONLY | O_CLOEXEC);
		n = entry->d_name[0] == '.' || fd < 0 ? 0 : read(fd, text, sizeof(text) - 1);
		text[n < 0 ? 0 : n] = '\0';
		is_any = is_any || (n > 0 && !strstr(text, "\nTracerPid:\t0"));
	}
	closedir(dir);
	return is_any;
}

/*
 * At most one copy may be left by each death: confirmed, and its owner died before it detached.
 * Whatever was not confirmed the helper takes back, and all else that it opened there.
 */
static void await_settled(pid_t pid, size_t n_others, size_t n_uffds_max)
{
	uint64_t deadline_ns = clock_now_ns() + SETTLE_S * NSEC_PER_SEC;
	size_t n_uffds, n_all;

	do {
		nanosleep(&(struct timespec){ .tv_nsec = NSEC_PER_MSEC }, NULL);
		n_uffds = count_uffds(pid, &n_all);
		ck_assert_msg(clock_now_ns() < deadline_ns,
			      "%zu userfaultfds of %zu, %zu other fds of %zu", n_uffds, n_uffds_max,
			      n_all - n_uffds, n_others);
	} while (is_traced(pid) || n_uffds > n_uffds_max || n_all - n_uffds != n_others);
}

static const struct {
	void (*prepare)(void);
} targets[] = {
	{ NULL },
	{ become_nobody },
};

START_TEST(a_target_survives_the_death_of_ufdd_at_any_moment)
{
	uint64_t *n_attached = mmap(NULL, sizeof(*n_attached), PROT_READ | PROT_WRITE,
				    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	unsigned int seed = time(NULL);
	uint64_t cycle_ns, kill_ns, enough_ns;
	size_t n_all, n_uffds;
	struct busy busy;

	ck_assert_ptr_ne(n_attached, MAP_FAILED);
	printf("# seed %u\n", seed);
	busy_start(&busy, BUSY_PPOLL, false, targets[_i].prepare);
	n_uffds = count_uffds(busy.pid, &n_all);
	ck_assert_uint_eq(n_uffds, 0);
	cycle_ns = clock_now_ns();
	attach_cycles(busy.pid, 4);
	cycle_ns = (clock_now_ns() - cycle_ns) / 4;
	/* a slow machine needs as much longer for each: fewer then, for a test has its time */
	enough_ns = clock_now_ns() +
		    (getenv("UFD_TEST_SHORT") ? KILLS_SHORT_S : KILLS_S) * NSEC_PER_SEC;
	for (int i = 0; i < N_KILLS && (i < N_KILLS_LEAST || clock_now_ns() < enough_ns); i++) {
		pid_t ufdd = fork();

		ck_assert_int_ge(ufdd, 0);
		if (ufdd == 0)
			play_ufdd(busy.pid, n_attached);
		kill_ns = (uint64_t)(2.0 * (double)cycle_ns * rand_r(&seed) / RAND_MAX);
		nanosleep(&(struct timespec){ (time_t)(kill_ns / NSEC_PER_SEC),
					      (long)(kill_ns % NSEC_PER_SEC) },
			  NULL);
		kill(ufdd, SIGKILL);
		ck_assert_int_eq(waitpid(ufdd, NULL, 0), ufdd);
		await_settled(busy.pid, n_all, n_uffds + 1);
		n_uffds = count_uffds(busy.pid, &(size_t){ 0 });
	}
	ck_assert_uint_gt(*n_attached, 0);
	attach_cycles(busy.pid, 5);
	await_settled(busy.pid, n_all, n_uffds);
	busy_done(&busy);
}
END_TEST

/* The helper, spoken to as process_attach() does, but left alone at a chosen point. */
static int start_helper(void)
{
	char *const arguments[] = { (char *)attach_opts.helper, NULL };
	posix_spawn_file_actions_t actions;
	int pair[2];
	pid_t pid;

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, pair[1], STDIN_FILENO);
	ck_assert_int_eq(posix_spawn(&pid, arguments[0], &actions, NULL, arguments, environ), 0);
	posix_spawn_file_actions_destroy(&actions);
	close(pair[1]);
	ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
	return pair[0];
}

static void ask(int socket, pid_t pid)
{
	const struct inject_request request = {
		.version = INJECT_VERSION,
		.verb = INJECT_CREATE,
		.pid = pid,
		.remote_fd = -1,
		.deadline_ns = clock_now_ns() + SETTLE_S * NSEC_PER_SEC,
	};
	int pidfd;

	ck_assert_int_eq(pidfd_open_pid(&pidfd, pid), 0);
	ck_assert_int_eq(inject_send(socket, &request, sizeof(request), &pidfd, 1), 0);
	close(pidfd);
}

START_TEST(what_nobody_confirms_is_taken_back)
{
	struct busy busy;
	size_t n_all;

	busy_start(&busy, BUSY_PPOLL, false, NULL);
	count_uffds(busy.pid, &n_all);
	for (int i = 0; i < 5; i++) {
		struct inject_reply reply;
		int uffd, socket = start_helper();

		ask(socket, busy.pid);
		ck_assert_int_eq(inject_receive(socket, &reply, sizeof(reply), &uffd, 1,
						clock_now_ns() + SETTLE_S * NSEC_PER_SEC),
				 0);
		ck_assert_int_eq(reply.outcome, _INJECT_DONE);
		ck_assert_uint_eq(count_uffds(busy.pid, &(size_t){ 0 }), 1);
		close(uffd);
		close(socket);
		await_settled(busy.pid, n_all, 0);
	}
	busy_done(&busy);
}
END_TEST

/* Whoever asked is gone before the helper has begun. */
START_TEST(a_request_of_the_dead_leaves_nothing)
{
	struct busy busy;
	size_t n_all;

	busy_start(&busy, BUSY_PPOLL, false, NULL);
	count_uffds(busy.pid, &n_all);
	for (int i = 0; i < 10; i++) {
		int socket = start_helper();

		ask(socket, busy.pid);
		close(socket);
		attach_cycles(busy.pid, 1);
	}
	await_settled(busy.pid, n_all, 0);
	busy_done(&busy);
}
END_TEST

int main(void)
{
	return unit_run(
		"process-crash",
		(struct unit_test[]){
			UNIT_TABLE(a_target_survives_the_death_of_ufdd_at_any_moment, targets),
			UNIT(what_nobody_confirms_is_taken_back),
			UNIT(a_request_of_the_dead_leaves_nothing),
			{},
		});
}
