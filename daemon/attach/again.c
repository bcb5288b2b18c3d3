/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A process that hands over what we have already. */
#include "attach/again.h"

#include <sys/stat.h>

#include "attach/paging.h"
#include "attach/plan.h"

/* Each userfaultfd has an inode of its own. The caller's fd has been proved to be one. */
static const struct paging_mapper *find_mapper(const struct paging *paging,
					       const struct plan_mapper *mapper)
{
	struct stat info;

	if (mapper->uffd < 0 || fstat(mapper->uffd, &info) < 0)
		return NULL;
	for (size_t i = 0; i < paging->n_mappers; i++)
		if (paging->mappers[i].pid == mapper->pid &&
		    paging->mappers[i].uffd_inode == info.st_ino)
			return &paging->mappers[i];
	return NULL;
}

static bool is_known(struct paging *paging, const struct plan *plan,
		     const struct plan_mapping *mapping, uint32_t mapper)
{
	const struct plan_memory *wanted = &plan->memories[mapping->memory];
	const struct paging_memory *memory = paging_memory(paging, wanted->name);
	UFD_OPTS(ufd_mapping_info, info);

	if (!memory || memory->kind != wanted->kind || memory->page_bytes != wanted->page_bytes)
		return false;
	for (uint32_t i = 0; ufd_pager_mapping_info(paging->guest, i, &info) == 0; i++)
		if (info.mapper == mapper && info.memory == memory->number &&
		    info.address == mapping->address && info.length == mapping->length_bytes)
			return info.offset + memory->base_bytes == mapping->offset_bytes;
	return false;
}

static size_t count_mappings(struct paging *paging, uint32_t mapper)
{
	UFD_OPTS(ufd_mapping_info, info);
	size_t n = 0;

	for (uint32_t i = 0; ufd_pager_mapping_info(paging->guest, i, &info) == 0; i++)
		n += info.mapper == mapper;
	return n;
}

bool again_is_same(struct paging *paging, const struct plan *plan, const struct plan_mapper *mapper)
{
	const struct paging_mapper *known = find_mapper(paging, mapper);

	if (!known || count_mappings(paging, known->number) != plan->n_mappings)
		return false;
	for (size_t i = 0; i < plan->n_mappings; i++)
		if (!is_known(paging, plan, &plan->mappings[i], known->number))
			return false;
	return true;
}
