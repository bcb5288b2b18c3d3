/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A service manager for tests. */
#include "support/manager.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "support/unit.h"

#define PATIENCE_S 30
#define MAX_FDS	   16

/* ---- what it is told ---- */

/* Holding the lock. Consumes @fd. */
static void store(struct manager *manager, const char *name, int fd)
{
	struct manager_fd *entry;

	manager->fds = reallocarray(manager->fds, manager->n_fds + 1, sizeof(*manager->fds));
	entry = &manager->fds[manager->n_fds++];
	snprintf(entry->name, sizeof(entry->name), "%s", name);
	entry->fd = fd;
}

static void forget(struct manager *manager, const char *name)
{
	size_t n = 0;

	for (size_t i = 0; i < manager->n_fds; i++) {
		if (strcmp(manager->fds[i].name, name) == 0)
			close(manager->fds[i].fd);
		else
			manager->fds[n++] = manager->fds[i];
	}
	manager->n_fds = n;
}

/* One line `KEY=value` of it, "" if there is none. */
static const char *field(const char *text, const char *key, char *value, size_t n_value)
{
	size_t n_key = strlen(key);

	value[0] = '\0';
	for (const char *line = text; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (strncmp(line, key, n_key) == 0 && line[n_key] == '=') {
			snprintf(value, n_value, "%.*s", (int)strcspn(line + n_key + 1, "\n"),
				 line + n_key + 1);
			break;
		}
	}
	return value;
}

static void take_message(struct manager *manager, const char *text, int *fds, size_t n_fds)
{
	char name[64], value[128];

	field(text, "FDNAME", name, sizeof(name));
	pthread_mutex_lock(&manager->lock);
	if (*field(text, "FDSTORE", value, sizeof(value))) {
		manager->n_stored++;
		manager->n_polled += strcmp(field(text, "FDPOLL", value, sizeof(value)), "0") != 0;
		for (size_t i = 0; i < n_fds; i++)
			store(manager, name, TAKE_FD(fds[i]));
	}
	if (*field(text, "FDSTOREREMOVE", value, sizeof(value)))
		forget(manager, name);
	if (*field(text, "READY", value, sizeof(value)))
		manager->n_ready++;
	if (*field(text, "STATUS", value, sizeof(value)))
		memcpy(manager->status, value, sizeof(manager->status));
	if (*field(text, "BARRIER", value, sizeof(value)) && manager->is_deaf)
		for (size_t i = 0; i < n_fds; i++)
			store(manager, "deaf", TAKE_FD(fds[i]));
	pthread_cond_broadcast(&manager->changed);
	pthread_mutex_unlock(&manager->lock);
	for (size_t i = 0; i < n_fds; i++)
		closep(&fds[i]); /* a barrier's is answered by this */
}

static bool receive(struct manager *manager)
{
	char text[4096], control[CMSG_SPACE(MAX_FDS * sizeof(int))];
	struct iovec part = { .iov_base = text, .iov_len = sizeof(text) - 1 };
	struct msghdr message = { .msg_iov = &part,
				  .msg_iovlen = 1,
				  .msg_control = control,
				  .msg_controllen = sizeof(control) };
	int fds[MAX_FDS];
	size_t n_fds = 0;
	ssize_t n = recvmsg(manager->notify_fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	if (n < 0)
		return false;
	text[n] = '\0';
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		n_fds = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		memcpy(fds, CMSG_DATA(c), n_fds * sizeof(int));
	}
	take_message(manager, text, fds, n_fds);
	return true;
}

static void *listen_all(void *argument)
{
	struct manager *manager = argument;

	for (;;) {
		struct pollfd waited[] = { { .fd = manager->notify_fd, .events = POLLIN },
					   { .fd = manager->stop_fd, .events = POLLIN } };

		poll(waited, 2, -1);
		while (receive(manager))
			;
		if (waited[1].revents)
			return NULL;
	}
}

/* ---- life ---- */

static int open_socket(int type, const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);

	ck_assert_int_ge(fd, 0);
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	return fd;
}

