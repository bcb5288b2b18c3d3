/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A guest: what it is made of, and views of its mappings that are replaced as a whole. */
#include "guest/guest.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static struct guest_view *view_alloc(uint32_t n_mappings)
{
	struct guest_view *view = calloc(1, sizeof(*view) + n_mappings * sizeof(view->mappings[0]));

	if (view)
		view->n_mappings = n_mappings;
	return view;
}

int guest_adopt(struct guest **ret, struct ledger *ledger)
{
	_cleanup_(guest_freep) struct guest *guest = NULL;

	guest = calloc(1, sizeof(*guest));
	if (!guest)
		return -ENOMEM;
	guest->view = view_alloc(0);
	if (!guest->view)
		return -ENOMEM;

	strncpy(guest->name, ledger_guest_name(ledger), sizeof(guest->name) - 1);
	guest->ledger = ledger;
	*ret = TAKE_PTR(guest);
	return 0;
}

int guest_new(struct guest **ret, const char *name)
{
	_cleanup_(ledger_freep) struct ledger *ledger = NULL;
	int r;

	if (!name[0] || strlen(name) >= NAME_BYTES)
		return -EINVAL;
	r = ledger_new(&ledger, name);
	if (r)
		return r;
	r = guest_adopt(ret, ledger);
	if (r)
		return r;
	TAKE_PTR(ledger);
	return 0;
}

struct guest *guest_free(struct guest *guest)
{
	if (!guest)
		return NULL;

	for (uint32_t i = 0; guest->view && i < guest->view->n_mappings; i++)
		free(guest->view->mappings[i]);
	free(guest->view);
	for (uint32_t i = 0; i < guest->n_memories; i++)
		memory_free(guest->memories[i]);
	for (uint32_t i = 0; i < guest->n_mappers; i++) {
		closep(&guest->mappers[i].uffd);
		closep(&guest->mappers[i].pidfd);
		closep(&guest->mappers[i].pagemap);
	}
	ledger_free(guest->ledger);
	free(guest);
	return NULL;
}

int guest_add_mapper(struct guest *guest, int uffd, int pidfd, int pagemap, pid_t pid,
		     uint64_t features, struct mapper **ret)
{
	struct mapper *mapper = &guest->mappers[guest->n_mappers];

	if (guest->n_mappers == MAX_MAPPERS)
		return GUEST_FULL;

	*mapper = (struct mapper){
		.id = guest->n_mappers++,
		.pid = pid,
		.uffd = uffd,
		.pidfd = pidfd,
		.pagemap = pagemap,
		.features = features,
	};
	*ret = mapper;
	return 0;
}

int guest_add_memory(struct guest *guest, struct memory *memory)
{
	if (guest->n_memories == MAX_MEMORIES)
		return GUEST_FULL;

	assert(memory->id == guest->n_memories);
	guest->memories[guest->n_memories++] = memory;
	return 0;
}

/* The first mapping of @view that lies behind (@mapper, @address); n_mappings if there is none. */
static uint32_t view_after(const struct guest_view *view, uint32_t mapper, struct hva address)
{
	uint32_t first = 0, end = view->n_mappings;

	while (first < end) {
		uint32_t middle = first + (end - first) / 2;
		const struct mapping *mapping = view->mappings[middle];

		if (mapping->mapper->id > mapper ||
		    (mapping->mapper->id == mapper && mapping->range.start.v > address.v))
			end = middle;
		else
			first = middle + 1;
	}
	return first;
}

static bool do_overlap(const struct mapping *a, const struct mapping *b)
{
	return a->mapper == b->mapper &&
	       a->range.start.v < b->range.start.v + b->range.length_bytes &&
	       b->range.start.v < a->range.start.v + a->range.length_bytes;
}

int guest_add_mapping(struct guest *guest, const struct mapping *mapping,
		      struct guest_view **ret_old, struct mapping **ret)
{
	_cleanup_(freep) struct guest_view *view = NULL;
	_cleanup_(freep) struct mapping *copy = NULL;
	struct guest_view *old = guest->view;
	uint32_t at = view_after(old, mapping->mapper->id, mapping->range.start);

	assert(mapping->range.length_bytes > 0);
	assert(is_aligned(mapping->range.length_bytes | mapping->offset_bytes |
				  mapping->range.start.v,
			  mapping->memory->page_bytes));
	if ((at > 0 && do_overlap(old->mappings[at - 1], mapping)) ||
	    (at < old->n_mappings && do_overlap(old->mappings[at], mapping)))
		return GUEST_OVERLAP;
	if (old->n_mappings == MAX_MAPPINGS)
		return GUEST_FULL;

	view = view_alloc(old->n_mappings + 1);
	copy = malloc(sizeof(*copy));
	if (!view || !copy)
		return -ENOMEM;
	*copy = *mapping;
	memcpy(view->mappings, old->mappings, at * sizeof(view->mappings[0]));
	view->mappings[at] = copy;
	memcpy(view->mappings + at + 1, old->mappings + at,
	       (old->n_mappings - at) * sizeof(view->mappings[0]));

	copy->memory->n_mappings++;
	guest->view = TAKE_PTR(view);
	*ret_old = old;
	*ret = TAKE_PTR(copy);
	return 0;
}

int guest_remove_mapping(struct guest *guest, const struct mapper *mapper, struct hva_range range,
			 struct guest_view **ret_old, struct mapping **ret_mapping)
{
	struct guest_view *old = guest->view, *view;
	uint32_t at = view_after(old, mapper->id, range.start);
	struct mapping *mapping = at > 0 ? old->mappings[--at] : NULL;

	if (!mapping || mapping->mapper != mapper || mapping->range.start.v != range.start.v ||
	    mapping->range.length_bytes != range.length_bytes)
		return GUEST_UNKNOWN;

	view = view_alloc(old->n_mappings - 1);
	if (!view)
		return -ENOMEM;
	memcpy(view->mappings, old->mappings, at * sizeof(view->mappings[0]));
	memcpy(view->mappings + at, old->mappings + at + 1,
	       (view->n_mappings - at) * sizeof(view->mappings[0]));

	mapping->memory->n_mappings--;
	guest->view = view;
	*ret_old = old;
	*ret_mapping = mapping;
	return 0;
}

struct mapping *guest_view_find(const struct guest_view *view, uint32_t mapper, struct hva address)
{
	uint32_t after = view_after(view, mapper, address);
	struct mapping *mapping;

	if (after == 0)
		return NULL;
	mapping = view->mappings[after - 1];
	if (mapping->mapper->id != mapper ||
	    address.v - mapping->range.start.v >= mapping->range.length_bytes)
		return NULL;
	return mapping;
}

bool guest_view_has_memory(const struct guest_view *view, const struct memory *memory)
{
	for (uint32_t i = 0; i < view->n_mappings; i++)
		if (view->mappings[i]->memory == memory && !view->mappings[i]->mapper->is_gone)
			return true;
	return false;
}

struct mapping *guest_view_find_page(const struct guest_view *view, const struct memory *memory,
				     uint64_t page)
{
	for (uint32_t i = 0; i < view->n_mappings; i++) {
		struct mapping *mapping = view->mappings[i];

		if (mapping->memory == memory && mapping->is_open && !mapping->mapper->is_gone &&
		    mapping_shows(mapping, page))
			return mapping;
	}
	return NULL;
}
