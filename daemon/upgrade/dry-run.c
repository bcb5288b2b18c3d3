/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Asking another program whether it could take over. */
#include "upgrade/dry-run.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/units.h"
#include "guest/ledger.h"
#include "refusal.h"

#define MAX_ANSWER (64 * 1024)

static int refuse(struct refusal *refusal, const char *name, const char *what)
{
	return refusal_set(refusal, "io.ufd.manager.UpgradeRefused", NULL, "%s %s", name, what);
}

/* ---- its words ---- */

/* The first of those that it would not take. */
static int refuse_guests(const json_t *refused, const char *name,
			 const struct dry_run_guest *guests, size_t n_guests,
			 struct refusal *refusal)
{
	const json_t *first = json_array_get(refused, 0);
	const json_t *number = json_object_get(first, "ledger");
	const char *why = json_string_value(json_object_get(first, "why"));
	size_t index = json_is_integer(number) ? (size_t)json_integer_value(number) : SIZE_MAX;

	return refusal_set(refusal, "io.ufd.manager.UpgradeRefused", NULL,
			   "%s cannot take over guest `%.63s`: %.200s (%zu guests in all)", name,
			   index < n_guests ? guests[index].name : "?",
			   why ? why : "it does not say why", json_array_size(refused));
}

int dry_run_parse(const char *text, size_t n_text, const char *name,
		  const struct dry_run_guest *guests, size_t n_guests, struct dry_run *ret,
		  struct refusal *refusal)
{
	json_t *answer = json_loadb(text, n_text, JSON_REJECT_DUPLICATES, NULL);
	json_int_t layout, oldest, adoptable;
	const char *version;
	json_t *refused;
	int r = 0;

	if (json_unpack(answer, "{s:s, s:I, s:I, s:I, s:o}", "ufdd", &version, "layout", &layout,
			"oldest_layout", &oldest, "adoptable", &adoptable, "refused",
			&refused) < 0 ||
	    !json_is_array(refused) || strlen(version) >= sizeof(ret->version) || layout < 1 ||
	    layout > UINT32_MAX || oldest < 1 || oldest > layout || adoptable < 0)
		r = refuse(refusal, name, "is no ufdd: it did not say what it could take over");
	else if (json_array_size(refused))
		r = refuse_guests(refused, name, guests, n_guests, refusal);
	else if ((size_t)adoptable != n_guests)
		r = refuse(refusal, name, "did not look at every guest");
	else if (oldest > (json_int_t)ledger_layout)
		r = refuse(refusal, name,
			   "does not write what this release reads: there would be no way back");
	if (r == 0) {
		*ret = (struct dry_run){
			.layout = (uint32_t)layout,
			.oldest_layout = (uint32_t)oldest,
			.n_adoptable = (size_t)adoptable,
		};
		strcpy(ret->version, version);
	}
	json_decref(answer);
	return r;
}

/* ---- its life ---- */

struct fds {
	int *fds; /* owned, and what is in it */
	size_t n_fds;
};

static void fds_done(struct fds *fds)
{
	for (size_t i = 0; i < fds->n_fds; i++)
		closep(&fds->fds[i]);
	free(fds->fds);
}

/* Numbers beyond those that the program finds them at, so that no dup2() there hits one that is still needed. */
static int fds_reopen(struct fds *fds, const struct dry_run_guest *guests, size_t n_guests)
{
	int first_free = DRY_RUN_FIRST_FD + (int)n_guests;
	char path[64];

	fds->fds = calloc(n_guests + 1, sizeof(*fds->fds));
	if (!fds->fds)
		return -ENOMEM;
	for (size_t i = 0; i < n_guests; i++) {
		_cleanup_(closep) int fd = -EBADF;

		snprintf(path, sizeof(path), "/proc/self/fd/%d", guests[i].ledger);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			return -errno;
		fds->fds[i] = fcntl(fd, F_DUPFD_CLOEXEC, first_free);
		if (fds->fds[i] < 0)
			return -errno;
		fds->n_fds = i + 1;
	}
	return 0;
}

/* Nothing by which it could speak for us, or take something for its own. Owned array of borrowed texts. */
static char **child_environment(void)
{
	static const char *const hidden[] = { "NOTIFY_SOCKET=", "WATCHDOG_", "LISTEN_", "UFD_" };
	char **environment;
	size_t n = 0;

	for (char **at = environ; *at; at++)
		n++;
	environment = calloc(n + 1, sizeof(*environment));
	n = 0;
	for (char **at = environ; environment && *at; at++) {
		bool is_hidden = false;

		for (size_t i = 0; i < sizeof(hidden) / sizeof(hidden[0]); i++)
			is_hidden |= strncmp(*at, hidden[i], strlen(hidden[i])) == 0;
		if (!is_hidden)
			environment[n++] = *at;
	}
	return environment;
}

