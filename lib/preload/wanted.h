/* SPDX-License-Identifier: MIT */
/* Which mappings are guest memory, and where their bytes come from: UFD_MEMORY and UFD_SOURCE. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct view;

#define WANTED_MAX 16

enum wanted_by {
	WANTED_SHARED, /* any shared, writable mapping of a memfd, tmpfs or hugetlbfs file */
	WANTED_SIZE,   /* a writable mapping of this length, shared or private */
	WANTED_NAME,   /* a mapping of the memfd or file of this name */
};

/* Readable. */
struct wanted {
	enum wanted_by by;
	uint64_t size_bytes;
	char *name;	/* owned */
	char *source;	/* owned; SPEC as libufd takes it */
	int source_fd;	/* owned; -1 for none */
	bool is_single; /* the source is one file, which serves one memory */
	bool is_taken;	/* ... and does already */
};

/* Readable. */
struct wanted_list {
	struct wanted list[WANTED_MAX];
	size_t n_list;
};

/*
 * @memory: MATCH[=SPEC] by `;`, or NULL; @source: SPEC for those without one of their own, or NULL.
 * Return: 0, or -1 with @ret_error (a constant text). Opens files.
 */
int wanted_parse(struct wanted_list *ret, const char *memory, const char *source,
		 const char **ret_error);

/* The first that means this view, or NULL. @is_file: its fd is a memfd, tmpfs or hugetlbfs file. */
struct wanted *wanted_find(struct wanted_list *wanted, const struct view *view, bool is_file);

/* The name of the file behind @fd: a memfd's own, or a path. "" if it cannot be had. */
void wanted_file_name(int fd, char *ret, size_t n_ret);
