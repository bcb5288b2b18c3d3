/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Mappers, memories and mappings come and go, before the start and after it. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/files.h"
#include "base/opts.h"
#include "guest/roster.h"
#include "kernel/pidfd.h"
#include "kernel/uffd.h"
#include "pager/track.h"

#define FORGET_TRIES 1000 /* a millisecond each */

/* Recorded before it is a mapper: a successor wants to know whose the kept descriptors are. */
static int mapper_add(struct ufd_pager_guest *paged, const struct recorded_mapper *recorded,
		      int uffd, int pidfd, int pagemap, struct mapper **ret)
{
	struct guest *guest = paged->guest;
	int r;

	if (guest->n_mappers == MAX_MAPPERS)
		return -ENOSPC;
	r = roster_put_mapper(guest->ledger, guest->n_mappers, recorded);
	if (r < 0)
		return r;
	r = guest_add_mapper(guest, uffd, pidfd, pagemap, recorded->pid, recorded->features, ret);
	assert(r == 0);
	(*ret)->start_ticks = recorded->start_ticks;
	(*ret)->has_own_pagemap = recorded->has_pagemap;
	return 0;
}

/*
 * Of two readers each would get half of the messages; and to register by it would be to touch the
 * other's memory.
 */
static bool is_uffd_served(const struct ufd_pager *pager, int uffd)
{
	for (const struct ufd_pager_guest *paged = pager->guests; paged; paged = paged->next)
		for (uint32_t i = 0; i < paged->guest->n_mappers; i++)
			if (uffd_is_same(paged->guest->mappers[i].uffd, uffd))
				return true;
	return false;
}

EXPORT int ufd_pager_guest_add_mapper(struct ufd_pager_guest *paged, int uffd, int pidfd,
				      int pagemap, uint32_t *ret_mapper)
{
	_cleanup_(closep) int own_uffd = -EBADF, own_pidfd = -EBADF, own_pagemap = -EBADF;
	struct recorded_mapper recorded = { .has_pagemap = pagemap >= 0 };
	struct mapper *mapper;
	int r;

	r = uffd_inspect(uffd, &recorded.features);
	if (r < 0)
		return r;
	if (recorded.features & UFFD_FEATURES_FOREIGN)
		return -EOPNOTSUPP;
	if (is_uffd_served(paged->pager, uffd))
		return -EBUSY;
	r = pidfd_get_pid(pidfd, &recorded.pid);
	if (r == 0)
		r = pidfd_start_ticks(recorded.pid, &recorded.start_ticks);
	if (r < 0)
		return r;
	r = fd_duplicate(&own_uffd, uffd);
	if (r == 0)
		r = fd_duplicate(&own_pidfd, pidfd);
	if (r == 0 && pagemap >= 0)
		r = fd_duplicate(&own_pagemap, pagemap);
	if (r < 0)
		return r;

	pthread_mutex_lock(&paged->model_lock);
	r = mapper_add(paged, &recorded, own_uffd, own_pidfd, own_pagemap, &mapper);
	pthread_mutex_unlock(&paged->model_lock);
	if (r < 0)
		return r;
	(void)TAKE_FD(own_uffd);
	(void)TAKE_FD(own_pidfd);
	(void)TAKE_FD(own_pagemap);
	*ret_mapper = mapper->id;
	return 0;
}

/* ---- memories ---- */

