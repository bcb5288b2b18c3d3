/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Becoming another program. */
#include "upgrade/reexec.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "log.h"

struct passed {
	char name[64]; /* of a unit's socket: who made the unit chose it */
	int fd;	       /* borrowed, then owned: a duplicate beyond all final numbers */
};

struct reexec {
	struct passed *passed; /* owned */
	size_t n_passed;
	char **arguments;      /* owned; borrows from @arguments_block */
	char *arguments_block; /* owned */
	char *names;	       /* owned; for LISTEN_FDNAMES */
	int binary;	       /* owned */
	int fallback;	       /* owned */
	bool is_prepared;
};

int reexec_new(struct reexec **ret)
{
	struct reexec *reexec = calloc(1, sizeof(*reexec));

	if (!reexec)
		return -ENOMEM;
	reexec->binary = reexec->fallback = -EBADF;
	*ret = reexec;
	return 0;
}

struct reexec *reexec_free(struct reexec *reexec)
{
	if (!reexec)
		return NULL;
	for (size_t i = 0; reexec->is_prepared && i < reexec->n_passed; i++)
		closep(&reexec->passed[i].fd);
	closep(&reexec->binary);
	closep(&reexec->fallback);
	free(reexec->passed);
	free(reexec->arguments);
	free(reexec->arguments_block);
	free(reexec->names);
	free(reexec);
	return NULL;
}

int reexec_add(struct reexec *reexec, const char *name, int fd)
{
	struct passed *passed = reallocarray(reexec->passed, reexec->n_passed + 1, sizeof(*passed));

	if (!passed)
		return -ENOMEM;
	reexec->passed = passed;
	passed += reexec->n_passed++;
	snprintf(passed->name, sizeof(passed->name), "%s", name);
	passed->fd = fd;
	return 0;
}

/* ---- preparing ---- */

static int read_whole(const char *path, char **ret, size_t *ret_n)
{
	_cleanup_(closep) int fd = open(path, O_RDONLY | O_CLOEXEC);
	_cleanup_(freep) char *bytes = NULL;
	size_t n = 0, n_most = 0;
	ssize_t n_read;

	if (fd < 0)
		return -errno;
	do {
		char *more;

		n_most += 4096;
		more = realloc(bytes, n_most + 1);
		if (!more)
			return -ENOMEM;
		bytes = more;
		n_read = read(fd, bytes + n, n_most - n);
		if (n_read < 0)
			return -errno;
		n += (size_t)n_read;
	} while (n_read > 0);
	bytes[n] = '\0';
	*ret = TAKE_PTR(bytes);
	*ret_n = n;
	return 0;
}

/* From /proc, since getopt_long() has moved those of main() about. */
int reexec_arguments(char ***ret, char **ret_block)
{
	_cleanup_(freep) char *block = NULL;
	size_t n_block = 0, n = 0;
	char **arguments;
	int r;

	r = read_whole("/proc/self/cmdline", &block, &n_block);
	if (r < 0)
		return r;
	for (size_t i = 0; i < n_block; i += strlen(block + i) + 1)
		n++;
	arguments = calloc(n + 1, sizeof(*arguments));
	if (!arguments)
		return -ENOMEM;
	n = 0;
	for (size_t i = 0; i < n_block; i += strlen(block + i) + 1)
		arguments[n++] = block + i;
	*ret = arguments;
	*ret_block = TAKE_PTR(block);
	return 0;
}

static char *join_names(const struct reexec *reexec)
{
	char *names = malloc(reexec->n_passed * sizeof(reexec->passed->name) + 1);
	char *at = names;

	if (!names)
		return NULL;
	*at = '\0';
	for (size_t i = 0; i < reexec->n_passed; i++) {
		if (i)
			*at++ = ':';
		at = stpcpy(at, reexec->passed[i].name);
	}
	return names;
}

int reexec_prepare(struct reexec *reexec, int binary, int fallback)
{
	int first_free = SD_LISTEN_FDS_START + (int)reexec->n_passed;
	int r = 0;

	reexec->is_prepared = true; /* what is not duplicated below is none of ours to close */
	for (size_t i = 0; i < reexec->n_passed; i++) {
		int fd = r ? -EBADF : fcntl(reexec->passed[i].fd, F_DUPFD_CLOEXEC, first_free);

		reexec->passed[i].fd = fd < 0 ? -EBADF : fd;
		if (fd < 0 && r == 0)
			r = -errno;
	}
	if (r < 0)
		return r;
	reexec->binary = fcntl(binary, F_DUPFD_CLOEXEC, first_free);
	reexec->fallback = fcntl(fallback, F_DUPFD_CLOEXEC, first_free);
	if (reexec->binary < 0 || reexec->fallback < 0)
		return -errno;
	reexec->names = join_names(reexec);
	if (!reexec->names)
		return -ENOMEM;
	return reexec_arguments(&reexec->arguments, &reexec->arguments_block);
}

/* ---- going ---- */

static void stop_signals(int how)
{
	sigset_t signals;

	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGHUP);
	sigprocmask(how, &signals, NULL);
}

void reexec_unblock_signals(void)
{
	stop_signals(SIG_UNBLOCK);
}

static void set_number(const char *variable, long number)
{
	char text[32];

	snprintf(text, sizeof(text), "%ld", number);
	setenv(variable, text, 1);
}

/* Return: -errno; only if it failed. */
static int execute(const struct reexec *reexec, int binary, const json_t *past)
{
	_cleanup_(freep) char *text = json_dumps(past, JSON_COMPACT);

	if (text)
		setenv(REEXEC_VARIABLE, text, 1);
	fexecve(binary, reexec->arguments, environ);
	return -errno;
}

void reexec_go(struct reexec *reexec, json_t *past)
{
	int r;

	stop_signals(SIG_BLOCK);
	/* A thread that waits for a source that never answers may be left: what it closes is its own. */
	(void)unshare(CLONE_FILES);
	/* dup2() leaves O_CLOEXEC behind */
	for (size_t i = 0; i < reexec->n_passed; i++)
		dup2(reexec->passed[i].fd, SD_LISTEN_FDS_START + (int)i);
	set_number("LISTEN_PID", getpid());
	set_number("LISTEN_FDS", (long)reexec->n_passed);
	setenv("LISTEN_FDNAMES", reexec->names, 1);

	r = execute(reexec, reexec->binary, past);
	json_object_set_new(past, "error", json_string(strerror(-r)));
	r = execute(reexec, reexec->fallback, past);
	log_error(
		LOG_FIELDS(.error = r),
		"neither the other program nor this one can be executed; guests wait for a next one");
	_exit(EXIT_FAILURE);
}
