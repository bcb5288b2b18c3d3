/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The SPECs of images. */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/files.h"
#include "image/image-chain.h"
#include "image/image-error.h"
#include "image/image-foreign.h"
#include "image/image-source.h"
#include "source/file-spec.h"

#define MAX_PATHS IMAGE_MAX_LAYERS
#define MAX_CACHE (UINT64_C(1) << 34)

/* Readable. A SPEC taken apart. */
struct parts {
	size_t n_spec;
	enum image_format format;
	char *texts; /* owned; what the strings below lie in */
	const char *paths[MAX_PATHS];
	size_t n_paths;
	char memory[IMAGE_NAME_BYTES]; /* "": the only one */
	uint8_t digest[IMAGE_DIGEST_BYTES];
	bool has_digest;
	bool is_single; /* it may have no parents */
	uint64_t cache_bytes;
};

static void parts_done(struct parts *parts)
{
	free(parts->texts);
}

static const char *find_format(const char *spec, enum image_format *ret)
{
	static const struct {
		const char *prefix;
		enum image_format format;
	} kinds[] = { { "image:", IMAGE_UFDI },
		      { "firecracker:", IMAGE_FIRECRACKER },
		      { "cloud-hypervisor:", IMAGE_CLOUD_HYPERVISOR } };

	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		size_t n = strlen(kinds[i].prefix);

		if (strncmp(spec, kinds[i].prefix, n) == 0) {
			*ret = kinds[i].format;
			return spec + n;
		}
	}
	return NULL;
}

bool image_spec_is(const char *spec)
{
	enum image_format format;

	return find_format(spec, &format) != NULL;
}

/*
 * A word up to a separator that is not doubled; *@spec moves on to it. @to has room for all of
 * @spec. Return: its end.
 */
static char *take_word(const char **spec, const char *separators, char *to)
{
	const char *from = *spec;

	for (; *from; from++) {
		if (strchr(separators, *from) && from[1] != *from)
			break;
		from += strchr(separators, *from) != NULL;
		*to++ = *from;
	}
	*to = '\0';
	*spec = from;
	return to;
}

/* One option behind its comma. */
static int parse_option(struct parts *parts, const char *option, const char **ret_error)
{
	bool is_ufdi = parts->format == IMAGE_UFDI;

	if (is_ufdi && strncmp(option, "memory=", 7) == 0) {
		if (!option[7] || strlen(option + 7) >= IMAGE_NAME_BYTES)
			return image_fail(ret_error, -EINVAL, "source: '%s' is no memory's name",
					  option + 7);
		strcpy(parts->memory, option + 7);
		return 0;
	}
	if (is_ufdi && strncmp(option, "digest=", 7) == 0) {
		if (!image_digest_parse(option + 7, parts->digest))
			return image_fail(ret_error, -EINVAL,
					  "source: '%s' is no digest (32 hexadecimal digits)",
					  option + 7);
		parts->has_digest = true;
		return 0;
	}
	if (is_ufdi && strncmp(option, "cache=", 6) == 0) {
		if (file_spec_number(option + 6, &parts->cache_bytes) || !parts->cache_bytes ||
		    parts->cache_bytes > MAX_CACHE)
			return image_fail(ret_error, -EINVAL,
					  "source: '%s' is no size of a cache (64K to 16G)",
					  option + 6);
		return 0;
	}
	if (is_ufdi && strcmp(option, "single") == 0) {
		parts->is_single = true;
		return 0;
	}
	return image_fail(ret_error, -EINVAL,
			  "source: unknown option '%s' (a comma in a path is written ',,')",
			  option);
}

/* Return: 0, -EINVAL, -ENOMEM. */
static int parse(const char *spec, struct parts *parts, const char **ret_error)
{
	const char *rest = find_format(spec, &parts->format), *separators = ",";
	char *to;
	int r = 0;

	if (!rest)
		return image_fail(ret_error, -EINVAL, "source: '%s' is no image", spec);
	if (parts->format == IMAGE_FIRECRACKER)
		separators = ",+";
	parts->n_spec = strlen(spec);
	to = parts->texts = malloc(parts->n_spec + 2);
	if (!to)
		return image_fail(ret_error, -ENOMEM, "source: out of memory");
	do {
		if (parts->n_paths == MAX_PATHS)
			return image_fail(ret_error, -EINVAL, "source: more than %d files",
					  MAX_PATHS);
		rest += parts->n_paths > 0;
		parts->paths[parts->n_paths++] = to;
		to = take_word(&rest, separators, to) + 1;
		if (strlen(parts->paths[parts->n_paths - 1]) >= PATH_MAX ||
		    (parts->n_paths > 1 && !*parts->paths[parts->n_paths - 1]))
			return image_fail(ret_error, -EINVAL,
					  "source: the path is empty, or longer than %d bytes",
					  PATH_MAX - 1);
	} while (*rest == '+');
	if (parts->n_paths > 1 && !*parts->paths[0])
		return image_fail(ret_error, -EINVAL,
				  "source: an open file can have no differences: name the files");
	while (r == 0 && *rest) {
		char *option = to;

		rest++;
		to = take_word(&rest, ",", to) + 1;
		r = parse_option(parts, option, ret_error);
	}
	return r;
}