static int memory_check(struct ufd_pager_guest *paged, const struct ufd_pager_memory_opts *opts)
{
	size_t n_name = opts->name ? strnlen(opts->name, UFD_NAME_BYTES) : 0;

	if (!n_name || n_name == UFD_NAME_BYTES || !opts->source || !opts->length ||
	    opts->kind > UFD_MEMORY_PRIVATE)
		return -EINVAL;
	if (!is_aligned(opts->length | opts->backing_offset, opts->page_bytes) ||
	    opts->page_bytes < 4096 || opts->page_bytes > PAGE_MAX_BYTES ||
	    (opts->page_bytes & (opts->page_bytes - 1)))
		return -EINVAL;
	if (opts->source_offset + opts->length < opts->length ||
	    opts->backing_offset + opts->length < opts->length)
		return -EINVAL;
	for (uint32_t i = 0; i < paged->guest->n_memories; i++)
		if (!paged->guest->memories[i]->is_forgotten &&
		    strcmp(paged->guest->memories[i]->name, opts->name) == 0)
			return -EEXIST;
	if (source_length((struct source *)opts->source) < opts->source_offset + opts->length)
		return -ERANGE;
	return 0;
}

static int memory_check_backing(const struct ufd_pager_memory_opts *opts)
{
	struct backing_info info;
	int r;

	if (opts->kind == UFD_MEMORY_ANON)
		return ((struct source *)opts->source)->is_backing ? -EINVAL : 0;
	r = backing_inspect(opts->backing, &info);
	if (r < 0)
		return r == -ENOTSUP ? -EBADF : r;
	if ((opts->kind == UFD_MEMORY_SHMEM) != (info.kind == BACKING_SHMEM) &&
	    opts->kind != UFD_MEMORY_PRIVATE)
		return -EBADF;
	if (opts->page_bytes != info.page_bytes)
		return -EINVAL;
	if (opts->backing_offset + opts->length > info.length_bytes)
		return -ERANGE;
	return 0;
}

static const enum backing_kind kinds[] = {
	[UFD_MEMORY_ANON] = BACKING_ANON,
	[UFD_MEMORY_SHMEM] = BACKING_SHMEM,
	[UFD_MEMORY_HUGETLB] = BACKING_HUGETLB,
	[UFD_MEMORY_PRIVATE] = BACKING_PRIVATE,
};

/* @memory takes the id of @old, which was forgotten. */
static void memory_replace(struct ufd_pager_guest *paged, struct memory *old, struct memory *memory)
{
	struct command command = { .kind = COMMAND_REPLACE, .memory = memory };

	if (paged_demand(paged))
		(void)paged_command(paged, &command);
	else
		paged->guest->memories[old->id] = memory;
	old->next_forgotten = paged->forgotten;
	paged->forgotten = old;
	paged->sources[old->id] = source_unref(paged->sources[old->id]);
}

/*
 * Its last mapping is gone, and with it what we know of its pages: nobody tells us any more what
 * becomes of them. Mapped again it is a new memory.
 */
static void memory_forget(struct ufd_pager_guest *paged, struct memory *memory)
{
	struct command command = { .kind = COMMAND_FORGET, .memory = memory };
	struct timespec moment = { .tv_nsec = NSEC_PER_MSEC };

	if (paged_demand(paged)) {
		/* a read that is under way ends by itself; if not, the name stays taken */
		for (int i = 0; paged_command(paged, &command) == -EBUSY; i++) {
			if (i == FORGET_TRIES)
				return;
			nanosleep(&moment, NULL);
		}
	} else {
		memory->is_forgotten = true;
		atomic_store(&memory->n_absent, 0);
	}
	track_forget_memory(paged, memory);
	keep_drop_memory(paged->guest->ledger, memory);
	/* the guest's bytes are not kept for the sake of a memory that nobody sees */
	closep(&memory->backing);
	memory->backing = -EBADF;
}

