/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Processes, as /proc shows them. */
#include "process.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/files.h"
#include "base/units.h"
#include "kernel/procfs.h"

#define TEXT_BYTES 4096

/* ---- names ----------------------------------------------------------------------------------- */

void process_fd_name(pid_t pid, int fd, char *ret, size_t n_ret)
{
	char path[64];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/fd/%d", pid, fd);
	n = readlink(path, ret, n_ret - 1);
	ret[n < 0 ? 0 : n] = '\0';
}

/*
 * "PID (NAME) S ...": the name may hold anything, so the fields begin behind the last parenthesis.
 * @ret_start: field 22, in ticks since boot; may be NULL.
 */
static bool parse_stat(char *text, char name[PROCESS_NAME_BYTES], char *ret_state,
		       uint64_t *ret_start)
{
	char *open = strchr(text, '('), *close = strrchr(text, ')'), *at;

	if (!open || !close || close < open || close[1] != ' ')
		return false;
	*close = '\0';
	snprintf(name, PROCESS_NAME_BYTES, "%s", open + 1);
	*ret_state = close[2];
	at = close + 2;
	for (int field = 3; field < 22 && at; field++) {
		at = strchr(at, ' ');
		at += at != NULL;
	}
	if (ret_start)
		*ret_start = at ? strtoull(at, NULL, 10) : 0;
	return true;
}

/* The last number of a line like "NSpid: 4711 12". */
static pid_t innermost(const char *text, const char *key)
{
	const char *line = strstr(text, key);
	char *end;
	pid_t pid = 0;

	if (!line)
		return 0;
	line += strlen(key);
	while (*line && *line != '\n') {
		long number = strtol(line, &end, 10);

		if (end == line)
			break;
		pid = (pid_t)number;
		line = end;
	}
	return pid;
}

/* ---- threads --------------------------------------------------------------------------------- */

/* "running", or "NUMBER ARGUMENT... SP PC", or "-1 SP PC" for a fault. */
static void parse_syscall(struct thread *thread, const char *text)
{
	char *at = (char *)text;
	uint64_t words[8] = {};
	int n = 0;

	if (!isdigit((unsigned char)*text) && *text != '-')
		return;
	thread->syscall = strtol(at, &at, 10);
	for (char *end; n < 8; n++, at = end) {
		words[n] = strtoull(at, &end, 16);
		if (end == at)
			break;
	}
	thread->has_syscall = n >= 2;
	if (n == 8)
		memcpy(thread->arguments, words, sizeof(thread->arguments));
	thread->pc = n ? words[n - 1] : 0;
}

/* The innermost function of "[<0>] do_wait+0x53/0x120", where wchan is hidden. */
static void parse_stack(struct thread *thread, const char *text)
{
	const char *at = strstr(text, "] ");

	if (at)
		snprintf(thread->inside, sizeof(thread->inside), "%.*s",
			 (int)strcspn(at + 2, "+\n"), at + 2);
}

static bool is_freezer(const char *inside)
{
	return strcmp(inside, "do_freezer_trap") == 0 || strcmp(inside, "__refrigerator") == 0;
}

static enum thread_wait judge(const struct thread *thread)
{
	switch (thread->state) {
	case 'R':
		return THREAD_RUNS;
	case 'T':
		return THREAD_STOPPED;
	case 't':
		return THREAD_TRACED;
	case 'Z':
	case 'X':
		return THREAD_DEAD;
	default:
		break;
	}
	if (is_freezer(thread->inside))
		return THREAD_FROZEN;
	if (strcmp(thread->inside, "handle_userfault") == 0)
		return THREAD_USERFAULT;
	return thread->inside[0] ? THREAD_BLOCKED : THREAD_UNSEEN;
}

static bool read_of_thread(pid_t pid, pid_t tid, const char *file, char text[TEXT_BYTES])
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/task/%d/%s", pid, tid, file);
	return procfs_read(path, text, TEXT_BYTES, NULL) == 0 && text[0];
}

/* Return: false if it has gone. */
static bool thread_read(struct process *process, pid_t tid, struct thread *ret)
{
	char text[TEXT_BYTES];

	*ret = (struct thread){ .tid = tid, .inner_tid = tid };
	if (!read_of_thread(process->pid, tid, "stat", text) ||
	    !parse_stat(text, ret->name, &ret->state, NULL))
		return false;
	if (process->inner_pid != process->pid && read_of_thread(process->pid, tid, "status", text))
		ret->inner_tid = innermost(text, "NSpid:");
	/* "0": runs, or hidden from us */
	if (read_of_thread(process->pid, tid, "wchan", text) && strcmp(text, "0"))
		snprintf(ret->inside, sizeof(ret->inside), "%.63s", text);
	else if (ret->state != 'R' && read_of_thread(process->pid, tid, "stack", text))
		parse_stack(ret, text);
	if (ret->state != 'R' && read_of_thread(process->pid, tid, "syscall", text))
		parse_syscall(ret, text);
	ret->wait = judge(ret);
	if (ret->wait == THREAD_UNSEEN)
		process->may_see_waits = false;
	return true;
}

