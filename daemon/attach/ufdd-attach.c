/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ufdd-attach: traces a process for ufdd, and outlives it. Started by ufdd, not by hand. */
/*
 * Theory of operation
 *
 * A tracer that dies between changing a thread's registers and putting them back kills the target.
 * ufdd may be killed at any instruction, so it never traces: this program does, in a session of its
 * own, an orphan from the start, deaf to every signal that can be blocked. It serves one request
 * (inject.h) and ends. If ufdd dies or stops listening meanwhile, the target's copy of the new
 * userfaultfd is closed again.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "attach/inject-uffd.h"
#include "attach/inject.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/units.h"
#include "kernel/pidfd.h"

enum {
	SOCKET = STDIN_FILENO,
	REQUEST_WAIT_S = 5,
	KEEP_WAIT_S = 5, /* for ufdd's handshake, after the reply */
	ROLL_BACK_WAIT_S = 30,
};

static uint64_t after_s(uint64_t seconds)
{
	return clock_now_ns() + seconds * NSEC_PER_SEC;
}

/*
 * SIGCHLD is waited for by sigtimedwait(); SIGALRM may end us, but only while that is harmless. Signals of our own
 * mistakes would end us blocked as well, but without a word.
 */
static void block_signals(void)
{
	static const int own[] = { SIGALRM, SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT };
	sigset_t blocked;

	signal(SIGALRM, SIG_DFL);
	signal(SIGCHLD, SIG_DFL);
	sigfillset(&blocked);
	for (size_t i = 0; i < sizeof(own) / sizeof(own[0]); i++)
		sigdelset(&blocked, own[i]);
	sigprocmask(SIG_SETMASK, &blocked, NULL);
}

/* Return: 0, INJECT_GONE, -errno. */
static int open_target(struct inject_target *ret, int pidfd, const struct inject_request *request)
{
	char path[32];
	pid_t pid;
	int r, fd;

	snprintf(path, sizeof(path), "/proc/%d", request->pid);
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? INJECT_GONE : -errno;
	/* As long as the process lives its number, and so this directory, is its own. */
	r = pidfd_get_pid(pidfd, &pid);
	if (r == 0 && (pid != request->pid || !pidfd_is_alive(pidfd)))
		r = INJECT_GONE;
	if (r != 0) {
		closep(&fd);
		return r;
	}

	*ret = (struct inject_target){
		.pidfd = pidfd,
		.proc_fd = fd,
		.pid = pid,
		.deadline_ns = request->deadline_ns,
	};
	return 0;
}

/* False if ufdd died, or gave up; once this is false ufdd cannot confirm any more. */
static bool is_kept(void)
{
	struct inject_keep keep;
	int r;

	r = inject_receive(SOCKET, &keep, sizeof(keep), NULL, 0, after_s(KEEP_WAIT_S));
	if (r == -ETIMEDOUT) {
		shutdown(SOCKET, SHUT_RDWR);
		r = inject_receive(SOCKET, &keep, sizeof(keep), NULL, 0, 0);
	}
	return r == 0;
}

/* One visit to the target, and what came of it. */
struct errand {
	const struct inject_target *target;
	uint32_t verb;
	int other_fd;  /* borrowed; what came with the request */
	int remote_fd; /* as in the request */
	struct inject_reply reply;
	int uffd; /* owned by whoever asked; -EBADF */
};

static void *trace(void *argument)
{
	struct errand *errand = argument;

	if (errand->verb == INJECT_CREATE)
		inject_create(errand->target, errand->other_fd, errand->remote_fd, &errand->uffd,
			      &errand->reply);
	else
		inject_close(errand->target, errand->other_fd, errand->remote_fd, &errand->reply);
	return NULL;
}

/* Tracing ends with the thread that traces, for each thread that it asked to stop. */
static void run_errand(struct errand *errand)
{
	pthread_t thread;
	int r;

	errand->reply = (struct inject_reply){ .version = INJECT_VERSION, .remote_fd = -1 };
	errand->uffd = -EBADF;
	r = pthread_create(&thread, NULL, trace, errand);
	if (r == 0) {
		pthread_join(thread, NULL);
	} else {
		errand->reply.outcome = INJECT_FAILED;
		errand->reply.error = r;
		errand->reply.number = -1;
	}
}

static int create(struct inject_target *target, struct errand *errand)
{
	_cleanup_(closep) int uffd = -EBADF;
	int r;

	run_errand(errand);
	uffd = errand->uffd;
	r = inject_send(SOCKET, &errand->reply, sizeof(errand->reply), &uffd, 1);
	if (errand->reply.outcome != _INJECT_DONE || (r == 0 && is_kept()))
		return r;

	target->deadline_ns = after_s(ROLL_BACK_WAIT_S);
	run_errand(&(struct errand){
		.target = target,
		.verb = INJECT_CLOSE,
		.other_fd = uffd,
		.remote_fd = errand->reply.remote_fd,
	});
	return r;
}

static int serve(void)
{
	_cleanup_(closep) int pidfd = -EBADF, other_fd = -EBADF;
	struct inject_request request;
	struct inject_target target;
	struct errand errand = { .target = &target };
	int fds[2], r;

	r = inject_receive(SOCKET, &request, sizeof(request), fds, 2, after_s(REQUEST_WAIT_S));
	if (r < 0)
		return r;
	pidfd = fds[0];
	other_fd = fds[1];
	if (request.version != INJECT_VERSION)
		return -EPROTO;

	r = open_target(&target, pidfd, &request);
	if (r != 0) {
		const struct inject_reply reply = {
			.version = INJECT_VERSION,
			.outcome = r > 0 ? r : INJECT_FAILED,
			.error = r < 0 ? -r : 0,
			.number = -1,
		};

		return inject_send(SOCKET, &reply, sizeof(reply), NULL, 0);
	}
	errand.verb = request.verb;
	errand.other_fd = other_fd;
	errand.remote_fd = request.remote_fd;
	if (request.verb == INJECT_CREATE)
		return create(&target, &errand);
	run_errand(&errand);
	return inject_send(SOCKET, &errand.reply, sizeof(errand.reply), NULL, 0);
}

int main(void)
{
	struct stat status;
	pid_t pid;

	if (fstat(SOCKET, &status) < 0 || !S_ISSOCK(status.st_mode)) {
		fprintf(stderr, "ufdd-attach is started by ufdd, to attach to a process\n");
		return 2;
	}
	prctl(PR_SET_NAME, INJECT_HELPER_NAME);
	block_signals();
	pid = fork(); /* init, not ufdd, collects us */
	if (pid != 0)
		return pid < 0;
	setsid();
	setpriority(PRIO_PROCESS, 0,
		    -20); /* the target's thread stands still while we wait for a CPU */
	return serve() < 0;
}