static int memory_add(struct ufd_pager_guest *paged, const struct ufd_pager_memory_opts *opts,
		      uint32_t *ret_memory)
{
	struct guest *guest = paged->guest;
	struct source *source = (struct source *)opts->source;
	struct memory_config config = {
		.name = opts->name,
		.kind = kinds[opts->kind],
		.page_bytes = opts->page_bytes,
		.length_bytes = opts->length,
		.backing = opts->kind == UFD_MEMORY_ANON ? -EBADF : opts->backing,
		.backing_offset = opts->backing_offset,
		.source = source,
		.source_offset = opts->source_offset,
		.is_backing_source = source->is_backing,
	};
	struct memory *memory, *old;
	uint32_t id;
	int r;

	for (id = 0; id < guest->n_memories && !guest->memories[id]->is_forgotten; id++)
		;
	if (id == MAX_MEMORIES)
		return -ENOSPC;
	/* first its source: a memory without is none to a successor */
	r = keep_source(guest->ledger, id, source);
	if (r == 0)
		r = memory_new(&memory, id, &config, guest->ledger);
	if (r < 0) {
		ledger_drop_record(guest->ledger, LEDGER_SOURCE, id);
		return r;
	}
	old = id < guest->n_memories ? guest->memories[id] : NULL;
	if (old) {
		memory_replace(paged, old, memory);
	} else {
		r = guest_add_memory(guest, memory);
		assert(r == 0);
	}
	paged->sources[id] = source_ref(source);
	r = track_memory(paged, memory);
	if (r < 0) {
		memory_forget(paged, memory);
		return r;
	}
	*ret_memory = id;
	return 0;
}

EXPORT int ufd_pager_guest_add_memory(struct ufd_pager_guest *paged,
				      const struct ufd_pager_memory_opts *given,
				      uint32_t *ret_memory)
{
	struct ufd_pager_memory_opts opts;
	int r;

	r = opts_load(&opts, sizeof(opts), given);
	if (r < 0)
		return r;
	if (opts.page_bytes == 0)
		opts.page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
	r = memory_check(paged, &opts);
	if (r == 0)
		r = memory_check_backing(&opts);
	if (r < 0)
		return r;
	pthread_mutex_lock(&paged->model_lock);
	r = memory_add(paged, &opts, ret_memory);
	pthread_mutex_unlock(&paged->model_lock);
	return r;
}

void paged_forget_unmapped(struct ufd_pager_guest *paged)
{
	for (uint32_t i = 0; i < paged->guest->n_memories; i++)
		if (!paged->guest->memories[i]->n_mappings &&
		    !paged->guest->memories[i]->is_forgotten)
			memory_forget(paged, paged->guest->memories[i]);
}

/* ---- mappings ---- */

/* Show the newest view to the demand thread, then free @old and, if given, what was taken out of
 * it. */
static int view_show(struct ufd_pager_guest *paged, struct guest_view *old, struct mapping *removed)
{
	struct command command = { .kind = COMMAND_SHOW_VIEW, .view = paged->guest->view };
	int r = paged_command(paged, &command);

	/* A memory with larger pages than before waits for every slot to be free. */
	for (unsigned int tries = 0; r == -EBUSY && tries < 5000; tries++) {
		struct timespec moment = { .tv_nsec = NSEC_PER_MSEC };

		nanosleep(&moment, NULL);
		r = paged_command(paged, &command);
	}
	free(old);
	free(removed);
	return r;
}

/* Return: 0, -ENOMEM. */
static int mapping_hide(struct ufd_pager_guest *paged, const struct mapping *mapping)
{
	struct timespec moment = { .tv_nsec = NSEC_PER_MSEC };
	struct guest_view *old;
	struct mapping *removed;
	int r = -ENOMEM;

	/* It is unregistered: kept in the view, its absent pages could never be filled. */
	for (unsigned int tries = 0; r == -ENOMEM && tries < 5000; tries++) {
		r = guest_remove_mapping(paged->guest, mapping->mapper, mapping->range, &old,
					 &removed);
		if (r == -ENOMEM)
			nanosleep(&moment, NULL);
	}
	if (r == 0)
		(void)view_show(paged, old, removed);
	return r;
}

/* Return: 0, -ENOSPC. */
static int mapping_record(struct ufd_pager_guest *paged, struct mapping *mapping,
			  enum mapping_stage stage)
{
	mapping->stage = stage;
	return roster_put(paged->guest->ledger, paged->guest->view, mapping->place);
}

