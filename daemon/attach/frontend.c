/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The dialects by name and by their first bytes; offers become plans. */
#include "attach/frontend.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attach/plan.h"
#include "kernel/backing.h"
#include "refusal.h"

static const struct frontend *const frontends[] = {
	&frontend_firecracker,
	&frontend_cloud_hypervisor_uffd,
};
#define N_FRONTENDS (sizeof(frontends) / sizeof(frontends[0]))

const struct frontend *frontend_find(const char *name)
{
	for (size_t i = 0; i < N_FRONTENDS; i++)
		if (strcmp(frontends[i]->name, name) == 0)
			return frontends[i];
	return NULL;
}

int frontend_recognise(const struct frontend_input *input, const struct frontend **ret,
		       struct frontend_offer *offer, struct refusal *refusal)
{
	const struct frontend *candidate = NULL;
	size_t n_candidates = 0;

	for (size_t i = 0; i < N_FRONTENDS; i++) {
		int r = frontends[i]->read(input, offer, refusal);

		if (r < 0)
			return r;
		if (r == FRONTEND_WHOLE) {
			*ret = frontends[i];
			return FRONTEND_WHOLE;
		}
		if (r == FRONTEND_MORE) {
			candidate = frontends[i];
			n_candidates++;
		}
	}
	if (n_candidates == 0)
		return refusal_set(refusal, "io.ufd.handoff.BadMessage", NULL,
				   "the first bytes are of no dialect that is known");
	*ret = n_candidates == 1 ? candidate : NULL;
	return FRONTEND_MORE;
}

/* ---- plans ---- */

#define BAD_REGION(refusal, at, ...)                   \
	refusal_set(refusal, "io.ufd.guest.BadRegion", \
		    json_pack("{s:I}", "address", (json_int_t)(at)), __VA_ARGS__)

/* What the file says of itself. */
static int set_backing(const struct frontend_offer *offer, struct plan_memory *memory,
		       struct refusal *refusal)
{
	struct backing_info info;
	int r = backing_inspect(memory->backing, &info);

	if (r == 0 && info.is_writable) {
		memory->kind = info.kind == BACKING_HUGETLB ? UFD_MEMORY_HUGETLB : UFD_MEMORY_SHMEM;
		memory->page_bytes = info.page_bytes;
		return 0;
	}
	return refusal_set(refusal, "io.ufd.guest.BadFd",
			   json_pack("{s:i}", "index", offer->backing),
			   r == 0 ? "the memory's file must be open for writing"
				  : "the memory's file is no memfd, tmpfs or hugetlbfs file");
}

static int new_memory(const struct frontend_offer *offer, const struct frontend_input *input,
		      const struct frontend_region *region, struct plan_memory *memory,
		      struct refusal *refusal)
{
	memory->kind = UFD_MEMORY_ANON;
	memory->page_bytes = region->page_bytes;
	memory->base_bytes = UINT64_MAX;
	memory->backing = -EBADF;
	if (offer->backing < 0)
		return 0;
	memory->backing = input->fds[offer->backing];
	return set_backing(offer, memory, refusal);
}

/* The memory for pages of the region's size; regions of a file are all one. */
static int find_memory(const struct frontend_offer *offer, const struct frontend_input *input,
		       const struct frontend_region *region, struct plan *plan, size_t *ret,
		       struct refusal *refusal)
{
	struct plan_memory *memory;
	int r;

	for (*ret = 0; *ret < plan->n_memories; (*ret)++)
		if (offer->backing >= 0 || plan->memories[*ret].page_bytes == region->page_bytes)
			return 0;
	memory = &plan->memories[plan->n_memories];
	r = new_memory(offer, input, region, memory, refusal);
	if (r < 0)
		return r;
	if (plan->n_memories++ == 0)
		strcpy(memory->name, "memory");
	else
		snprintf(memory->name, sizeof(memory->name), "memory-%lluK",
			 (unsigned long long)(region->page_bytes / KIB));
	return 0;
}

static int add_region(const struct frontend_offer *offer, const struct frontend_input *input,
		      const struct frontend_region *region, struct plan *plan,
		      struct refusal *refusal)
{
	struct plan_memory *memory;
	size_t index;
	int r;

	if (region->address > INT64_MAX || region->length_bytes > INT64_MAX ||
	    region->offset_bytes > (uint64_t)INT64_MAX - region->length_bytes)
		return BAD_REGION(refusal, region->address & INT64_MAX,
				  "the region ends beyond 2^63");
	r = find_memory(offer, input, region, plan, &index, refusal);
	if (r < 0)
		return r;
	memory = &plan->memories[index];
	memory->base_bytes = min_u64(memory->base_bytes, region->offset_bytes);
	memory->end_bytes = max_u64(memory->end_bytes, region->offset_bytes + region->length_bytes);
	plan->mappings[plan->n_mappings++] = (struct plan_mapping){
		.memory = index,
		.address = region->address,
		.length_bytes = region->length_bytes,
		.offset_bytes = region->offset_bytes,
	};
	return 0;
}

/* Two regions with the same bytes would be two copies of them, as soon as one is written. */
static int check_offsets(const struct plan *plan, struct refusal *refusal)
{
	for (size_t i = 0; i < plan->n_mappings; i++)
		for (size_t j = 0; j < i; j++) {
			const struct plan_mapping *a = &plan->mappings[i], *b = &plan->mappings[j];

			if (a->offset_bytes < b->offset_bytes + b->length_bytes &&
			    b->offset_bytes < a->offset_bytes + a->length_bytes)
				return BAD_REGION(refusal, a->address,
						  "the region has the offsets of the one at 0x%llx",
						  (unsigned long long)b->address);
		}
	return 0;
}

int frontend_plan(const struct frontend_offer *offer, const struct frontend_input *input,
		  const char *spec, int source_fd, struct plan *ret, struct refusal *refusal)
{
	_cleanup_(plan_done) struct plan plan = {};
	int r = 0;

	plan.memories = calloc(offer->n_regions, sizeof(*plan.memories));
	plan.mappings = calloc(offer->n_regions, sizeof(*plan.mappings));
	if (!plan.memories || !plan.mappings)
		return refusal_set_errno(refusal, -ENOMEM, "no memory");
	for (size_t i = 0; r == 0 && i < offer->n_regions; i++)
		r = add_region(offer, input, &offer->regions[i], &plan, refusal);
	if (r == 0)
		r = plan_check(&plan, refusal);
	if (r == 0)
		r = check_offsets(&plan, refusal);
	if (r < 0)
		return r;
	for (size_t i = 0; i < plan.n_memories; i++) {
		plan.memories[i].spec = spec;
		plan.memories[i].source_fd = source_fd;
	}
	*ret = plan;
	plan = (struct plan){};
	return 0;
}