/* ---- opening ---- */

static int choose_memory(const struct image *image, const struct parts *parts, uint32_t *ret,
			 const char **ret_error)
{
	char names[8 * IMAGE_NAME_BYTES] = "";
	size_t n = 0;

	if (parts->memory[0] && image_find_memory(image, parts->memory, ret))
		return 0;
	*ret = 0;
	if (!parts->memory[0] && image_n_memories(image) == 1)
		return 0;
	for (uint32_t i = 0; i < image_n_memories(image) && n < sizeof(names); i++)
		n += (size_t)snprintf(names + n, sizeof(names) - n, "%s%s", i ? ", " : "",
				      image_memory(image, i)->name);
	return image_fail(ret_error, -EINVAL,
			  "source: %s has the memories %s; say which, with memory=NAME",
			  parts->paths[0], names[0] ? names : "of nobody");
}

/*
 * @fd: of the top file, or -1. Return: as image_open(), and -EINVAL.
 */
static int open_image(const struct parts *parts, int fd, struct image_open_opts opts,
		      struct image **ret, uint32_t *ret_memory, const char **ret_error)
{
	_cleanup_(image_unrefp) struct image *image = NULL;
	const char *name = parts->paths[0][0] ? parts->paths[0] : "the open file";
	const char *why = NULL;
	int r;

	if (parts->has_digest)
		opts.digest = parts->digest;
	opts.without_parents = parts->is_single || !parts->paths[0][0];
	if (parts->format == IMAGE_UFDI)
		r = image_open(&image, name, fd, &opts, &why);
	else if (parts->paths[0][0])
		r = image_open_foreign(&image, parts->format, parts->paths, parts->n_paths, fd,
				       &why);
	else
		r = image_open_foreign(&image, parts->format, &name, 1, fd, &why);
	if (r < 0)
		return image_fail(ret_error, r, "source: %s", why);
	r = choose_memory(image, parts, ret_memory, ret_error);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(image);
	return 0;
}

int image_spec_open(struct image **ret, uint32_t *ret_memory, const char *spec,
		    const char **ret_error)
{
	_cleanup_(parts_done) struct parts parts = {};
	int r = parse(spec, &parts, ret_error);

	if (r == 0 && !parts.paths[0][0])
		r = image_fail(ret_error, -EINVAL, "source: '%s' names no file", spec);
	return r ? r
		 : open_image(&parts, -1, (struct image_open_opts){}, ret, ret_memory, ret_error);
}

bool image_spec_file(const char *spec, char path[PATH_MAX])
{
	_cleanup_(parts_done) struct parts parts = {};
	const char *last;

	if (!image_spec_is(spec) || parse(spec, &parts, NULL))
		return false;
	last = parts.paths[parts.n_paths - 1];
	strcpy(path, last);
	return *last;
}

/* ---- what is kept ---- */

/* @to has room for each byte of @text twice. */
static size_t put_quoted(char *to, size_t n, const char *text, const char *separators)
{
	for (; *text; text++) {
		if (strchr(separators, *text))
			to[n++] = *text;
		to[n++] = *text;
	}
	to[n] = '\0';
	return n;
}

/* What the kernel calls an open file. Return: "" if that is no path. */
static const char *name_open_file(int fd, char path[PATH_MAX])
{
	const char *gone = " (deleted)";
	char link[32];
	ssize_t n;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, path, PATH_MAX - 1);
	path[n > 0 ? n : 0] = '\0';
	if (path[0] != '/' || (n > (ssize_t)strlen(gone) && !strcmp(path + n - strlen(gone), gone)))
		path[0] = '\0';
	return path;
}

/*
 * The SPEC that finds the same again: with the path of what came open, and the digest. Return:
 * NULL: no memory.
 */