void manager_init(struct manager *manager)
{
	strcpy(manager->folder, "/dev/shm/ufd-manager-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(manager->folder));
	chmod(manager->folder, 0755);
	snprintf(manager->socket, sizeof(manager->socket), "%s/s", manager->folder);
	snprintf(manager->notify, sizeof(manager->notify), "%s/notify", manager->folder);
	manager->listener = open_socket(SOCK_STREAM, manager->socket);
	chmod(manager->socket, 0666);
	ck_assert_int_eq(listen(manager->listener, 64), 0);
	manager->notify_fd = open_socket(SOCK_DGRAM, manager->notify);
	manager->stop_fd = eventfd(0, EFD_CLOEXEC);
	pthread_mutex_init(&manager->lock, NULL);
	pthread_cond_init(&manager->changed, NULL);
	ck_assert_int_eq(pthread_create(&manager->thread, NULL, listen_all, manager), 0);
}

void manager_done(struct manager *manager)
{
	const uint64_t one = 1;
	char command[128];

	if (manager->pid > 0)
		manager_kill(manager);
	ck_assert_int_eq(write(manager->stop_fd, &one, sizeof(one)), sizeof(one));
	pthread_join(manager->thread, NULL);
	for (size_t i = 0; i < manager->n_fds; i++)
		close(manager->fds[i].fd);
	free(manager->fds);
	close(manager->listener);
	close(manager->notify_fd);
	close(manager->stop_fd);
	if (getenv("UFD_TEST_KEEP"))
		return;
	snprintf(command, sizeof(command), "rm -rf '%s'", manager->folder);
	ck_assert_int_eq(system(command), 0);
}

/* ---- starting and ending ufdd ---- */

/*
 * What ufdd is started with, made before the fork. The child may do nothing but system calls: another
 * thread of ours may have held a lock of malloc(), of the environment or of a sanitizer when it was
 * forked, and in the child nobody ever releases that.
 */
struct start {
	char program[512], log[96];
	char pid[32], n_fds_text[32], notify[128], store_max[64]; /* variables */
	char *names;						  /* owned; another one */
	const char **environment; /* owned; the strings are ours and this process's */
	const char *arguments[4];
	int *fds; /* owned; of the service, from number 3 on */
	size_t n_fds;
	rlim_t n_files;
	pid_t parent;
};

static bool is_set_anew(const struct manager *manager, const char *variable)
{
	static const char *const names[] = { "LISTEN_PID=", "LISTEN_FDS=", "LISTEN_FDNAMES=",
					     "NOTIFY_SOCKET=", "FDSTORE=" };

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (strncmp(variable, names[i], strlen(names[i])) == 0)
			return true;
	return manager->store_max && strncmp(variable, "UFD_FDSTORE_MAX=", 16) == 0;
}

static void prepare_variables(struct start *start, const struct manager *manager)
{
	char *at;

	start->names = calloc(start->n_fds + 1, sizeof(manager->fds[0].name));
	ck_assert_ptr_nonnull(start->names);
	at = start->names;
	at += sprintf(at, "LISTEN_FDNAMES=%s", manager->has_no_socket ? "none" : "varlink");
	for (size_t i = 1; i < start->n_fds; i++)
		at += sprintf(at, ":%s", manager->fds[start->n_fds - 1 - i].name);
	snprintf(start->n_fds_text, sizeof(start->n_fds_text), "LISTEN_FDS=%zu", start->n_fds);
	snprintf(start->notify, sizeof(start->notify), "NOTIFY_SOCKET=%s", manager->notify);
	if (manager->store_max)
		snprintf(start->store_max, sizeof(start->store_max), "UFD_FDSTORE_MAX=%s",
			 manager->store_max);
}

static void prepare_environment(struct start *start, const struct manager *manager)
{
	size_t n = 0, n_before = 0;

	prepare_variables(start, manager);
	while (environ[n_before])
		n_before++;
	start->environment = calloc(n_before + 6, sizeof(*start->environment));
	ck_assert_ptr_nonnull(start->environment);
	for (size_t i = 0; i < n_before; i++)
		if (!is_set_anew(manager, environ[i]))
			start->environment[n++] = environ[i];
	start->environment[n++] = start->pid; /* written by the child */
	start->environment[n++] = start->n_fds_text;
	start->environment[n++] = start->names;
	start->environment[n++] = start->notify;
	if (manager->store_max)
		start->environment[n++] = start->store_max;
}

/* Holding the lock. */
static void start_prepare(struct start *start, const struct manager *manager)
{
	ssize_t n = readlink("/proc/self/exe", start->program, 400);

	start->program[n > 0 ? n : 0] = '\0';
	strcpy(strrchr(start->program, '/'), "/../../daemon/ufdd");
	snprintf(start->log, sizeof(start->log), "%s/log", manager->folder);
	start->arguments[0] = "ufdd";
	if (manager->option) {
		start->arguments[1] = manager->option;
	} else if (manager->state_dir) {
		start->arguments[1] = "--state-dir";
		start->arguments[2] = manager->state_dir;
	}
	start->n_files = manager->n_files;
	start->parent = getpid();
	start->n_fds = 1 + manager->n_fds;
	start->fds = calloc(start->n_fds, sizeof(*start->fds));
	ck_assert_ptr_nonnull(start->fds);
	start->fds[0] = manager->listener;
	for (size_t i = 1; i < start->n_fds; i++)
		start->fds[i] = manager->fds[start->n_fds - 1 - i].fd;
	prepare_environment(start, manager);
}

static void start_done(struct start *start)
{
	free(start->names);
	free(start->environment);
	free(start->fds);
}

/* In the child, as are all below. */
static void write_listen_pid(struct start *start)
{
	char digits[16], *at = start->pid;
	size_t n = 0;

	for (pid_t pid = getpid(); pid; pid /= 10)
		digits[n++] = (char)('0' + pid % 10);
	for (const char *name = "LISTEN_PID="; *name; name++)
		*at++ = *name;
	while (n)
		*at++ = digits[--n];
	*at = '\0';
}

/* Fd @i of the service is number 3 + @i. */
static void place_fds(struct start *start)
{
	for (size_t i = 0; i < start->n_fds; i++)
		start->fds[i] = fcntl(start->fds[i], F_DUPFD_CLOEXEC, 3 + (int)start->n_fds);
	for (size_t i = 0; i < start->n_fds; i++)
		if (start->fds[i] < 0 || dup2(start->fds[i], 3 + (int)i) < 0)
			_exit(1);
}

static _Noreturn void become_ufdd(struct start *start)
{
	const struct rlimit limit = { start->n_files, start->n_files };
	int out;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != start->parent)
		_exit(1);
	out = open(start->log, O_WRONLY | O_CREAT | O_APPEND, 0600);
	dup2(out, STDOUT_FILENO);
	dup2(out, STDERR_FILENO);
	close(out);
	write_listen_pid(start);
	place_fds(start);
	if (start->n_files)
		setrlimit(RLIMIT_NOFILE, &limit);
	execve(start->program, (char **)start->arguments, (char **)start->environment);
	_exit(127);
}

