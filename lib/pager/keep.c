/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is kept of a guest beyond this process: records in its ledger, and handles that its owner puts
 * somewhere safe. The other direction is adopt.c.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "guest/roster.h"
#include "pager/paged.h"

#define TMPFS_MAGIC 0x01021994
#define N_OWN_TAGS  16

static_assert(UFD_OWN_TAG == LEDGER_OWN, "the public name of the tag");
static_assert(UFD_MAX_HANDLES >= 3 * MAX_MAPPERS + 2 * MAX_MEMORIES, "room for all handles");

/* ---- records of the engine ---- */

int keep_guest(struct ufd_pager_guest *paged)
{
	struct kept_guest kept = {
		.opts = paged->opts,
		.is_started = paged->is_started,
		.is_graduated = atomic_load(&paged->is_graduated),
	};

	return kept_guest_put(paged->guest->ledger, &kept);
}

int keep_source(struct ledger *ledger, uint32_t id, struct source *source)
{
	struct kept_source kept = { .spec = source_spec(source) ? (char *)source_spec(source)
								: "" };

	kept.is_file = source_file(source, &kept.identity) >= 0;
	return kept_source_put(ledger, id, &kept);
}

void keep_drop_memory(struct ledger *ledger, const struct memory *memory)
{
	ledger_drop_record(ledger, LEDGER_MEMORY, memory->id);
	ledger_drop_record(ledger, LEDGER_POISON, memory->id);
	ledger_drop_record(ledger, LEDGER_SOURCE, memory->id);
	ledger_drop_area(ledger, memory->states_offset);
}

/* ---- records of the owner ---- */

static bool is_own_tag(uint32_t tag)
{
	return tag - UFD_OWN_TAG < N_OWN_TAGS;
}

EXPORT int ufd_pager_guest_put_record(struct ufd_pager_guest *paged, uint32_t tag, uint32_t id,
				      const void *data, size_t n_bytes)
{
	if (!is_own_tag(tag))
		return -EINVAL;
	return ledger_put_record(paged->guest->ledger, tag, id, data, n_bytes);
}

EXPORT int ufd_pager_guest_drop_record(struct ufd_pager_guest *paged, uint32_t tag, uint32_t id)
{
	if (!is_own_tag(tag))
		return -EINVAL;
	ledger_drop_record(paged->guest->ledger, tag, id);
	return 0;
}

EXPORT int ufd_pager_guest_get_record(const struct ufd_pager_guest *paged, uint32_t tag,
				      uint32_t id, void *data, size_t n_bytes, size_t *ret_n)
{
	if (!is_own_tag(tag))
		return -ENOENT;
	return ledger_copy_record(paged->guest->ledger, tag, id, data, n_bytes, ret_n);
}

/* ---- handles ---- */

EXPORT int ufd_pager_guest_ledger(const struct ufd_pager_guest *paged)
{
	return ledger_fd(paged->guest->ledger);
}

/* The caller's array, as it is filled; counts on when it is full. */
struct handle_list {
	struct ufd_handle *handles; /* borrowed */
	size_t n_handles, n;
};

static void handle_add(struct handle_list *list, uint32_t kind, uint32_t id, int fd)
{
	if (fd < 0)
		return;
	if (list->n < list->n_handles)
		list->handles[list->n] = (struct ufd_handle){ .kind = kind, .id = id, .fd = fd };
	list->n++;
}

EXPORT int ufd_pager_guest_handles(struct ufd_pager_guest *paged, struct ufd_handle *handles,
				   size_t n_handles, size_t *ret_n)
{
	struct handle_list list = { .handles = handles, .n_handles = n_handles };
	const struct guest *guest = paged->guest;

	pthread_mutex_lock(&paged->model_lock);
	for (uint32_t i = 0; i < guest->n_mappers; i++) {
		const struct mapper *mapper = &guest->mappers[i];

		handle_add(&list, UFD_HANDLE_UFFD, i, mapper->uffd);
		handle_add(&list, UFD_HANDLE_PIDFD, i, mapper->pidfd);
		if (mapper->has_own_pagemap)
			handle_add(&list, UFD_HANDLE_PAGEMAP, i, mapper->pagemap);
	}
	for (uint32_t i = 0; i < guest->n_memories; i++) {
		if (guest->memories[i]->is_forgotten)
			continue;
		handle_add(&list, UFD_HANDLE_BACKING, i, guest->memories[i]->backing);
		handle_add(&list, UFD_HANDLE_SOURCE, i, source_file(paged->sources[i], NULL));
	}
	pthread_mutex_unlock(&paged->model_lock);
	if (list.n > n_handles)
		return -ENOSPC;
	*ret_n = list.n;
	return 0;
}