static char *make_kept(const struct parts *parts, struct source *source, const struct image *image)
{
	const char *separators = parts->format == IMAGE_FIRECRACKER ? ",+" : ",";
	size_t n, n_room = 2 * (parts->n_spec + PATH_MAX) + 128;
	/* a folder's file, if it is one of Cloud Hypervisor's */
	const char *only = parts->format == IMAGE_CLOUD_HYPERVISOR ? image->layers[0]->path : NULL;
	char path[PATH_MAX], digest[IMAGE_DIGEST_TEXT], *text = malloc(n_room);

	if (!text)
		return NULL;
	n = (size_t)snprintf(
		text, n_room,
		"%s:", parts->format == IMAGE_UFDI ? "image" : image_format_name(parts->format));
	for (size_t i = 0; i < parts->n_paths; i++) {
		const char *name = only ?: parts->paths[i];

		if (i)
			text[n++] = '+';
		if (!parts->paths[i][0])
			name = name_open_file(source_file(source, NULL), path);
		n = put_quoted(text, n, name, separators);
	}
	if (parts->memory[0]) {
		n += (size_t)snprintf(text + n, n_room - n, ",memory=");
		n = put_quoted(text, n, parts->memory, ",");
	}
	if (parts->format == IMAGE_UFDI) {
		image_digest_text(image_digest(image), digest);
		n += (size_t)snprintf(text + n, n_room - n, ",digest=%s", digest);
	}
	if (parts->cache_bytes)
		n += (size_t)snprintf(text + n, n_room - n, ",cache=%" PRIu64, parts->cache_bytes);
	/* whoever passed an open file may not have others opened for him later, either */
	if (parts->format == IMAGE_UFDI && (parts->is_single || !parts->paths[0][0]))
		strcpy(text + n, ",single");
	return text;
}

static int open_source(struct source **ret, const char *spec, int fd, bool is_again,
		       const char **ret_error)
{
	_cleanup_(source_unrefp) struct source *source = NULL;
	_cleanup_(image_unrefp) struct image *image = NULL;
	_cleanup_(parts_done) struct parts parts = {};
	struct image_open_opts opts = { .is_source = true };
	uint32_t memory;
	bool has_path;
	int r;

	r = parse(spec, &parts, ret_error);
	if (r < 0)
		return r;
	has_path = parts.paths[0][0];
	if ((!has_path || is_again) && fd < 0)
		return image_fail(ret_error, -EINVAL, "source: '%s' needs an open file", spec);
	if (has_path && !is_again && fd >= 0)
		return image_fail(ret_error, -EINVAL, "source: both the path %s and an open file",
				  parts.paths[0]);
	r = open_image(&parts, fd, opts, &image, &memory, ret_error);
	if (r < 0)
		return r;
	r = image_source_new(&source, image, memory, parts.cache_bytes);
	if (r < 0)
		return image_fail(ret_error, r, "source: out of memory");
	source->spec = make_kept(&parts, source, image);
	if (!source->spec)
		return image_fail(ret_error, -ENOMEM, "source: out of memory");
	*ret = TAKE_PTR(source);
	return 0;
}

int image_source_open(struct source **ret, const char *spec, int fd, const char **ret_error)
{
	return open_source(ret, spec, fd, false, ret_error);
}

int image_source_reopen(struct source **ret, const char *spec, int fd, const char **ret_error)
{
	return open_source(ret, spec, fd, true, ret_error);
}

/* ---- passed to somebody else ---- */

int image_spec_pass(const char *spec, char **ret_spec, int *ret_fd, const char **ret_error)
{
	_cleanup_(image_unrefp) struct image *image = NULL;
	_cleanup_(parts_done) struct parts parts = {};
	_cleanup_(closep) int fd = -EBADF;
	_cleanup_(freep) char *text = NULL;
	const char *separators = ",+", *options = strchr(spec, ':') + 1;
	char path[PATH_MAX];
	size_t n;
	uint32_t memory;
	int r;

	r = image_spec_open(&image, &memory, spec, ret_error);
	if (r == 0)
		r = parse(spec, &parts, ret_error);
	if (r < 0)
		return r;
	if (parts.format != IMAGE_FIRECRACKER)
		separators = ",";
	text = malloc(2 * (parts.n_spec + parts.n_paths * PATH_MAX) + 2);
	if (!text)
		return image_fail(ret_error, -ENOMEM, "source: out of memory");
	n = (size_t)(options - spec);
	memcpy(text, spec, n);
	if (image->n_layers == 1)
		r = fd_duplicate(&fd, image->layers[0]->fd);
	if (r < 0)
		return r;
	for (size_t i = 0; i < parts.n_paths; i++) {
		const char *name;

		(void)take_word(&options, separators, parts.texts);
		options += i + 1 < parts.n_paths;
		if (fd >= 0)
			continue;
		name = parts.format == IMAGE_FIRECRACKER
			       ? image->layers[image->n_layers - 1 - i]->path
			       : image->layers[0]->path;
		if (!realpath(name, path))
			return image_fail(ret_error, -errno, "source: %s: %s", name,
					  strerror(errno));
		if (i)
			text[n++] = '+';
		n = put_quoted(text, n, path, separators);
	}
	strcpy(text + n, options);
	*ret_spec = TAKE_PTR(text);
	*ret_fd = fd >= 0 ? TAKE_FD(fd) : -EBADF;
	return 0;
}
