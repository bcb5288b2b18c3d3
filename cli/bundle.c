/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Support bundles. */
#include "bundle.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/files.h"
#include "base/units.h"

#define COPY_BYTES	(16 * MIB)
#define COMMAND_SECONDS 10
#define PATH_BYTES	1024

struct bundle {
	char folder[64]; /* owned on disk */
	char name[64];	 /* of the folder in it that is packed */
	json_t *members; /* owned */
	json_t *missing; /* owned */
};

int bundle_new(struct bundle **ret, const char *name)
{
	_cleanup_(bundle_freep) struct bundle *bundle = calloc(1, sizeof(*bundle));
	char template[] = "/tmp/ufd-support.XXXXXX", path[PATH_BYTES];

	if (!bundle)
		return -ENOMEM;
	if (!mkdtemp(template))
		return -errno;
	snprintf(bundle->folder, sizeof(bundle->folder), "%s", template);
	snprintf(bundle->name, sizeof(bundle->name), "%s", name);
	snprintf(path, sizeof(path), "%s/%s", bundle->folder, bundle->name);
	if (mkdir(path, 0700) < 0)
		return -errno;
	bundle->members = json_array();
	bundle->missing = json_array();
	*ret = TAKE_PTR(bundle);
	return 0;
}

static int remove_one(const char *path, const struct stat *stat, int kind, struct FTW *where)
{
	return remove(path);
}

struct bundle *bundle_free(struct bundle *bundle)
{
	if (!bundle)
		return NULL;
	if (bundle->folder[0])
		(void)nftw(bundle->folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	json_decref(bundle->members);
	json_decref(bundle->missing);
	free(bundle);
	return NULL;
}

json_t *bundle_members(struct bundle *bundle)
{
	return bundle->members;
}

json_t *bundle_missing(struct bundle *bundle)
{
	return bundle->missing;
}

void bundle_note_missing(struct bundle *bundle, const char *what, const char *reason, ...)
{
	char text[512];
	va_list arguments;

	va_start(arguments, reason);
	vsnprintf(text, sizeof(text), reason, arguments);
	va_end(arguments);
	json_array_append_new(bundle->missing, json_pack("{s:s, s:s}", "what", what, "why", text));
}

/* ---- members --------------------------------------------------------------------------------- */

static void make_folders(char *path)
{
	for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		(void)mkdir(path, 0700);
		*slash = '/';
	}
}

bool bundle_has(const struct bundle *bundle, const char *member)
{
	const json_t *entry;
	size_t i;

	json_array_foreach(bundle->members, i,
			   entry) if (strcmp(json_string_value(entry), member) == 0) return true;
	return false;
}

/* Return: an owned fd, or -errno, which is noted. */
static int bundle_open(struct bundle *bundle, const char *member)
{
	char path[PATH_BYTES];
	int fd;

	snprintf(path, sizeof(path), "%s/%s/%s", bundle->folder, bundle->name, member);
	make_folders(path);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0) {
		bundle_note_missing(bundle, member, "%s", strerror(errno));
		return -errno;
	}
	json_array_append_new(bundle->members, json_string(member));
	return fd;
}

void bundle_add_bytes(struct bundle *bundle, const char *member, const void *bytes, size_t n)
{
	_cleanup_(closep) int fd = bundle_open(bundle, member);
	int r = fd < 0 ? 0 : fd_write_all(fd, bytes, n);

	if (r < 0)
		bundle_note_missing(bundle, member, "cut: %s", strerror(-r));
}

void bundle_add_text(struct bundle *bundle, const char *member, const char *text)
{
	bundle_add_bytes(bundle, member, text, strlen(text));
}

void bundle_add_json(struct bundle *bundle, const char *member, const json_t *json)
{
	_cleanup_(freep) char *text = json_dumps(json, JSON_INDENT(1));

	if (text)
		bundle_add_text(bundle, member, text);
}

void bundle_copy(struct bundle *bundle, const char *member, const char *path)
{
	_cleanup_(closep) int from = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	_cleanup_(closep) int to = -EBADF;
	uint64_t n_copied = 0;
	char buffer[65536];
	ssize_t n;

	if (from < 0) {
		bundle_note_missing(bundle, member, "%s: %s", path, strerror(errno));
		return;
	}
	to = bundle_open(bundle, member);
	if (to < 0)
		return;
	while ((n = read(from, buffer, sizeof(buffer))) > 0 && n_copied < COPY_BYTES) {
		if (write(to, buffer, (size_t)n) != n)
			break;
		n_copied += (uint64_t)n;
	}
	if (n)
		bundle_note_missing(bundle, member, "cut: %s",
				    n < 0 ? strerror(errno) : "too long");
}

/* ---- commands -------------------------------------------------------------------------------- */

/* The alarm survives the exec and ends whatever takes too long. */
static _Noreturn void run_child(int out, const char *const *command, unsigned int seconds)
{
	_cleanup_(closep) int nothing = open("/dev/null", O_RDONLY | O_CLOEXEC);

	if (nothing < 0 || dup2(nothing, STDIN_FILENO) < 0 ||
	    (out >= 0 && (dup2(out, STDOUT_FILENO) < 0 || dup2(out, STDERR_FILENO) < 0)))
		_exit(126);
	alarm(seconds);
	execvp(command[0], (char *const *)command);
	_exit(127);
}

/* Return: the exit status, 128 + signal, or -errno. */
static int run(int out, const char *const *command, unsigned int seconds)
{
	pid_t child = fork();
	int status;

	if (child < 0)
		return -errno;
	if (child == 0)
		run_child(out, command, seconds);
	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

void bundle_run(struct bundle *bundle, const char *member, const char *const *command)
{
	_cleanup_(closep) int out = bundle_open(bundle, member);
	int status;

	if (out < 0)
		return;
	status = run(out, command, COMMAND_SECONDS);
	if (status == 127)
		bundle_note_missing(bundle, member, "there is no %s here", command[0]);
	else if (status)
		bundle_note_missing(bundle, member, "%s ended with status %d", command[0], status);
}

int bundle_pack(struct bundle *bundle, const char *file)
{
	const char *command[] = { "tar",       "--create",	  "--gzip",	  "--file",
				  file,	       "--directory",	  bundle->folder, "--owner=0",
				  "--group=0", "--numeric-owner", "--sort=name",  bundle->name,
				  NULL };
	int status = run(-EBADF, command, 0);

	if (status < 0)
		return status;
	return status == 127 ? -ENOENT : status ? -EIO : 0;
}
