/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Starting ufdd-offload, and what it says until its guest runs. */
#include "offload/start.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "job.h"
#include "kernel/pidfd.h"
#include "offload/message.h"
#include "offload/offloads.h"
#include "refusal.h"

#define PATH_BYTES 4096
#define SLICE_MS   200

extern char **environ;

/* In the tree it was built in, its program lies beside ours. */
static bool find_beside_us(char *path, size_t n_path)
{
	char self[PATH_BYTES];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *slash;

	if (n < 0)
		return false;
	self[n] = '\0';
	slash = strrchr(self, '/');
	if (!slash)
		return false;
	*slash = '\0';
	return snprintf(path, n_path, "%s/offload/ufdd-offload", self) < (int)n_path &&
	       access(path, X_OK) == 0;
}

static void find_program(char *path, size_t n_path)
{
	const char *known = getenv("UFDD_OFFLOAD");

	if (known || !find_beside_us(path, n_path))
		snprintf(path, n_path, "%s", known ? known : UFDD_OFFLOAD_PATH);
}

static int spawn_with(char *const *arguments, int in, posix_spawn_file_actions_t *actions,
		      pid_t *ret_pid)
{
	char path[PATH_BYTES];
	int r;

	find_program(path, sizeof(path));
	r = posix_spawn_file_actions_adddup2(actions, in, STDIN_FILENO);
	if (r == 0)
		r = posix_spawn_file_actions_addopen(actions, STDOUT_FILENO, "/dev/null", O_WRONLY,
						     0);
	if (r == 0)
		r = posix_spawn(ret_pid, path, actions, NULL, arguments, environ);
	return -r;
}

/* @in: its stdin; borrowed. */
static int spawn(char *const *arguments, int in, int *ret_pidfd)
{
	posix_spawn_file_actions_t actions;
	pid_t pid;
	int r;

	r = -posix_spawn_file_actions_init(&actions);
	if (r < 0)
		return r;
	r = spawn_with(arguments, in, &actions, &pid);
	posix_spawn_file_actions_destroy(&actions);
	/* a child that nobody has waited for keeps its number */
	return r == 0 ? pidfd_open_pid(ret_pidfd, pid) : r;
}

int offload_start_again(int bundle, int *ret_pidfd)
{
	char *const arguments[] = { "ufdd-offload", "go-on", NULL };

	return spawn(arguments, bundle, ret_pidfd);
}

static int await(struct job *job, int socket, struct message *ret, int *ret_fd)
{
	int r;

	do
		r = message_receive(socket, ret, ret_fd, SLICE_MS);
	while (r == -ETIMEDOUT && !job_is_cancelled(job) &&
	       (!job_deadline_ns(job) || clock_now_ns() < job_deadline_ns(job)));
	return r;
}

static int refuse_lost(int r, struct refusal *refusal)
{
	return refusal_set(refusal, "io.ufd.handoff.OffloadFailed", NULL, "ufdd-offload: %s",
			   r == -ECONNRESET ? "it has ended; the log says more" : strerror(-r));
}

/* An error has the parameters of its interface; what else went wrong is the restore's failure. */
static int refuse_failed(const struct message *message, const char *directory,
			 struct refusal *refusal)
{
	if (strcmp(message->error, "io.ufd.guest.BadSnapshot") == 0)
		return refusal_set(refusal, message->error,
				   json_pack("{s:s}", "directory", directory), "%s", message->text);
	return refusal_set(refusal, "io.ufd.handoff.OffloadFailed", NULL, "%s", message->text);
}

/* Its messages, to the last one. @pidfd: consumed. */
static int converse(struct job *job, struct offloads *offloads, const struct restore_wish *wish,
		    int socket, int pidfd, uint32_t *ret_number, struct refusal *refusal)
{
	_cleanup_(closep) int process = pidfd;

	for (;;) {
		const struct message kept = { .kind = MESSAGE_KEPT };
		_cleanup_(closep) int fd = -EBADF;
		struct message message;
		int r = await(job, socket, &message, &fd);

		if (r < 0)
			return refuse_lost(r, refusal);
		if (message.kind == MESSAGE_RUNS)
			return 0;
		if (message.kind == MESSAGE_FAILED)
			return refuse_failed(&message, wish->directory, refusal);
		if (message.kind != MESSAGE_KEEP || fd < 0 || process < 0)
			return refuse_lost(-EBADMSG, refusal);
		r = offloads_keep(offloads, TAKE_FD(fd), TAKE_FD(process), ret_number, refusal);
		if (r == 0 && message_send(socket, &kept, -EBADF) < 0)
			r = refuse_lost(-ECONNRESET, refusal);
		if (r < 0)
			return r;
	}
}

static void reap(int pidfd)
{
	siginfo_t info;

	(void)waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED);
}

int offload_start(struct job *job, struct offloads *offloads, const struct restore_wish *wish,
		  uint32_t *ret_number, struct refusal *refusal)
{
	char *const arguments[] = {
		"ufdd-offload",
		"restore",
		(char *)wish->directory,
		(char *)wish->socket,
		(char *)wish->name,
		wish->is_inline ? "inline" : "local",
		wish->is_paused ? "paused" : "run",
		NULL,
	};
	int pair[2], pidfd = -EBADF, process = -EBADF, r;

	*ret_number = OFFLOAD_NONE;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return refuse_lost(-errno, refusal);
	r = spawn(arguments, pair[1], &pidfd);
	close(pair[1]);
	if (r == 0)
		r = fcntl(pidfd, F_DUPFD_CLOEXEC, 3);
	process = r;
	r = r < 0 ? refuse_lost(r, refusal)
		  : converse(job, offloads, wish, pair[0], process, ret_number, refusal);
	close(pair[0]);
	if (r < 0 && *ret_number == OFFLOAD_NONE && pidfd >= 0)
		reap(pidfd); /* nothing of the guest ran: it ends when we do not answer */
	closep(&pidfd);
	return r;
}
