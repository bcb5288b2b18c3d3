/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A guest that its engine left: what was kept of it can be changed by a test before it is adopted
 * again, by the same engine or another.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "support/mortal-pager.h"
#include "support/paged-child.h"
#include "ufd/pager.h"

#define LEFT_PAGES 64

/* Readable and writable. */
struct left {
	struct paged_child child;
	char source_path[32];
	int source;
	struct ufd_pager *pager;
	struct ufd_pager_guest *guest; /* NULL while it is left */
	uint32_t mapper, memory;
	struct kept kept;
	char reports[8192]; /* of the last adoption, a line each */
	unsigned int n_events[32];
	int (*refetch)(void *left, struct ufd_pager_guest *guest, uint32_t kind, uint32_t id,
		       int *ret_fd);
};

/* A child, and a guest with a file as its source that is not started. Skips the test if there is no
 * userfaultfd. */
void left_init(struct left *left, enum child_memory kind, const struct ufd_pager_guest_opts *opts);
void left_init_pages(struct left *left, enum child_memory kind, uint64_t n_pages,
		     const struct ufd_pager_guest_opts *opts);
void left_done(struct left *left);

/* Duplicates of the ledger and the handles, as they are now. */
void left_keep(struct left *left);
/* The same, and then the engine leaves. */
void left_leave(struct left *left);
int left_adopt(struct left *left, int *ret_was_started);

/* Must be adopted and served; every page that was not discarded is right. */
void left_must_serve(struct left *left);

/* One that was kept; its fd may be replaced. */
struct ufd_handle *left_handle(struct left *left, uint32_t kind, uint32_t id);
/* Take it out of what was kept. */
void left_lose(struct left *left, uint32_t kind, uint32_t id);

/* Change how far a mapping has come, as the ledger says (one of the first 32). @stage: enum mapping_stage. */
void left_set_stage(struct left *left, uint32_t place, unsigned int stage);
