/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Who else maps a memory. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernel/proc-maps.h"
#include "pager/paged.h"

static const struct mapper *mapper_of_pid(const struct guest *guest, pid_t pid)
{
	for (uint32_t i = 0; i < guest->n_mappers; i++)
		if (guest->mappers[i].pid == pid)
			return &guest->mappers[i];
	return NULL;
}

/* Does the map show bytes of the memory at all, and is it a view that we know? */
static bool is_stranger(const struct ufd_pager_guest *paged, const struct memory *memory,
			const struct proc_map *map, bool by_range)
{
	const struct mapper *mapper;

	if (map->file_offset_bytes >= memory->backing_offset + memory->length_bytes ||
	    map->file_offset_bytes + map->range.length_bytes <= memory->backing_offset)
		return false;
	/* A private mapping of a memory that others map shared only reads what is there. */
	if (memory->kind == BACKING_PRIVATE)
		return false;
	/* To find a huge page, kernel/backing maps a window of the file for a moment. */
	if (memory->kind == BACKING_HUGETLB && map->pid == getpid())
		return false;
	mapper = mapper_of_pid(paged->guest, map->pid);
	if (!mapper)
		return true;
	return by_range && !guest_view_find(paged->guest->view, mapper->id, map->range.start);
}

static void others_add(struct others *others, pid_t pid)
{
	size_t n_known = others->n < others->n_pids ? others->n : others->n_pids;

	/* maps are sorted by pid: a process with several comes in a row */
	if (n_known && others->pids[n_known - 1] == pid)
		return;
	if (others->n < others->n_pids)
		others->pids[others->n] = pid;
	others->n++;
}

static int find(struct ufd_pager_guest *paged, const struct memory *memory, bool by_range,
		int (*lock)(pthread_mutex_t *mutex), struct others *ret)
{
	_cleanup_(proc_maps_done) struct proc_maps maps = {};
	int r;

	ret->n = 0;
	if (memory->kind == BACKING_ANON || memory->is_forgotten)
		return 0;
	r = proc_maps_of_file(memory->device, memory->inode, &maps, NULL);
	if (r < 0)
		return r;
	if (lock(&paged->model_lock))
		return -EAGAIN;
	for (size_t i = 0; i < maps.n_maps; i++)
		if (is_stranger(paged, memory, &maps.maps[i], by_range))
			others_add(ret, maps.maps[i].pid);
	pthread_mutex_unlock(&paged->model_lock);
	return 0;
}

int mappers_find(struct ufd_pager_guest *paged, const struct memory *memory, bool by_range,
		 struct others *ret)
{
	return find(paged, memory, by_range, pthread_mutex_lock, ret);
}

int mappers_try_find(struct ufd_pager_guest *paged, const struct memory *memory, bool by_range,
		     struct others *ret)
{
	return find(paged, memory, by_range, pthread_mutex_trylock, ret);
}

EXPORT int ufd_pager_guest_other_mappers(struct ufd_pager_guest *paged, uint32_t memory,
					 pid_t *pids, size_t n_pids, size_t *ret_n)
{
	struct others others = { .pids = pids, .n_pids = n_pids };
	int r;

	if (memory >= paged->guest->n_memories)
		return -EINVAL;
	r = mappers_find(paged, paged->guest->memories[memory], false, &others);
	if (r == 0)
		*ret_n = others.n;
	return r;
}