void manager_start_only(struct manager *manager)
{
	struct start start = {};

	pthread_mutex_lock(&manager->lock);
	start_prepare(&start, manager);
	manager->pid = fork();
	ck_assert_int_ge(manager->pid, 0);
	if (manager->pid == 0)
		become_ufdd(&start);
	pthread_mutex_unlock(&manager->lock);
	start_done(&start);
}

/* Is it ufdd yet, is it there at all, and what did it say? */
static _Noreturn void fail_to_be_ready(struct manager *manager)
{
	char path[64], name[64] = "gone";
	char *log = manager_log(manager);
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/comm", manager->pid);
	file = fopen(path, "re");
	if (file && !fgets(name, sizeof(name), file))
		strcpy(name, "nameless");
	ck_abort_msg("ufdd is not ready after %d s, process %d is %s: %s", PATIENCE_S, manager->pid,
		     name, log);
}

void manager_await_ready(struct manager *manager, unsigned int n_ready)
{
	struct timespec deadline;

	clock_gettime(CLOCK_REALTIME, &deadline);
	deadline.tv_sec += PATIENCE_S;
	pthread_mutex_lock(&manager->lock);
	while (manager->n_ready < n_ready)
		if (pthread_cond_timedwait(&manager->changed, &manager->lock, &deadline))
			fail_to_be_ready(manager);
	pthread_mutex_unlock(&manager->lock);
}

void manager_start(struct manager *manager)
{
	unsigned int n_ready = manager->n_ready + 1;

	manager_start_only(manager);
	manager_await_ready(manager, n_ready);
}

void manager_kill(struct manager *manager)
{
	kill(manager->pid, SIGKILL);
	waitpid(manager->pid, NULL, 0);
	manager->pid = 0;
}

int manager_stop(struct manager *manager)
{
	int status = -1;

	kill(manager->pid, SIGTERM);
	ck_assert_int_eq(waitpid(manager->pid, &status, 0), manager->pid);
	manager->pid = 0;
	return status;
}

/* Holding the lock. */
static bool has(const struct manager *manager, const char *name)
{
	for (size_t i = 0; i < manager->n_fds; i++)
		if (strcmp(manager->fds[i].name, name) == 0)
			return true;
	return false;
}

bool manager_has(struct manager *manager, const char *name)
{
	bool found;

	pthread_mutex_lock(&manager->lock);
	found = has(manager, name);
	pthread_mutex_unlock(&manager->lock);
	return found;
}

size_t manager_n_fds(struct manager *manager)
{
	size_t n;

	pthread_mutex_lock(&manager->lock);
	n = manager->n_fds;
	pthread_mutex_unlock(&manager->lock);
	return n;
}

void manager_await_lack(struct manager *manager, const char *name)
{
	struct timespec deadline;

	clock_gettime(CLOCK_REALTIME, &deadline);
	deadline.tv_sec += PATIENCE_S;
	pthread_mutex_lock(&manager->lock);
	while (has(manager, name))
		ck_assert_msg(
			pthread_cond_timedwait(&manager->changed, &manager->lock, &deadline) == 0,
			"%s is still stored", name);
	pthread_mutex_unlock(&manager->lock);
}

void manager_forget(struct manager *manager, const char *name)
{
	pthread_mutex_lock(&manager->lock);
	forget(manager, name);
	pthread_mutex_unlock(&manager->lock);
}

char *manager_log(struct manager *manager)
{
	char path[96], *text = calloc(1, 1 << 20);
	FILE *file;
	size_t n;

	snprintf(path, sizeof(path), "%s/log", manager->folder);
	file = fopen(path, "re");
	n = file ? fread(text, 1, (1 << 20) - 1, file) : 0;
	text[n] = '\0';
	if (file)
		fclose(file);
	return text;
}