/*
 * Fill through others from now on. Return: 0; -EBUSY while a message about it may be unread. Before
 * the start nobody reads.
 */
static int mapping_close(struct ufd_pager_guest *paged, struct mapping *mapping)
{
	struct command command = { .kind = COMMAND_CLOSE, .mapping = mapping };
	struct timespec moment = { .tv_nsec = NSEC_PER_MSEC };
	int r;

	if (!paged_demand(paged)) {
		mapping->is_open = false;
		if (mapping->mapper->is_gone || !uffd_is_changing(mapping->mapper->uffd))
			return 0;
		return -EBUSY;
	}
	r = paged_command(paged, &command);
	for (unsigned int tries = 0; r == -EBUSY && tries < 5000; tries++) {
		nanosleep(&moment, NULL);
		r = paged_command(paged, &command);
	}
	return r;
}

/*
 * Unregister it, and take it out when no discard through it is unheard any more: in other mappings
 * of its memory these pages are to read zero, too, and only the view tells which they are.
 * Return: 0; -EBUSY, -ENOMEM: it stays in the view, closed, for paged_undo_halves().
 */
static int mapping_withdraw(struct ufd_pager_guest *paged, struct mapping *mapping)
{
	struct memory *memory = mapping->memory;
	bool is_leaving = mapping->stage == MAPPING_LEAVING;
	uint32_t place = mapping->place;
	int r;

	if (!mapping->mapper->is_gone)
		paged_unregister(mapping);
	r = mapping_close(paged, mapping);
	if (r == 0)
		r = mapping_hide(paged, mapping);
	if (r < 0)
		return r;
	/* its memory first: of a mapping that is leaving no memory is asked */
	if (is_leaving && !memory->n_mappings && !memory->is_forgotten)
		memory_forget(paged, memory);
	(void)roster_put(paged->guest->ledger, paged->guest->view, place); /* needs less room */
	return 0;
}

/* One that came to nothing, and is not to be unregistered. */
static void mapping_forget(struct ufd_pager_guest *paged, const struct mapping *mapping)
{
	uint32_t place = mapping->place;

	(void)mapping_hide(paged, mapping);
	(void)roster_put(paged->guest->ledger, paged->guest->view, place); /* needs less room */
}

void paged_undo_halves(struct ufd_pager_guest *paged)
{
	uint32_t i = 0;

	while (i < paged->guest->view->n_mappings) {
		struct mapping *mapping = paged->guest->view->mappings[i];

		if (mapping->stage == MAPPING_OPEN || mapping_withdraw(paged, mapping) < 0)
			i++;
	}
}

static int mapping_register(const struct mapping *mapping)
{
	switch (uffd_register(mapping->mapper->uffd, mapping->range, track_modes(mapping), NULL)) {
	case 0:
		return 0;
	case UFFD_BUSY:
		return -EBUSY;
	case UFFD_GONE:
		return -ESRCH;
	default:
		return -EPERM;
	}
}

static void mapping_open(struct ufd_pager_guest *paged, struct mapping *mapping)
{
	struct command command = { .kind = COMMAND_OPEN, .mapping = mapping };

	if (paged_demand(paged))
		(void)demand_command(paged_demand(paged), &command);
	else
		mapping->is_open = true;
}

/*
 * Each of its pages is in one place only: shown in two, it would be there in one and zero in the
 * other.
 */
bool mapping_is_private_and_shown(const struct guest_view *view, const struct mapping *wanted)
{
	struct page_range pages = mapping_pages(wanted);

	if (wanted->memory->kind != BACKING_ANON && wanted->memory->kind != BACKING_PRIVATE)
		return false;
	for (uint32_t i = 0; i < view->n_mappings; i++)
		if (view->mappings[i]->memory == wanted->memory &&
		    mapping_clip(view->mappings[i], pages).count)
			return true;
	return false;
}

static bool may_run(const struct ufd_pager_guest_opts *opts)
{
	return opts->may_run || opts->populated == UFD_POPULATED_KEEP;
}

