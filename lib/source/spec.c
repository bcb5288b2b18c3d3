/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* SPEC: parsed, and its file opened. */
#include "source/spec.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/sentence.h"
#include "base/units.h"
#include "source/file-spec.h"
#include "source/kinds.h"

#define KEPT_BYTES (2 * PATH_MAX + 64)

/* Return: @r. */
__attribute__((format(printf, 3, 4))) static int fail(const char **ret_error, int r,
						      const char *format, ...)
{
	va_list args;

	if (!ret_error)
		return r;
	va_start(args, format);
	*ret_error = sentence_make(format, args);
	va_end(args);
	return r;
}

static int parse_file(const char *spec, char path[PATH_MAX], uint64_t *ret_offset,
		      const char **ret_error)
{
	const char *option = file_spec_path(spec, path), *key = ",offset=";

	if (!option)
		return fail(ret_error, -EINVAL, "source: the path is longer than %d bytes",
			    PATH_MAX - 1);
	*ret_offset = 0;
	if (!*option)
		return 0;
	if (strncmp(option, key, strlen(key)))
		return fail(ret_error, -EINVAL,
			    "source: unknown option '%s' (a comma in a path is written ',,')",
			    option + 1);
	if (file_spec_number(option + strlen(key), ret_offset))
		return fail(ret_error, -EINVAL,
			    "source: '%s' is no offset (such as 4096, 0x1000, 4K)",
			    option + strlen(key));
	return 0;
}

/* O_NONBLOCK: a FIFO must not hold us up; source_new_file() refuses it and takes the flag off
 * files. */
static int open_file(const char *path, int *ret_fd, const char **ret_error)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	int r;

	if (fd < 0) {
		r = -errno;
		return fail(ret_error, r, "source: %s: %m", path);
	}
	*ret_fd = fd;
	return 0;
}

static int new_file(struct source **ret, const char *what, int fd, uint64_t offset,
		    const char **ret_error)
{
	int r = source_new_file(ret, fd, offset);

	if (r == 0)
		return 0;
	if (r == -EBADF)
		return fail(ret_error, r, "source: %s: not open for reading", what);
	if (r == -EINVAL)
		return fail(ret_error, r,
			    "source: %s: no file or block device that reaches beyond byte %" PRIu64,
			    what, offset);
	errno = -r;
	return fail(ret_error, r, "source: %s: %m", what);
}

static int source_open_file(struct source **ret, const char *spec, int fd, bool is_again,
			    const char **ret_error)
{
	_cleanup_(closep) int own_fd = -EBADF;
	char path[PATH_MAX];
	uint64_t offset;
	int r;

	r = parse_file(spec, path, &offset, ret_error);
	if (r)
		return r;
	if ((!path[0] || is_again) && fd < 0)
		return fail(ret_error, -EINVAL,
			    "source: 'file:' without a path needs an open file");
	if (path[0] && !is_again && fd >= 0)
		return fail(ret_error, -EINVAL, "source: both the path %s and an open file", path);
	if (!path[0] || is_again)
		return new_file(ret, path[0] ? path : "the open file", fd, offset, ret_error);

	r = open_file(path, &own_fd, ret_error);
	if (r)
		return r;
	return new_file(ret, path, own_fd, offset, ret_error);
}

static int source_make(struct source **ret, const char *spec, int fd, bool is_again,
		       const char **ret_error)
{
	int r;

	if (!strncmp(spec, "file:", strlen("file:")))
		return source_open_file(ret, spec, fd, is_again, ret_error);

	if (!strcmp(spec, "zero"))
		r = source_new_zero(ret);
	else if (!strcmp(spec, "backing"))
		r = source_new_backing(ret);
	else
		return fail(
			ret_error, -EINVAL,
			"source: unknown '%s' (zero, backing, file:PATH[,offset=N], image:PATH, "
			"firecracker:BASE[+DIFF], cloud-hypervisor:PATH)",
			spec);
	return r ? fail(ret_error, r, "source: out of memory") : 0;
}

/*
 * A file that came open has no path in its SPEC, but a successor that did not get the open file has
 * nothing else to find it by: what the kernel calls it goes into the SPEC that is kept. That it is the
 * same file is proved by its identity then.
 * Return: @spec, or @text.
 */
static const char *kept_spec(const char *spec, int fd, char text[static KEPT_BYTES])
{
	char link[32], path[PATH_MAX];
	const char *gone = " (deleted)";
	size_t n = strlen("file:");
	ssize_t n_path = -1;

	if (fd >= 0 && (!strcmp(spec, "file:") || !strncmp(spec, "file:,", n + 1))) {
		snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
		n_path = readlink(link, path, sizeof(path));
	}
	if (n_path <= 0 || n_path == sizeof(path) || path[0] != '/' ||
	    (n_path > (ssize_t)strlen(gone) &&
	     !memcmp(path + n_path - strlen(gone), gone, strlen(gone))))
		return spec;
	memcpy(text, spec, n);
	for (ssize_t i = 0; i < n_path; i++) {
		text[n++] = path[i];
		if (path[i] == ',')
			text[n++] = ',';
	}
	snprintf(text + n, KEPT_BYTES - n, "%s", spec + strlen("file:"));
	return text;
}

static int source_make_named(struct source **ret, const char *spec, int fd, bool is_again,
			     const char **ret_error)
{
	char text[KEPT_BYTES];
	_cleanup_(source_unrefp) struct source *source = NULL;
	int r;

	r = source_make(&source, spec, fd, is_again, ret_error);
	if (r)
		return r;
	source->spec = strdup(is_again ? spec : kept_spec(spec, fd, text));
	if (!source->spec)
		return fail(ret_error, -ENOMEM, "source: out of memory");
	*ret = TAKE_PTR(source);
	return 0;
}

int source_open(struct source **ret, const char *spec, int fd, const char **ret_error)
{
	return source_make_named(ret, spec, fd, false, ret_error);
}

int source_reopen(struct source **ret, const char *spec, int fd, const char **ret_error)
{
	return source_make_named(ret, spec, fd, true, ret_error);
}
