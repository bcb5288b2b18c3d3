/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Attaching to an unmodified process: the side that asks, and says why not. */
#include "attach/process.h"

#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "attach/inject.h"
#include "base/clock.h"
#include "base/files.h"
#include "kernel/features.h"
#include "kernel/pidfd.h"
#include "kernel/uffd.h"
#include "refusal.h"

#define CANNOT_ATTACH "io.ufd.guest.CannotAttach"

extern char **environ;

enum { REPLY_GRACE_S = 1 }; /* how long after the deadline the helper may still tell why */

#define refuse(refusal, pid, ...) \
	refusal_set(refusal, CANNOT_ATTACH, json_pack("{s:i}", "pid", (int)(pid)), __VA_ARGS__)

void process_attachment_done(struct process_attachment *attachment)
{
	closep(&attachment->uffd);
	closep(&attachment->pidfd);
	*attachment = (struct process_attachment)PROCESS_ATTACHMENT_NONE;
}

/* The command name of a process, for messages; NULL if it has gone. */
static const char *name_of(pid_t pid, char *name, size_t n_name)
{
	_cleanup_(closep) int fd = -EBADF;
	char path[32];
	ssize_t n = 0;

	snprintf(path, sizeof(path), "/proc/%d/comm", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0)
		n = read(fd, name, n_name - 1);
	if (n <= 0)
		return NULL;
	name[n - (name[n - 1] == '\n')] = '\0';
	return name;
}

/* /proc/PID/status as text. Return: 0 or -errno. */
static int read_status(pid_t pid, char *text, size_t n_text)
{
	_cleanup_(closep) int fd = -EBADF;
	char path[32];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, text, n_text - 1);
	if (n < 0)
		return -errno;
	text[n] = '\0';
	return 0;
}

/* Names the tracer that @status shows. */
static int refuse_traced(struct refusal *refusal, pid_t pid, const char *status)
{
	const char *line = strstr(status, "\nTracerPid:\t");
	pid_t tracer = line ? atoi(line + strlen("\nTracerPid:\t")) : 0;
	const char *name;
	char text[32];

	if (tracer == 0)
		return 0;
	/* One that has gone by now, and a helper of ours that is just leaving, are waited for later. */
	name = name_of(tracer, text, sizeof(text));
	if (!name || strcmp(name, INJECT_HELPER_NAME) == 0)
		return 0;
	return refuse(refusal, pid, "process %d is traced by process %d (%s); end that first", pid,
		      tracer, name);
}

/*
 * Says no to ourselves, kernel threads, zombies and the dead, and to what a tracer holds; the rest
 * shows only by trying.
 */
static int check_process(pid_t pid, struct refusal *refusal)
{
	const char *state;
	char text[16384];

	if (pid <= 0)
		return refuse(refusal, pid, "%d is not the pid of a process", pid);
	if (pid == getpid())
		return refuse(refusal, pid, "process %d is ufdd itself", pid);
	if (read_status(pid, text, sizeof(text)) < 0)
		return refuse(refusal, pid, "there is no process %d", pid);

	state = strstr(text, "\nState:\t");
	if (state && strchr("ZX", state[strlen("\nState:\t")]))
		return refuse(refusal, pid, "process %d has ended (it is a zombie)", pid);
	if (!strstr(text, "\nVmSize:"))
		return refuse(refusal, pid, "process %d has no memory (a kernel thread)", pid);
	return refuse_traced(refusal, pid, text);
}

int process_find_device(pid_t pid, int *ret_remote_device)
{
	_cleanup_(closedirp) DIR *dir = NULL;
	struct stat device, found;
	struct dirent *entry;
	int r = -ENOENT;
	char path[64];

	if (stat("/dev/userfaultfd", &device) < 0)
		return -errno;
	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	dir = opendir(path);
	if (!dir)
		return errno == ENOENT ? -ESRCH : -errno;
	while (r != 0 && (entry = readdir(dir))) {
		if (fstatat(dirfd(dir), entry->d_name, &found, 0) == 0 && S_ISCHR(found.st_mode) &&
		    found.st_rdev == device.st_rdev) {
			*ret_remote_device = atoi(entry->d_name);
			r = 0;
		}
	}
	return r;
}

