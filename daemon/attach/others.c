/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Other mappers of a memory. */
#include "attach/others.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "attach/arrival.h"
#include "attach/owner.h"
#include "base/units.h"
#include "kernel/proc-maps.h"
#include "refusal.h"

/* One of the first @n_mappers? */
static bool is_mapper(const struct paging *paging, size_t n_mappers, pid_t pid)
{
	for (size_t i = 0; i < n_mappers; i++)
		if (paging->mappers[i].pid == pid)
			return true;
	return false;
}

/* Where process @pid maps @memory, as a plan of one memory; clipped to what the memory covers. */
static int plan_of_process(const struct plan_memory *memory, const struct proc_maps *maps,
			   pid_t pid, struct plan *ret)
{
	_cleanup_(plan_done) struct plan plan = {};

	plan.memories = calloc(1, sizeof(*plan.memories));
	plan.mappings = calloc(maps->n_maps, sizeof(*plan.mappings));
	if (!plan.memories || !plan.mappings)
		return -ENOMEM;
	plan.memories[plan.n_memories++] = *memory;
	for (size_t i = 0; i < maps->n_maps; i++) {
		const struct proc_map *map = &maps->maps[i];
		uint64_t first = max_u64(map->file_offset_bytes, memory->base_bytes);
		uint64_t end = min_u64(map->file_offset_bytes + map->range.length_bytes,
				       memory->end_bytes);

		if (map->pid != pid || !map->is_shared || first >= end)
			continue;
		plan.mappings[plan.n_mappings++] = (struct plan_mapping){
			.address = map->range.start.v + (first - map->file_offset_bytes),
			.length_bytes = end - first,
			.offset_bytes = first,
		};
	}
	*ret = plan;
	plan = (struct plan){};
	return 0;
}

static int attach_one(struct paging *paging, const struct plan_memory *memory,
		      const struct proc_maps *maps, pid_t pid, const struct arrival_rights *rights,
		      struct refusal *refusal)
{
	_cleanup_(plan_done) struct plan plan = {};
	struct process_opts opts = PROCESS_OPTS_DEFAULT;
	struct plan_mapper mapper = { .pid = pid, .pagemap = -1, .pidfd = -EBADF, .uffd = -EBADF };
	int r;

	r = plan_of_process(memory, maps, pid, &plan);
	if (r < 0)
		return refusal_set_errno(refusal, r, "%s", strerror(-r));
	if (plan.n_mappings == 0)
		return 0; /* a private mapping, or one of another part of the file */
	r = owner_check(pid, rights, refusal);
	if (r < 0)
		return r;
	opts.is_wp_sync = paging_is_wp_sync(paging);
	if (!is_mapper(paging, paging->n_mappers, pid)) {
		r = paging_attach_process(paging, pid, &opts, refusal);
		if (r < 0)
			return r;
		mapper.pidfd = paging->arriving.pidfd;
		mapper.uffd = paging->arriving.uffd;
	}
	paging_lock(paging);
	r = plan_apply(&plan, paging, &mapper, refusal);
	paging_unlock(paging);
	if (r < 0)
		paging_let_arriving_go(paging);
	return r;
}

/* One of the first @n_mappers, with its mappings? */
static bool is_served(struct paging *paging, size_t n_mappers, pid_t pid)
{
	bool has_mapping;

	paging_lock(paging);
	has_mapping = paging->guest && paging_has_mapping(paging, pid);
	paging_unlock(paging);
	return has_mapping && is_mapper(paging, n_mappers, pid);
}

/* @n_before: mappers that were there before, or came with the plan, and whose mappings it lists. */
static int attach_mappers_of(struct paging *paging, size_t n_before,
			     const struct plan_memory *memory, const struct arrival_rights *rights,
			     struct refusal *refusal)
{
	_cleanup_(proc_maps_done) struct proc_maps maps = {};
	struct stat info;
	pid_t before = 0;
	int r;

	if (fstat(memory->backing, &info) < 0)
		return refusal_set_errno(refusal, -errno, "%s", strerror(errno));
	r = proc_maps_of_file(info.st_dev, info.st_ino, &maps, NULL);
	if (r < 0)
		return refusal_set_errno(refusal, r, "the mappers of memory `%s`: %s", memory->name,
					 strerror(-r));
	for (size_t i = 0; i < maps.n_maps; i++) {
		pid_t pid = maps.maps[i].pid;

		if (pid == before || is_served(paging, n_before, pid))
			continue;
		before = pid;
		r = attach_one(paging, memory, &maps, pid, rights, refusal);
		if (r < 0)
			return r;
	}
	return 0;
}

int others_attach(struct paging *paging, const struct plan *plan,
		  const struct arrival_rights *rights, struct refusal *refusal)
{
	size_t n_before = paging->n_mappers;

	for (size_t i = 0; i < plan->n_memories; i++) {
		int r;

		if (plan->memories[i].backing < 0)
			continue;
		r = attach_mappers_of(paging, n_before, &plan->memories[i], rights, refusal);
		if (r < 0)
			return r;
	}
	return 0;
}