/* The first recorded mapping of a mapper, or of a memory. False: there is none. */
static bool find_recorded(const struct ledger *ledger, bool is_memory, uint32_t id,
			  struct recorded_mapping *ret)
{
	struct recorded_mapping mapping;
	uint32_t cursor = 0;

	while (roster_next(ledger, &cursor, &mapping) == 0)
		if ((is_memory ? mapping.memory : mapping.mapper) == id) {
			*ret = mapping;
			return true;
		}
	return false;
}

static int info_of_memory(const struct ufd_pager_guest *paged, bool is_source, uint32_t id,
			  struct ufd_handle_info *info)
{
	const struct ledger *ledger = paged->guest->ledger;
	struct kept_source source;
	dev_t device;
	ino_t inode;
	int r;

	if (!is_source) {
		if (memory_recorded_file(ledger, id, &device, &inode))
			return -ENOENT;
		info->device = device;
		info->inode = inode;
		return 0;
	}
	r = kept_source_get(ledger, id, &source);
	if (r)
		return r == -ENOMEM ? r : -ENOENT;
	info->device = source.identity.device;
	info->inode = source.identity.inode;
	kept_source_done(&source);
	info->spec = paged->sources[id] ? source_spec(paged->sources[id]) : paged->specs[id];
	return 0;
}

/* What the ledger says: at adoption there is nothing else yet. */
static int handle_info(const struct ufd_pager_guest *paged, uint32_t kind, uint32_t id,
		       struct ufd_handle_info *info)
{
	const struct ledger *ledger = paged->guest->ledger;
	bool is_memory = kind == UFD_HANDLE_BACKING || kind == UFD_HANDLE_SOURCE;
	struct recorded_mapping mapping = {};
	struct recorded_mapper mapper;
	uint32_t mapper_id = id;

	if (kind < UFD_HANDLE_UFFD || kind > UFD_HANDLE_SOURCE || (is_memory && id >= MAX_MEMORIES))
		return -ENOENT;
	if (is_memory) {
		int r = info_of_memory(paged, kind == UFD_HANDLE_SOURCE, id, info);

		if (r)
			return r;
	}
	if (find_recorded(ledger, is_memory, id, &mapping)) {
		info->address = mapping.range.start.v;
		info->length = mapping.range.length_bytes;
		mapper_id = mapping.mapper;
	} else if (is_memory) {
		return 0;
	}
	if (roster_get_mapper(ledger, mapper_id, &mapper))
		return -ENOENT;
	info->pid = mapper.pid;
	info->start_ticks = mapper.start_ticks;
	return 0;
}

EXPORT int ufd_pager_handle_info(const struct ufd_pager_guest *paged, uint32_t kind, uint32_t id,
				 struct ufd_handle_info *ret)
{
	struct ufd_handle_info info = { .size = sizeof(info) };
	pthread_mutex_t *lock = (pthread_mutex_t *)&paged->model_lock;
	int r;

	pthread_mutex_lock(lock);
	r = handle_info(paged, kind, id, &info);
	pthread_mutex_unlock(lock);
	return r < 0 ? r : stats_hand_over(ret, &info, sizeof(info));
}

/* ---- where ledgers are ---- */

EXPORT int ufd_pager_set_ledger_directory(struct ufd_pager *pager, const char *path)
{
	_cleanup_(closep) int fd = -EBADF;
	struct statfs statfs;

	if (path) {
		fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (fd < 0 || fstatfs(fd, &statfs) < 0)
			return -errno;
		/* its pages must neither wait for a disk nor outlive what they speak of */
		if (statfs.f_type != TMPFS_MAGIC)
			return -EMEDIUMTYPE;
	}
	closep(&pager->ledger_directory);
	pager->ledger_directory = TAKE_FD(fd);
	return 0;
}
