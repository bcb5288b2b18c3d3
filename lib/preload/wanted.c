/* SPDX-License-Identifier: MIT */
/* What is guest memory. */
#include "preload/wanted.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "preload/preload.h"

static bool parse_size(const char *text, uint64_t *ret)
{
	static const char units[] = "KMGT";
	unsigned long long number;
	const char *unit;
	char *end;

	errno = 0;
	number = strtoull(text, &end, 10);
	if (errno || end == text || *text == '-')
		return false;
	unit = *end ? strchr(units, *end) : NULL;
	if (unit) {
		unsigned int shift = 10 * (unsigned int)(unit - units + 1);

		if (number > UINT64_MAX >> shift)
			return false;
		number <<= shift;
		end++;
	}
	*ret = number;
	return *end == '\0' && number > 0;
}

/* The path of `file:PATH[,…]`, in which a comma is written twice. Return: what follows it. */
static const char *take_path(const char *at, char *path, size_t n_path)
{
	size_t n = 0;

	while (*at && n + 1 < n_path) {
		if (*at == ',') {
			if (at[1] != ',')
				break;
			at++;
		}
		path[n++] = *at++;
	}
	path[n] = '\0';
	return at;
}

/*
 * A file is opened here and now: with the rights of this process, which need not be the daemon's,
 * and before a sandbox hides it.
 */
static int take_source(struct wanted *wanted, const char *source, const char **ret_error)
{
	char path[PATH_MAX];
	const char *rest;

	wanted->source_fd = -1;
	wanted->is_single = strchr(source, ':') != NULL;
	*ret_error = "no memory";
	if (strncmp(source, "file:", 5)) {
		wanted->source = strdup(source);
		return wanted->source ? 0 : -1;
	}
	rest = take_path(source + 5, path, sizeof(path));
	wanted->source_fd = open(path, O_RDONLY | O_CLOEXEC);
	if (wanted->source_fd < 0) {
		*ret_error = "the file that UFD_SOURCE or UFD_MEMORY names cannot be opened";
		return -1;
	}
	return asprintf(&wanted->source, "file:%s", rest) < 0 ? -1 : 0;
}

static int take_match(struct wanted *wanted, const char *match, const char **ret_error)
{
	*ret_error = "UFD_MEMORY: a size is size:BYTES, with K, M, G or T";
	if (strncmp(match, "size:", 5) == 0) {
		wanted->by = WANTED_SIZE;
		return parse_size(match + 5, &wanted->size_bytes) ? 0 : -1;
	}
	wanted->by = *match ? WANTED_NAME : WANTED_SHARED;
	wanted->name = strdup(match);
	*ret_error = "no memory";
	return wanted->name ? 0 : -1;
}

/* One of the list; @item is written to. */
static int take_item(struct wanted_list *ret, char *item, const char *source,
		     const char **ret_error)
{
	struct wanted *wanted = &ret->list[ret->n_list];
	char *equals = strchr(item, '=');

	*ret_error = "UFD_MEMORY names more than 16 memories";
	if (ret->n_list == WANTED_MAX)
		return -1;
	if (equals) {
		*equals = '\0';
		source = equals + 1;
	}
	*ret_error = "UFD_MEMORY names a memory without a source, and there is no UFD_SOURCE";
	if (!source)
		return -1;
	ret->n_list++;
	if (take_match(wanted, item, ret_error) < 0)
		return -1;
	return take_source(wanted, source, ret_error);
}

int wanted_parse(struct wanted_list *ret, const char *memory, const char *source,
		 const char **ret_error)
{
	char *copy = strdup(memory ? memory : ""), *rest = copy, *item;
	int r = 0;

	*ret_error = "no memory";
	if (!copy)
		return -1;
	while (r == 0 && (item = strsep(&rest, ";")))
		if (*item || !memory || !*memory)
			r = take_item(ret, item, source, ret_error);
	free(copy);
	return r;
}

void wanted_file_name(int fd, char *ret, size_t n_ret)
{
	static const char memfd[] = "/memfd:", deleted[] = " (deleted)";
	char link[32], name[PATH_MAX];
	const char *start = name;
	ssize_t n;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, name, sizeof(name) - 1);
	name[n < 0 ? 0 : n] = '\0';
	if (strncmp(name, memfd, strlen(memfd)) == 0)
		start += strlen(memfd);
	n = (ssize_t)strlen(start);
	if (n > (ssize_t)strlen(deleted) && strcmp(start + n - strlen(deleted), deleted) == 0)
		n -= (ssize_t)strlen(deleted);
	snprintf(ret, n_ret, "%.*s", (int)n, start);
}

static bool is_meant(const struct wanted *wanted, const struct view *view, bool is_file)
{
	const int both = PROT_READ | PROT_WRITE;
	bool is_shared = (view->flags & MAP_TYPE) != MAP_PRIVATE;
	char name[PATH_MAX];

	if ((view->prot & both) != both)
		return false;
	switch (wanted->by) {
	case WANTED_SIZE:
		return view->length == wanted->size_bytes && (is_file == is_shared);
	case WANTED_SHARED:
		return is_file && is_shared;
	case WANTED_NAME:
		break;
	}
	if (!is_file || !is_shared)
		return false;
	wanted_file_name(view->fd, name, sizeof(name));
	return strcmp(name, wanted->name) == 0;
}

struct wanted *wanted_find(struct wanted_list *wanted, const struct view *view, bool is_file)
{
	for (size_t i = 0; i < wanted->n_list; i++)
		if (is_meant(&wanted->list[i], view, is_file))
			return &wanted->list[i];
	return NULL;
}
