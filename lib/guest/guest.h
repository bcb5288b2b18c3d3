/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A guest: a name, its memories, and every mapping of them in every mapper.
 *
 * The tables that the demand thread looks into (struct guest_view) are never changed in place while
 * it runs: who adds or removes builds a new view and hands it over by a command; the old one
 * comes back for freeing. So lookups need no lock.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/units.h"
#include "guest/ledger.h"
#include "guest/mapping.h"
#include "guest/memory.h"

#define MAX_MEMORIES 64

/* Immutable once shown to the demand thread, but for mapping->is_open. Readable. */
struct guest_view {
	uint32_t n_mappings;
	struct mapping *mappings[]; /* borrowed; by mapper id, then address */
};

/* Fields readable above; memories and mappers only ever grow while the guest lives. */
struct guest {
	char name[NAME_BYTES];
	struct ledger *ledger; /* owned */
	struct mapper mappers[MAX_MAPPERS];
	uint32_t n_mappers;
	struct memory *memories[MAX_MEMORIES]; /* owned */
	uint32_t n_memories;
	struct guest_view *view; /* owned; the newest one */
};

enum {
	_GUEST_OK,
	GUEST_FULL,    /* no room for another mapper, memory or mapping */
	GUEST_OVERLAP, /* the mapping overlaps another one of the same mapper */
	GUEST_UNKNOWN, /* no such mapping */
};

/* Without mappers or memories, in a new ledger. Return: 0, -EINVAL (name), other -errno. */
int guest_new(struct guest **ret, const char *name);

/* One named by the ledger of a former process. @ledger: consumed on success. Return: 0, -ENOMEM. */
int guest_adopt(struct guest **ret, struct ledger *ledger);

/* Closes what it owns, the mappings of the newest view included; touches no registration. */
struct guest *guest_free(struct guest *guest);
DEFINE_CLEANUP(struct guest, guest_free)

/* @uffd, @pidfd, @pagemap (or -EBADF): consumed on success. Return: 0, GUEST_FULL, -errno. */
int guest_add_mapper(struct guest *guest, int uffd, int pidfd, int pagemap, pid_t pid,
		     uint64_t features, struct mapper **ret);

/* @memory: consumed on success; its id must be guest->n_memories. Return: 0, GUEST_FULL. */
int guest_add_memory(struct guest *guest, struct memory *memory);

/**
 * guest_add_mapping() - a new view with one mapping more
 * @mapping: copied
 * @ret_old: the view before, to be freed once the demand thread has let go of it
 * @ret:     the copy in the new view
 *
 * guest->view is the new one on return; a running demand thread still uses the old.
 * Return: 0, GUEST_OVERLAP, GUEST_FULL, -ENOMEM.
 */
int guest_add_mapping(struct guest *guest, const struct mapping *mapping,
		      struct guest_view **ret_old, struct mapping **ret);

/*
 * @ret_mapping: taken out of the new view; free() it together with @ret_old.
 * Return: 0, GUEST_UNKNOWN, -ENOMEM.
 */
int guest_remove_mapping(struct guest *guest, const struct mapper *mapper, struct hva_range range,
			 struct guest_view **ret_old, struct mapping **ret_mapping);

/**
 * guest_view_find() - the mapping at an address, in O(log n)
 *
 * Context: any; does not block. Return: NULL if there is none.
 */
struct mapping *guest_view_find(const struct guest_view *view, uint32_t mapper, struct hva address);

/* Does any mapping, open or not, in a living mapper show @memory? What none shows is not filled. */
bool guest_view_has_memory(const struct guest_view *view, const struct memory *memory);

/* Any open mapping in a living mapper that shows @page of @memory; NULL if there is none. */
struct mapping *guest_view_find_page(const struct guest_view *view, const struct memory *memory,
				     uint64_t page);
