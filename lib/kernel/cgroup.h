/* SPDX-License-Identifier: MIT */
/*
 * Control groups: where the hierarchy of a controller is mounted, and where in it a process is.
 *
 * A controller is either on a mount of its own (version 1) or in the unified hierarchy. Groups
 * outside our own control group namespace cannot be seen.
 *
 * Context of all: any; they read small files and do not allocate.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define CGROUP_PATH_BYTES   1024
#define CGROUP_FOLDER_BYTES (2 * CGROUP_PATH_BYTES)

/* Readable. One hierarchy, as we see it. */
struct cgroup_tree {
	char folder[CGROUP_PATH_BYTES]; /* its mount point; empty if there is none */
	char prefix[CGROUP_PATH_BYTES]; /* the group that is mounted there; "" is all of them */
	const char *controller;		/* of version 1; NULL: the unified one */
};

/* Readable. A group and those above it. */
struct cgroup_level {
	char folder[CGROUP_FOLDER_BYTES];
	size_t n_top; /* length of the mount point, at its beginning */
};

/* @controller: static text, NULL for the unified hierarchy. Return: 0 (@ret->folder is empty if it is not mounted), -errno. */
int cgroup_find_tree(const char *controller, struct cgroup_tree *ret);

/* The group of a process. Return: 0, -ENOENT (none that we see), -ESRCH, other -errno. */
int cgroup_of_process(const struct cgroup_tree *tree, pid_t pid, struct cgroup_level *ret);

/* The same from the text of its cgroup file. Return: 0, -ENOENT. */
int cgroup_of_member(const struct cgroup_tree *tree, const char *membership,
		     struct cgroup_level *ret);

/* One level up. Return: false at the top, and then nothing has changed. */
bool cgroup_go_up(struct cgroup_level *level);
