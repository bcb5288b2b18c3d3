/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A snapshot of Cloud Hypervisor's on disk: a folder of
 *
 *	memory-SLOT		 the bytes of one mapping of guest memory, holes where they are zeros
 *	migration_config.json	 what Config said
 *	state.json		 what State said
 *	ufd-manifest.json	 how long each of them is
 *
 * It is written as a folder whose name ends in `.new`, which is renamed when all that is in it is safely
 * on disk. So there is a whole one under its name, or none; and a file that was cut later is noticed by
 * the manifest.
 *
 * Context of all: job; block on the file system.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "attach/cloud-hypervisor.h"

struct refusal;

#define FOLDER_NAME_BYTES 128

/* ---- writing one ---- */

/* Embedded. */
struct folder_draft {
	char name[FOLDER_NAME_BYTES];	      /* when it is whole */
	char new_name[FOLDER_NAME_BYTES + 4]; /* until then */
	int above;			      /* owned; the folder that it lies in */
	int directory;			      /* owned, and locked */
};

#define FOLDER_DRAFT_NONE                             \
	{                                             \
		.above = -EBADF, .directory = -EBADF, \
	}

enum { FOLDER_TAKEN = 1 }; /* there is one of this name, or it is just being written */

/*
 * What an earlier draft of this name left is thrown away. Return: 0, FOLDER_TAKEN, or -ECANCELED:
 * io.ufd.guest.BadSnapshot if nothing can be written at @above.
 */
int folder_draft_begin(struct folder_draft *ret, const char *above, const char *name,
		       struct refusal *refusal);

/* Of this mapping's length, and empty. @ret_fd: owned by the caller. Return: 0, -ECANCELED. */
int folder_draft_memory(const struct folder_draft *draft, const struct ch_mapping *mapping,
			int *ret_fd, struct refusal *refusal);

/*
 * It is a snapshot, also after a loss of power. @memories: of the layout's mappings, in its order.
 * Return: 0, or -ECANCELED: then it is none.
 */
int folder_draft_publish(const struct folder_draft *draft, const struct ch_layout *layout,
			 const int *memories, const char *config, size_t n_config,
			 const char *state, size_t n_state, struct refusal *refusal);

/* All of it goes, unless it was published. */
void folder_draft_done(struct folder_draft *draft);

/* ---- reading one ---- */

/* Readable. */
struct folder {
	struct ch_layout layout;
	int memories[CH_MAX_MAPPINGS]; /* owned; by the layout */
	char *config;		       /* owned */
	size_t n_config;
	char *state; /* owned */
	size_t n_state;
};

/* Return: 0 with @ret for folder_close(), or -ECANCELED: BadSnapshot. */
int folder_open(struct folder *ret, const char *path, struct refusal *refusal);
void folder_close(struct folder *folder);
