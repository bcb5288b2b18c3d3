/* SPDX-License-Identifier: MIT */
/* The memories of the client's guest, as the VMM described them, and where this process maps them.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/units.h"
#include "client/discards.h"
#include "kernel/backing.h"
#include "ufd/ufd.h"

/* Readable. A view of the memory in this process. */
struct region {
	struct hva_range range;
	uint64_t offset_bytes;
	bool is_leaving; /* RemoveRegion was sent, and not answered */
	bool is_gone;	 /* ... and the daemon had done it before it died: no part of the guest */
};

/* Readable. */
struct client_memory {
	char *name;   /* owned */
	char *source; /* owned; SPEC */
	enum backing_kind kind;
	uint64_t page_bytes;
	uint64_t asked_page_bytes; /* as the VMM said, 0 if it did not */
	int backing;		   /* owned; -EBADF for anonymous memory */
	int source_fd;		   /* owned; -EBADF for none */
	bool is_handed_over;	   /* a daemon had it at some time */
	bool is_complete;	   /* known to hold all its bytes: what does not exist is zero */
	struct region *regions;	   /* owned; at least one once it is in the list */
	size_t n_regions;
	struct discards discards;
};

/* Embedded; zero is empty. Readable. */
struct memories {
	struct client_memory *
		*list; /* owned array of owned memories, in the order of their description */
	size_t n_list;
};

void memories_done(struct memories *memories);

/* NULL if there is none of this name. */
struct client_memory *memories_find(const struct memories *memories, const char *name);

/* Does a region share a byte with @range? */
bool memories_overlap(const struct memories *memories, struct hva_range range);

/**
 * client_memory_new() - a memory without a region
 * @opts:      of any age but already loaded; its address, length and offset are not looked at
 * @ret_error: what is wrong with it, a constant text
 *
 * Return: 0, -EINVAL, -EBADF, -ENOMEM, or -errno of the backing.
 */
int client_memory_new(struct client_memory **ret, const struct ufd_client_memory_opts *opts,
		      const char **ret_error);
struct client_memory *client_memory_free(struct client_memory *memory);
DEFINE_CLEANUP(struct client_memory, client_memory_free)

/* Is this view whole pages of the memory? */
bool memory_is_aligned(const struct client_memory *memory, const struct region *region);

/* Is every byte of [offset, offset + length) shown by a region? */
bool memory_is_mapped(const struct client_memory *memory, uint64_t offset, uint64_t length_bytes);

/* @memory is consumed on success. Return: 0 or -ENOMEM. */
int memories_add(struct memories *memories, struct client_memory *memory);
int memory_add_region(struct client_memory *memory, const struct region *region);

/* A daemon has them all, but for those that are gone. */
void memories_set_handed_over(struct memories *memories);

/* The region that is exactly @range, or NULL. */
struct region *memories_find_region(const struct memories *memories, struct hva_range range);

/* Forget the region that is exactly @range, and a memory without any. Return: was there one? */
bool memories_remove_region(struct memories *memories, struct hva_range range);
