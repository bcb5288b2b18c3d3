/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Plans, carried out by the engine. */
#include <errno.h>
#include <string.h>

#include "attach/plan.h"
#include "refusal.h"

#define BAD_REGION(refusal, at, ...)                   \
	refusal_set(refusal, "io.ufd.guest.BadRegion", \
		    json_pack("{s:I}", "address", (json_int_t)(at)), __VA_ARGS__)

/* Room for one more, so that nothing can go wrong once the engine has it. */
static int reserve_memory(struct paging *paging)
{
	struct paging_memory *memories;

	memories = reallocarray(paging->memories, paging->n_memories + 1, sizeof(*memories));
	if (!memories)
		return -ENOMEM;
	paging->memories = memories;
	return 0;
}

/* @source: consumed. */
static struct paging_memory *add_memory_record(struct paging *paging,
					       const struct plan_memory *memory, uint32_t number,
					       char *source)
{
	struct paging_memory *record = &paging->memories[paging->n_memories++];

	*record = (struct paging_memory){
		.source = source,
		.base_bytes = memory->base_bytes,
		.length_bytes = memory->end_bytes - memory->base_bytes,
		.page_bytes = memory->page_bytes,
		.kind = memory->kind,
		.number = number,
	};
	strcpy(record->name, memory->name);
	return record;
}

static int refuse_memory(const struct plan_memory *memory, int r, struct refusal *refusal)
{
	json_t *source = json_pack("{s:s}", "source", memory->spec);

	if (r == -ERANGE)
		return refusal_set(refusal, "io.ufd.guest.BadSource", source,
				   "the source, or the file of memory `%s`, is shorter than %llu "
				   "bytes",
				   memory->name, (unsigned long long)memory->end_bytes);
	json_decref(source);
	if (r == -EINVAL || r == -EBADF)
		return BAD_REGION(refusal, 0,
				  "memory `%s` cannot be of this kind, length and page size",
				  memory->name);
	if (r == -ENOSPC)
		return refusal_set(refusal, "io.ufd.manager.LimitReached",
				   json_pack("{s:s}", "limit", "memories"),
				   "a guest has at most 64 memories");
	return refusal_set_errno(refusal, r, "memory `%s`: %s", memory->name, strerror(-r));
}

static int open_source(const struct plan_memory *memory, struct ufd_source **ret,
		       struct refusal *refusal)
{
	const char *reason = NULL;
	int r;

	r = ufd_source_open(ret, memory->spec, memory->source_fd >= 0 ? memory->source_fd : -1,
			    &reason);
	if (r < 0)
		return refusal_set(refusal, "io.ufd.guest.BadSource",
				   json_pack("{s:s}", "source", memory->spec), "source `%s`: %s",
				   memory->spec, reason ? reason : strerror(-r));
	return 0;
}

static int add_memory(const struct plan_memory *memory, struct paging *paging,
		      struct paging_memory **ret, struct refusal *refusal)
{
	UFD_OPTS(ufd_pager_memory_opts, opts, .name = memory->name,
		 .length = memory->end_bytes - memory->base_bytes, .page_bytes = memory->page_bytes,
		 .source_offset = memory->base_bytes, .backing_offset = memory->base_bytes,
		 .backing = memory->backing >= 0 ? memory->backing : -1, .kind = memory->kind);
	_cleanup_(freep) char *spec = strdup(memory->spec);
	struct ufd_source *source = NULL;
	uint32_t number;
	int r;

	if (!spec || reserve_memory(paging) < 0)
		return refusal_set_errno(refusal, -ENOMEM, "no memory");
	r = open_source(memory, &source, refusal);
	if (r < 0)
		return r;
	opts.source = source;
	r = ufd_pager_guest_add_memory(paging->guest, &opts, &number);
	ufd_source_unref(source);
	if (r < 0)
		return refuse_memory(memory, r, refusal);
	/* before it is mapped: what the number's former memory was to others this one is not */
	ufd_pager_guest_drop_record(paging->guest, PAGING_TAG_MEMORY, number);
	*ret = add_memory_record(paging, memory, number, TAKE_PTR(spec));
	return 0;
}

/* One that the guest has, and that covers what the plan wants of it; or a new one. */
static int get_memory(const struct plan_memory *memory, struct paging *paging,
		      struct paging_memory **ret, struct refusal *refusal)
{
	struct paging_memory *known = paging_memory(paging, memory->name);