static int mapping_add(struct ufd_pager_guest *paged, struct mapping *wanted, uint64_t *ret_offset)
{
	struct guest_view *old;
	struct mapping *mapping;
	int r, shown;

	if (mapping_is_private_and_shown(paged->guest->view, wanted))
		return -EEXIST;
	if (roster_find_place(paged->guest->view, &wanted->place) == GUEST_FULL)
		return -ENOSPC;
	r = guest_add_mapping(paged->guest, wanted, &old, &mapping);
	if (r == GUEST_OVERLAP)
		return -EEXIST;
	if (r < 0)
		return r;
	/* Known before it is registered, here and to a successor; closed until absence is proved:
	 * its faults wait meanwhile. */
	r = mapping_record(paged, mapping, MAPPING_ARRIVING);
	shown = view_show(paged, old, NULL);
	if (r == 0)
		r = shown;
	if (r == 0)
		r = mapping_register(mapping);
	if (r < 0) {
		mapping_forget(paged, mapping);
		return r;
	}
	r = absence_prove(paged, mapping, ret_offset);
	if (r == 0)
		r = track_mapping(paged, mapping);
	/* before the first page of it is filled, which must not be undone any more */
	if (r == 0)
		r = mapping_record(paged, mapping, MAPPING_OPEN);
	if (r < 0) {
		mapping->stage = MAPPING_ARRIVING; /* as it is recorded, whatever went wrong */
		/* who ran before waits there, and would read zeros */
		if (!paged_demand(paged) && may_run(&paged->opts))
			mapping_forget(paged, mapping);
		else
			(void)mapping_withdraw(paged, mapping);
		return r;
	}
	mapping_open(paged, mapping);
	return 0;
}

EXPORT int ufd_pager_guest_add_mapping(struct ufd_pager_guest *paged, uint32_t mapper,
				       uint32_t memory, uint64_t address, uint64_t length,
				       uint64_t offset, uint64_t *ret_offset)
{
	struct guest *guest = paged->guest;
	struct mapping wanted = { .range = { { address }, length }, .offset_bytes = offset };
	int r;

	if (mapper >= guest->n_mappers || memory >= guest->n_memories || !length ||
	    guest->memories[memory]->is_forgotten)
		return -EINVAL;
	wanted.mapper = &guest->mappers[mapper];
	wanted.memory = guest->memories[memory];
	if (!is_aligned(address | length | offset, wanted.memory->page_bytes) ||
	    offset > wanted.memory->length_bytes || length > wanted.memory->length_bytes - offset ||
	    address + length < address)
		return -EINVAL;

	pthread_mutex_lock(&paged->model_lock);
	paged_undo_halves(paged);
	if (atomic_exchange(&paged->is_graduated, false))
		(void)keep_guest(paged); /* as long as it was */
	r = mapping_add(paged, &wanted, ret_offset);
	pthread_mutex_unlock(&paged->model_lock);
	return r;
}

EXPORT int ufd_pager_guest_remove_mapping(struct ufd_pager_guest *paged, uint32_t mapper,
					  uint64_t address, uint64_t length)
{
	struct mapping *mapping;
	struct hva_range range = { { address }, length };

	if (mapper >= paged->guest->n_mappers)
		return -ENOENT;
	pthread_mutex_lock(&paged->model_lock);
	paged_undo_halves(paged);
	mapping = guest_view_find(paged->guest->view, mapper, range.start);
	if (!mapping || mapping->range.start.v != address ||
	    mapping->range.length_bytes != length) {
		pthread_mutex_unlock(&paged->model_lock);
		return -ENOENT;
	}
	track_leave(paged, mapping);
	(void)mapping_record(paged, mapping, MAPPING_LEAVING); /* as long as it was */
	(void)mapping_withdraw(paged, mapping);
	pthread_mutex_unlock(&paged->model_lock);
	return 0;
}
