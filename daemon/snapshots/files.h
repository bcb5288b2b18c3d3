/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The directory of a snapshot while it is written.
 *
 * Files are written under names that end in `.new`, and renamed when all of them are safely on
 * disk; manifest.json is renamed last, and only with it there is a snapshot. A crash leaves files
 * of names that nobody reads, and the next save there writes over them.
 *
 * Context of all: job; block on the file system.
 */
#pragma once

#include <stdbool.h>

struct refusal;

/* Readable. */
struct snapshot_files {
	const char *path; /* borrowed */
	int directory;	  /* owned */
	int image;	  /* owned; readable and writable */
	int state;	  /* owned; -EBADF if only memory is saved */
	bool is_ours;	  /* the directory: we made it */
};

#define SNAPSHOT_FILES_NONE                                            \
	{                                                              \
		.directory = -EBADF, .image = -EBADF, .state = -EBADF, \
	}

/*
 * @path: made if missing; refused if it holds a snapshot already. Return: 0, or -ECANCELED with
 * BadSnapshot.
 */
int snapshot_files_open(struct snapshot_files *ret, const char *path, bool has_state,
			struct refusal *refusal);
void snapshot_files_done(struct snapshot_files *files);

/* Take away what a failed save wrote. */
void snapshot_files_discard(struct snapshot_files *files);

/*
 * @manifest: its text. What image and state hold is the snapshot now. Return: as opening; then
 * nothing looks like one.
 */
int snapshot_files_publish(const struct snapshot_files *files, const char *manifest,
			   struct refusal *refusal);