	if (!known) {
		if (!memory->spec)
			return refusal_set(refusal, "io.ufd.guest.BadSource",
					   json_pack("{s:s}", "source", ""),
					   "the new memory `%s` needs a source", memory->name);
		return add_memory(memory, paging, ret, refusal);
	}
	if (known->kind != memory->kind || known->page_bytes != memory->page_bytes)
		return BAD_REGION(refusal, 0, "memory `%s` is known with another kind or page size",
				  memory->name);
	if (memory->base_bytes < known->base_bytes ||
	    memory->end_bytes > known->base_bytes + known->length_bytes)
		return BAD_REGION(refusal, 0,
				  "memory `%s` is known from offset %llu to %llu; what is beyond "
				  "needs a memory of its own",
				  memory->name, (unsigned long long)known->base_bytes,
				  (unsigned long long)(known->base_bytes + known->length_bytes));
	*ret = known;
	return 0;
}

/* One uffd may register a range twice, so the kernel does not tell. */
static int check_claims(const struct plan *plan, struct paging *paging, pid_t pid,
			struct refusal *refusal)
{
	for (size_t i = 0; i < plan->n_mappings; i++) {
		const struct plan_mapping *mapping = &plan->mappings[i];
		const struct paging *other = paging_find_claim(
			paging->engine, pid, mapping->address, mapping->length_bytes);

		if (other)
			return BAD_REGION(refusal, mapping->address,
					  "guest `%s` has this memory of process %d already",
					  other->name, pid);
	}
	return 0;
}

static int add_mapper(struct paging *paging, const struct plan_mapper *mapper, uint32_t *ret_number,
		      bool *ret_is_new, struct refusal *refusal)
{
	struct paging_mapper *mappers;
	int r;

	*ret_is_new = false;
	for (size_t i = 0; i < paging->n_mappers; i++)
		if (paging->mappers[i].pid == mapper->pid) {
			*ret_number = paging->mappers[i].number;
			return 0;
		}
	if (mapper->uffd < 0)
		return refusal_set(refusal, "io.ufd.guest.BadFd", json_pack("{s:i}", "index", -1),
				   "process %d is new to the guest and must pass its userfaultfd",
				   mapper->pid);
	mappers = reallocarray(paging->mappers, paging->n_mappers + 1, sizeof(*mappers));
	if (!mappers)
		return refusal_set_errno(refusal, -ENOMEM, "no memory");
	paging->mappers = mappers;
	r = ufd_pager_guest_add_mapper(paging->guest, mapper->uffd, mapper->pidfd, mapper->pagemap,
				       ret_number);
	if (r == -EBUSY)
		return refusal_set(refusal, "io.ufd.guest.CannotAttach",
				   json_pack("{s:i}", "pid", mapper->pid),
				   "the userfaultfd serves a guest already");
	if (r == -ENOSPC)
		return refusal_set(refusal, "io.ufd.manager.LimitReached",
				   json_pack("{s:s}", "limit", "mappers"),
				   "a guest has at most 8 processes");
	if (r < 0)
		return refusal_set_errno(refusal, r, "process %d: %s", mapper->pid, strerror(-r));
	mappers += paging->n_mappers++;
	*mappers = (struct paging_mapper){
		.pid = mapper->pid,
		.number = *ret_number,
		.attachment = PROCESS_ATTACHMENT_NONE,
	};
	if (paging->arriving.pid == mapper->pid) {
		mappers->attachment = paging->arriving;
		paging->arriving = (struct process_attachment)PROCESS_ATTACHMENT_NONE;
	}
	*ret_is_new = true;
	return 0;
}

int plan_apply(const struct plan *plan, struct paging *paging, const struct plan_mapper *mapper,
	       struct refusal *refusal)
{
	struct paging_memory *memory = NULL;
	bool is_unproved;
	uint32_t number;
	int r;

	r = check_claims(plan, paging, mapper->pid, refusal);
	if (r < 0)
		return r;
	r = add_mapper(paging, mapper, &number, &is_unproved, refusal);
	for (size_t i = 0; r == 0 && i < plan->n_memories; i++)
		r = get_memory(&plan->memories[i], paging, &memory, refusal);
	/* all handles are there: no mapping may depend on one that would not outlive us */
	if (r == 0)
		r = paging_keep(paging, refusal);
	if (r < 0)
		return r;
	for (size_t i = 0; i < plan->n_mappings; i++) {
		const struct plan_mapping *mapping = &plan->mappings[i];
		uint64_t offset = 0;

		r = get_memory(&plan->memories[mapping->memory], paging, &memory, refusal);
		if (r < 0)
			return r;
		r = ufd_pager_guest_add_mapping(
			paging->guest, number, memory->number, mapping->address,
			mapping->length_bytes, mapping->offset_bytes - memory->base_bytes, &offset);
		if (r < 0)
			return plan_refuse_mapping(mapping, memory->name, mapper->pid, r,
						   memory->base_bytes + offset, refusal);
		if (is_unproved && !mapper->may_be_unproved) {
			r = plan_prove_owner(mapping, mapper->pid, refusal);
			if (r < 0)
				return r;
			is_unproved = false;
		}
	}
	return 0;
}