#if defined(__x86_64__)

/* Beside the daemon when that runs in its build tree. */
static bool find_beside_us(char *path, size_t n_path)
{
	char self[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *slash;

	if (n < 0)
		return false;
	self[n] = '\0';
	slash = strrchr(self, '/');
	if (!slash)
		return false;
	*slash = '\0';
	return snprintf(path, n_path, "%s/attach/ufdd-attach", self) < (int)n_path &&
	       access(path, X_OK) == 0;
}

static void find_helper(const struct process_opts *opts, char *path, size_t n_path)
{
	const char *known = opts->helper ? opts->helper : getenv("UFDD_ATTACH");

	if (known || !find_beside_us(path, n_path))
		snprintf(path, n_path, "%s", known ? known : UFDD_ATTACH_PATH);
}

static int spawn_with(const char *path, int socket, posix_spawn_file_actions_t *actions,
		      posix_spawnattr_t *attributes)
{
	char *const arguments[] = { "ufdd-attach", NULL };
	sigset_t none, all;
	pid_t pid;
	int r;

	sigemptyset(&none);
	sigfillset(&all);
	posix_spawnattr_setflags(attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	posix_spawnattr_setsigmask(attributes, &none);
	posix_spawnattr_setsigdefault(attributes, &all);
	r = posix_spawn_file_actions_adddup2(actions, socket, STDIN_FILENO);
	if (r == 0)
		r = posix_spawn_file_actions_addopen(actions, STDOUT_FILENO, "/dev/null", O_WRONLY,
						     0);
	if (r == 0)
		r = posix_spawn_file_actions_addopen(actions, STDERR_FILENO, "/dev/null", O_WRONLY,
						     0);
	if (r == 0)
		r = posix_spawn(&pid, path, actions, attributes, arguments, environ);
	if (r != 0)
		return -r;

	/* It forks at once, so that its real self is nobody's child, and ends. */
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	return 0;
}

/* Return: 0 with the socket to talk to the helper, or -errno. */
static int spawn_helper(const char *path, int *ret_socket)
{
	_cleanup_(closep) int ours = -EBADF, theirs = -EBADF;
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	int pair[2], r;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	ours = pair[0];
	theirs = pair[1];

	r = -posix_spawn_file_actions_init(&actions);
	if (r < 0)
		return r;
	r = -posix_spawnattr_init(&attributes);
	if (r == 0) {
		r = spawn_with(path, theirs, &actions, &attributes);
		posix_spawnattr_destroy(&attributes);
	}
	posix_spawn_file_actions_destroy(&actions);
	if (r == 0)
		*ret_socket = TAKE_FD(ours);
	return r;
}

/* One request to a fresh helper. @ret_socket and @ret_fd are owned by the caller. */
static int ask_helper(struct inject_request *request, const int *fds,
		      const struct process_opts *opts, struct inject_reply *ret_reply,
		      int *ret_socket, int *ret_fd, struct refusal *refusal)
{
	_cleanup_(closep) int socket = -EBADF;
	char path[PATH_MAX];
	int r;

	find_helper(opts, path, sizeof(path));
	r = spawn_helper(path, &socket);
	if (r < 0)
		return refusal_set_errno(refusal, r, "cannot start %s", path);

	request->version = INJECT_VERSION;
	request->deadline_ns = clock_now_ns() +
			       (opts->timeout_ns ? opts->timeout_ns : PROCESS_TIMEOUT_NS);
	r = inject_send(socket, request, sizeof(*request), fds, 2);
	if (r == 0)
		r = inject_receive(socket, ret_reply, sizeof(*ret_reply), ret_fd, 1,
				   request->deadline_ns + REPLY_GRACE_S * NSEC_PER_SEC);
	if (r == -ETIMEDOUT)
		return refuse(
			refusal, request->pid,
			"process %d did not let itself be stopped in time; it goes on as before, try again",
			request->pid);
	if (r == -EPIPE)
		return refuse(
			refusal, request->pid,
			"%s ended without an answer: it was killed, or stuck on process %d and gave up; try again",
			path, request->pid);
	if (r == 0 && (ret_reply->version != INJECT_VERSION || ret_reply->outcome >= _INJECT_N))
		r = -EPROTO;
	if (r < 0)
		return refusal_set_errno(refusal, r, "%s does not answer as expected", path);
	*ret_socket = TAKE_FD(socket);
	return 0;
}

static const char *const reasons[_INJECT_N] = {
	[INJECT_GONE] = "it has ended",
	[INJECT_TRACED] = "one of its threads is traced",
	[INJECT_FORBIDDEN] =
		"tracing it is not permitted: ufdd needs CAP_SYS_PTRACE, and AppArmor, SELinux and kernel.yama.ptrace_scope must allow it",
	[INJECT_HUNG] =
		"none of its threads could be stopped in time: they wait in the kernel, for a page or a device; it is unharmed, try again",
	[INJECT_SECCOMP] =
		"a seccomp filter guards it, which only CAP_SYS_ADMIN (and no seccomp filter on ufdd itself) can suspend: see the drop-in seccomp-targets.conf in ufdd(8)",
	[INJECT_FOREIGN_ABI] = "it is not a 64-bit x86 process",
	[INJECT_NO_VDSO] = "it has no vdso with a system call instruction",
	[INJECT_DISPATCHED] = "it intercepts its system calls (syscall user dispatch)",
	[INJECT_UNPRIVILEGED] =
		"it may not create a userfaultfd, and ufdd cannot open /dev/userfaultfd for it: allow that, or set vm.unprivileged_userfaultfd=1",
	[INJECT_NO_FDS] = "it has no free file descriptor: raise its RLIMIT_NOFILE",
	[INJECT_NO_DEVICE] = "the file descriptor named in it is not /dev/userfaultfd",
	[INJECT_NOT_OURS] = "its copy of the userfaultfd is not where it was left",
};

static int refuse_outcome(const struct inject_request *request, const struct inject_reply *reply,
			  struct refusal *refusal)
{
	const char *name = strerrorname_np(reply->error);
	char status[16384];

	if (reply->outcome == INJECT_TRACED &&
	    read_status(request->pid, status, sizeof(status)) == 0 &&
	    refuse_traced(refusal, request->pid, status) < 0)
		return -ECANCELED;
	if (reply->outcome < _INJECT_N && reasons[reply->outcome])
		return refuse(refusal, request->pid, "cannot attach to process %d: %s",
			      request->pid, reasons[reply->outcome]);
	if (reply->error == ENOSYS)
		return refusal_set(refusal, "io.ufd.manager.NotSupported", NULL,
				   "this kernel has no userfaultfd (CONFIG_USERFAULTFD)");
	if (reply->number < 0)
		return refuse(refusal, request->pid, "cannot attach to process %d: %s",
			      request->pid, name ? name : "?");
	return refuse(refusal, request->pid,
		      "cannot attach to process %d: system call %d in it failed with %s",
		      request->pid, reply->number, name ? name : "?");
}

/* A pidfd of our own for the process that is meant. */
static int open_pidfd(pid_t pid, const struct process_opts *opts, int *ret_fd,
		      struct refusal *refusal)
{
	int fd = -EBADF, r;

	r = opts->pidfd < 0 ? pidfd_open_pid(&fd, pid) : fd_duplicate(&fd, opts->pidfd);
	if (r == -ESRCH)
		return refuse(refusal, pid, "there is no process %d", pid);
	if (r < 0)
		return refusal_set_errno(refusal, r, "cannot open process %d", pid);
	*ret_fd = fd;
	return 0;
}

int process_attach(pid_t pid, const struct process_opts *opts, struct process_attachment *ret,
		   struct refusal *refusal)
{
	struct inject_request request = {
		.verb = INJECT_CREATE,
		.pid = pid,
		.remote_fd = opts->remote_device,
	};
	const struct inject_keep keep = { .version = INJECT_VERSION };
	_cleanup_(process_attachment_done) struct process_attachment made = PROCESS_ATTACHMENT_NONE;
	_cleanup_(closep) int device = -EBADF, socket = -EBADF;
	struct inject_reply reply;
	int r;

	r = check_process(pid, refusal);
	if (r == 0)
		r = open_pidfd(pid, opts, &made.pidfd, refusal);
	if (r < 0)
		return r;
	if (opts->device_fd < 0)
		device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);

	r = ask_helper(&request,
		       (int[]){ made.pidfd, opts->device_fd < 0 ? device : opts->device_fd }, opts,
		       &reply, &socket, &made.uffd, refusal);
	if (r < 0)
		return r;
	if (reply.outcome != _INJECT_DONE)
		return refuse_outcome(&request, &reply, refusal);
	made.pid = pid;
	made.remote_fd = reply.remote_fd;

	r = uffd_handshake(made.uffd, features_wanted(opts->is_wp_sync));
	if (r < 0)
		return refusal_set_errno(refusal, r,
					 "the userfaultfd made in process %d refuses its handshake",
					 pid);
	if (opts->on_made) {
		r = opts->on_made(opts->userdata, &made, refusal);
		if (r < 0)
			return r;
	}
	r = inject_send(socket, &keep, sizeof(keep), NULL, 0);
	if (r < 0)
		return refusal_set_errno(refusal, r, "the attach helper gave process %d up", pid);

	*ret = made;
	made = (struct process_attachment)PROCESS_ATTACHMENT_NONE;
	return 0;
}

int process_detach(const struct process_attachment *attachment, const struct process_opts *opts,
		   struct refusal *refusal)
{
	struct inject_request request = {
		.verb = INJECT_CLOSE,
		.pid = attachment->pid,
		.remote_fd = attachment->remote_fd,
	};
	_cleanup_(closep) int socket = -EBADF, no_fd = -EBADF;
	struct inject_reply reply;
	int r;

	if (!pidfd_is_alive(attachment->pidfd))
		return 0;
	r = ask_helper(&request, (int[]){ attachment->pidfd, attachment->uffd }, opts, &reply,
		       &socket, &no_fd, refusal);
	if (r < 0 && !pidfd_is_alive(attachment->pidfd)) {
		refusal_done(refusal);
		return 0;
	}
	if (r < 0)
		return r;
	if (reply.outcome == INJECT_GONE && !pidfd_is_alive(attachment->pidfd))
		return 0;
	if (reply.outcome != _INJECT_DONE)
		return refuse_outcome(&request, &reply, refusal);
	if (reply.n_left > 0)
		return refuse(
			refusal, attachment->pid,
			"process %d has %d more file descriptors of our userfaultfd: it duplicated it",
			attachment->pid, reply.n_left);
	return 0;
}

#else /* !__x86_64__ */

static int refuse_machine(struct refusal *refusal)
{
	return refusal_set(
		refusal, "io.ufd.manager.NotSupported", NULL,
		"attaching by pid needs x86-64; let the process hand its memory over (libufd)");
}

int process_attach(pid_t pid, const struct process_opts *opts, struct process_attachment *ret,
		   struct refusal *refusal)
{
	return refuse_machine(refusal);
}

int process_detach(const struct process_attachment *attachment, const struct process_opts *opts,
		   struct refusal *refusal)
{
	return refuse_machine(refusal);
}

#endif