static int spawn_with(posix_spawn_file_actions_t *actions, const struct fds *fds, int binary,
		      int out, char **environment, pid_t *ret_pid)
{
	char path[64], option[64];
	char name[] = "ufdd";
	char *const arguments[] = { name, option, NULL };
	posix_spawnattr_t attributes;
	sigset_t none;
	int r = 0;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", binary);
	snprintf(option, sizeof(option), "--check-ledgers=%zu", fds->n_fds);
	posix_spawnattr_init(&attributes);
	sigemptyset(&none);
	posix_spawnattr_setsigmask(&attributes, &none);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
	r = posix_spawn_file_actions_addopen(actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
	if (r == 0)
		r = posix_spawn_file_actions_adddup2(actions, out, STDOUT_FILENO);
	for (size_t i = 0; r == 0 && i < fds->n_fds; i++)
		r = posix_spawn_file_actions_adddup2(actions, fds->fds[i],
						     DRY_RUN_FIRST_FD + (int)i);
	if (r == 0)
		r = posix_spawn(ret_pid, path, actions, &attributes, arguments, environment);
	posix_spawnattr_destroy(&attributes);
	return -r;
}

/* @ret_out: what it says; owned. Return: 0 or -errno. */
static int spawn(int given, const struct dry_run_guest *guests, size_t n_guests, pid_t *ret_pid,
		 int *ret_out)
{
	_cleanup_(closep) int binary = -EBADF, to_read = -EBADF, to_write = -EBADF;
	_cleanup_(freep) char **environment = child_environment();
	_cleanup_(fds_done) struct fds fds = {};
	posix_spawn_file_actions_t actions;
	int first_free = DRY_RUN_FIRST_FD + (int)n_guests;
	int pair[2], r;

	if (!environment)
		return -ENOMEM;
	r = fds_reopen(&fds, guests, n_guests);
	if (r < 0)
		return r;
	if (pipe2(pair, O_CLOEXEC) < 0)
		return -errno;
	to_read = pair[0];
	to_write = fcntl(pair[1], F_DUPFD_CLOEXEC, first_free);
	close(pair[1]);
	binary = fcntl(given, F_DUPFD_CLOEXEC, first_free);
	if (to_write < 0 || binary < 0)
		return -errno;
	posix_spawn_file_actions_init(&actions);
	r = spawn_with(&actions, &fds, binary, to_write, environment, ret_pid);
	posix_spawn_file_actions_destroy(&actions);
	if (r == 0)
		*ret_out = TAKE_FD(to_read);
	return r;
}

/* Everything up to its end, or to the end of time. Return: 0, -ETIMEDOUT, -EFBIG, -errno. */
static int listen_to(int out, uint64_t deadline_ns, char *text, size_t *ret_n)
{
	size_t n_text = 0;

	for (;;) {
		uint64_t now_ns = clock_now_ns();
		uint64_t left_ns = deadline_ns > now_ns ? deadline_ns - now_ns : 0;
		struct pollfd waited = { .fd = out, .events = POLLIN };
		ssize_t n;

		if (poll(&waited, 1, (int)(left_ns / NSEC_PER_MSEC)) == 0)
			return -ETIMEDOUT;
		n = read(out, text + n_text, MAX_ANSWER - n_text);
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n == 0) {
			*ret_n = n_text;
			return 0;
		}
		n_text += n > 0 ? (size_t)n : 0;
		if (n_text == MAX_ANSWER)
			return -EFBIG;
	}
}

int dry_run(int binary, const char *name, const struct dry_run_guest *guests, size_t n_guests,
	    uint64_t timeout_ns, struct dry_run *ret, struct refusal *refusal)
{
	_cleanup_(freep) char *text = malloc(MAX_ANSWER);
	_cleanup_(closep) int out = -EBADF;
	size_t n_text = 0;
	int status, r;
	pid_t pid;

	if (!text)
		return -ENOMEM;
	r = spawn(binary, guests, n_guests, &pid, &out);
	if (r < 0)
		return refusal_set(refusal, "io.ufd.manager.UpgradeRefused", NULL,
				   "%s cannot be run: %s", name, strerror(-r));
	r = listen_to(out, clock_now_ns() + timeout_ns, text, &n_text);
	kill(pid,
	     SIGKILL); /* ours has ended by itself; another may live on with its stdout closed */
	if (waitpid(pid, &status, 0) < 0)
		return -errno;
	if (r == -ETIMEDOUT)
		return refusal_set(refusal, "io.ufd.manager.UpgradeRefused", NULL,
				   "%s did not say within %llu seconds what it could take over",
				   name, (unsigned long long)(timeout_ns / NSEC_PER_SEC));
	if (r < 0)
		return refuse(refusal, name, "is no ufdd: it says too much");
	return dry_run_parse(text, n_text, name, guests, n_guests, ret, refusal);
}