static int process_read_threads(struct process *process)
{
	_cleanup_(closedirp) DIR *dir = NULL;
	struct dirent *entry;
	size_t n_room = 0;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/task", process->pid);
	dir = opendir(path);
	if (!dir)
		return -ESRCH;
	while ((entry = readdir(dir)) && process->n_threads < PROCESS_MAX_THREADS) {
		pid_t tid = (pid_t)strtol(entry->d_name, NULL, 10);

		if (tid <= 0)
			continue;
		if (process->n_threads == n_room) {
			struct thread *more;

			n_room = n_room ? 2 * n_room : 16;
			more = reallocarray(process->threads, n_room, sizeof(*more));
			if (!more)
				return -ENOMEM;
			process->threads = more;
		}
		if (thread_read(process, tid, &process->threads[process->n_threads]))
			process->n_threads++;
	}
	return process->n_threads ? 0 : -ESRCH;
}

/* ---- userfaultfds ---------------------------------------------------------------------------- */

static void uffd_read(struct process *process, int fd)
{
	struct process_uffd *uffd = &process->uffds[process->n_uffds];
	char path[64], text[TEXT_BYTES];
	struct stat stat_of_fd;

	*uffd = (struct process_uffd){ .fd = fd };
	snprintf(path, sizeof(path), "/proc/%d/fd/%d", process->pid, fd);
	if (stat(path, &stat_of_fd) < 0)
		return;
	uffd->inode = stat_of_fd.st_ino;
	snprintf(path, sizeof(path), "/proc/%d/fdinfo/%d", process->pid, fd);
	if (procfs_read(path, text, sizeof(text), NULL) == 0) {
		procfs_find_number(text, "pending", &uffd->n_pending);
		procfs_find_number(text, "total", &uffd->n_total);
	}
	process->n_uffds++;
}

static void process_read_uffds(struct process *process)
{
	_cleanup_(closedirp) DIR *dir = NULL;
	struct dirent *entry;
	char path[64], name[256];

	snprintf(path, sizeof(path), "/proc/%d/fd", process->pid);
	dir = opendir(path);
	process->may_see_fds = dir != NULL;
	while (dir && (entry = readdir(dir)) && process->n_uffds < PROCESS_MAX_UFFDS) {
		int fd = (int)strtol(entry->d_name, NULL, 10);

		if (!isdigit((unsigned char)entry->d_name[0]))
			continue;
		process_fd_name(process->pid, fd, name, sizeof(name));
		if (strcmp(name, "anon_inode:[userfaultfd]") == 0)
			uffd_read(process, fd);
	}
}

/* ---- the whole ------------------------------------------------------------------------------- */

int process_read(struct process **ret, pid_t pid)
{
	_cleanup_(process_freep) struct process *process = NULL;
	char path[64], text[TEXT_BYTES];
	uint64_t number = 0, ticks = 0;
	int r;

	process = calloc(1, sizeof(*process));
	if (!process)
		return -ENOMEM;
	process->pid = pid;
	process->may_see_waits = true;
	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	if (procfs_read(path, text, sizeof(text), NULL) < 0 ||
	    !parse_stat(text, process->name, &process->state, &ticks))
		return -ESRCH;
	process->started_us = ticks * (1000000 / (uint64_t)sysconf(_SC_CLK_TCK));
	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	if (procfs_read(path, text, sizeof(text), NULL) < 0)
		return -ESRCH;
	if (procfs_find_number(text, "Tgid", &number) && (pid_t)number != pid)
		return -ESRCH; /* a thread of another */
	if (procfs_find_number(text, "TracerPid", &number))
		process->tracer = (pid_t)number;
	if (procfs_find_number(text, "Uid", &number))
		process->uid = (uid_t)number;
	process->inner_pid = innermost(text, "NSpid:");

	r = process_read_threads(process);
	if (r < 0)
		return r;
	process_read_uffds(process);
	*ret = TAKE_PTR(process);
	return 0;
}

struct process *process_free(struct process *process)
{
	if (!process)
		return NULL;
	free(process->threads);
	free(process);
	return NULL;
}

size_t process_count(const struct process *process, enum thread_wait wait)
{
	size_t n = 0;

	for (size_t i = 0; i < process->n_threads; i++)
		n += process->threads[i].wait == wait;
	return n;
}
