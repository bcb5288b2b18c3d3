/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Plans, checked and carried out. */
#include "attach/plan.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>

#include "base/units.h"
#include "kernel/proc-maps.h"
#include "refusal.h"
#include "source/remote.h"

void plan_done(struct plan *plan)
{
	free(plan->memories);
	free(plan->mappings);
	*plan = (struct plan){};
}

#define BAD_REGION(refusal, at, ...)                   \
	refusal_set(refusal, "io.ufd.guest.BadRegion", \
		    json_pack("{s:I}", "address", (json_int_t)(at)), __VA_ARGS__)

static int check_mapping(const struct plan *plan, const struct plan_mapping *mapping,
			 struct refusal *refusal)
{
	const struct plan_memory *memory = &plan->memories[mapping->memory];
	uint64_t unit = memory->page_bytes;

	if (mapping->length_bytes == 0)
		return BAD_REGION(refusal, mapping->address, "a region of no length");
	if (!is_aligned(mapping->address, unit) || !is_aligned(mapping->length_bytes, unit) ||
	    !is_aligned(mapping->offset_bytes, unit))
		return BAD_REGION(refusal, mapping->address,
				  "address, length and offset must be multiples of %llu bytes, the "
				  "page size of memory `%s`",
				  (unsigned long long)unit, memory->name);
	if (mapping->address > (uint64_t)INT64_MAX - mapping->length_bytes ||
	    mapping->offset_bytes > (uint64_t)INT64_MAX - mapping->length_bytes)
		return BAD_REGION(refusal, mapping->address, "the region ends beyond 2^63");
	return 0;
}

static bool overlap(const struct plan_mapping *a, const struct plan_mapping *b)
{
	return a->address < b->address + b->length_bytes &&
	       b->address < a->address + a->length_bytes;
}

static int check_backing(const struct plan_memory *memory, struct refusal *refusal)
{
	struct stat info;

	if (memory->backing < 0)
		return 0;
	if (fstat(memory->backing, &info) < 0)
		return refusal_set_errno(refusal, -errno, "memory `%s`: %s", memory->name,
					 strerror(errno));
	if (memory->end_bytes > (uint64_t)info.st_size)
		return BAD_REGION(refusal, 0,
				  "memory `%s` ends at %llu, but its file has only %llu bytes",
				  memory->name, (unsigned long long)memory->end_bytes,
				  (unsigned long long)info.st_size);
	return 0;
}

int plan_check(const struct plan *plan, struct refusal *refusal)
{
	int r;

	for (size_t i = 0; i < plan->n_mappings; i++) {
		const struct plan_mapping *mapping = &plan->mappings[i];

		r = check_mapping(plan, mapping, refusal);
		if (r < 0)
			return r;
		for (size_t j = 0; j < i; j++)
			if (overlap(mapping, &plan->mappings[j]))
				return BAD_REGION(refusal, mapping->address,
						  "the region overlaps the one at 0x%llx",
						  (unsigned long long)plan->mappings[j].address);
	}
	for (size_t i = 0; i < plan->n_memories; i++) {
		r = check_backing(&plan->memories[i], refusal);
		if (r < 0)
			return r;
	}
	return 0;
}

int plan_check_spec(const char *spec, bool may_use_paths, struct refusal *refusal)
{
	const char *path = strchr(spec, ':');

	/* a doubled comma is the first letter of a path */
	if (may_use_paths || !path || path[1] == '\0' || (path[1] == ',' && path[2] != ','))
		return 0;
	return refusal_set(refusal, "io.ufd.guest.BadSource", json_pack("{s:s}", "source", spec),
			   "only root and ufdd's own user may name a path; pass the open file as "
			   "source_fd with `file:` or `image:`");
}

/* ---- against the process ---- */

static const struct proc_map *find_map(const struct proc_maps *maps, uint64_t address)
{
	for (size_t i = 0; i < maps->n_maps; i++) {
		const struct hva_range *range = &maps->maps[i].range;

		if (address >= range->start.v && address - range->start.v < range->length_bytes)
			return &maps->maps[i];
	}
	return NULL;
}

/* Is this piece of the process what the plan takes it for, from @address on? */
static int check_map(const struct plan_memory *memory, const struct plan_mapping *mapping,
		     const struct proc_map *map, uint64_t address, struct refusal *refusal)
{
	bool is_anonymous = memory->kind == UFD_MEMORY_ANON;
	struct stat info;
	uint64_t offset;

	if (is_anonymous != (map->inode == 0))
		return BAD_REGION(refusal, address, "memory `%s`: the process maps %s there",
				  memory->name,
				  is_anonymous ? "a file (give its fd)" : "anonymous memory");
	if (is_anonymous)
		return 0;
	if (map->is_shared == (memory->kind == UFD_MEMORY_PRIVATE))
		return BAD_REGION(refusal, address,
				  "memory `%s`: the mapping is %s, the region says otherwise",
				  memory->name, map->is_shared ? "MAP_SHARED" : "MAP_PRIVATE");
	if (fstat(memory->backing, &info) < 0)
		return refusal_set_errno(refusal, -errno, "%s", strerror(errno));
	if (info.st_dev != map->device || info.st_ino != map->inode)
		return BAD_REGION(refusal, address,
				  "memory `%s`: the process maps another file there", memory->name);
	offset = mapping->offset_bytes + (address - mapping->address);
	if (map->file_offset_bytes + (address - map->range.start.v) != offset)
		return BAD_REGION(refusal, address,
				  "memory `%s`: the process maps the file at offset %llu there, "
				  "not %llu",
				  memory->name,
				  (unsigned long long)(map->file_offset_bytes +
						       (address - map->range.start.v)),
				  (unsigned long long)offset);
	return 0;
}

static int check_mapping_maps(const struct plan *plan, const struct plan_mapping *mapping,
			      const struct proc_maps *maps, struct refusal *refusal)
{
	uint64_t end = mapping->address + mapping->length_bytes;
	uint64_t address = mapping->address;
	int r;

	while (address < end) {
		const struct proc_map *map = find_map(maps, address);

		if (!map)
			return BAD_REGION(refusal, address, "the process maps nothing there");
		r = check_map(&plan->memories[mapping->memory], mapping, map, address, refusal);
		if (r < 0)
			return r;
		address = map->range.start.v + map->range.length_bytes;
	}
	return 0;
}

int plan_check_sources(const struct plan *plan, struct refusal *refusal)
{
	for (size_t i = 0; i < plan->n_memories; i++) {
		const struct plan_memory *memory = &plan->memories[i];

		if (memory->source_fd >= 0 && remote_is(memory->source_fd))
			return refusal_set(
				refusal, "io.ufd.guest.BadSource",
				json_pack("{s:s}", "source", memory->spec ? memory->spec : ""),
				"memory `%s`: its file is on a file system that somebody "
				"else serves; copy it to a memfd or a local disk",
				memory->name);
	}
	return 0;
}

int plan_check_maps(const struct plan *plan, pid_t pid, struct refusal *refusal)
{
	_cleanup_(proc_maps_done) struct proc_maps maps = {};
	int r;

	r = proc_maps_read(pid, &maps);
	if (r < 0)
		return refusal_set(
			refusal, "io.ufd.guest.CannotAttach", json_pack("{s:i}", "pid", pid),
			"the mappings of process %d cannot be read: %s%s", pid, strerror(-r),
			r == -EACCES ? "; ufdd needs CAP_SYS_PTRACE, or the same user" : "");
	for (size_t i = 0; i < plan->n_mappings; i++) {
		r = check_mapping_maps(plan, &plan->mappings[i], &maps, refusal);
		if (r < 0)
			return r;
	}
	return 0;
}

/* ---- into the engine ---- */

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

static int refuse_mapping(const struct plan_mapping *mapping, const struct plan_mapper *mapper,
			  const struct paging_memory *memory, int r, uint64_t offset,
			  struct refusal *refusal)
{
	unsigned long long at = mapping->address;

	switch (r) {
	case -ENOTEMPTY:
		return refusal_set(
			refusal, "io.ufd.guest.NotEmpty",
			json_pack("{s:s, s:I}", "memory", memory->name, "offset_bytes",
				  (json_int_t)(offset + memory->base_bytes)),
			"memory `%s` has a page at offset %llu where absence was declared; "
			"settings.populated says what to do with such pages",
			memory->name, (unsigned long long)(offset + memory->base_bytes));
	case -EBUSY:
		return refusal_set(refusal, "io.ufd.guest.CannotAttach",
				   json_pack("{s:i}", "pid", mapper->pid),
				   "another userfaultfd of process %d holds 0x%llx", mapper->pid,
				   at);
	case -ESRCH:
		return refusal_set(refusal, "io.ufd.guest.CannotAttach",
				   json_pack("{s:i}", "pid", mapper->pid), "process %d has ended",
				   mapper->pid);
	case -EEXIST:
		return BAD_REGION(refusal, at, "the region overlaps one that is attached already");
	case -EPERM:
		return BAD_REGION(
			refusal, at,
			"the kernel cannot page this mapping: it must be writable, and its "
			"file a memfd, tmpfs or hugetlbfs");
	case -EACCES:
		return refusal_set(refusal, "io.ufd.guest.CannotAttach",
				   json_pack("{s:i}", "pid", mapper->pid),
				   "/proc/%d/pagemap cannot be opened; pass it with the call, or "
				   "give ufdd CAP_SYS_PTRACE",
				   mapper->pid);
	case -EINVAL:
		return BAD_REGION(refusal, at, "the region does not fit its memory");
	case -ENOSPC:
		return refusal_set(refusal, "io.ufd.manager.LimitReached",
				   json_pack("{s:s}", "limit", "mappings"),
				   "a guest has at most 1024 mappings");
	default:
		return refusal_set_errno(refusal, r, "the region at 0x%llx: %s", at, strerror(-r));
	}
}

/* The range was registered by the uffd: does the process that it is said to be show it? */
static int prove_owner(const struct plan_mapping *mapping, const struct plan_mapper *mapper,
		       struct refusal *refusal)
{
	struct proc_map_flags flags = {};
	int r = proc_map_flags(mapper->pid, (struct hva){ mapping->address }, &flags);

	if (r == 0 && (flags.is_uffd_missing || flags.is_uffd_minor || flags.is_uffd_wp))
		return 0;
	return refusal_set(refusal, "io.ufd.guest.CannotAttach",
			   json_pack("{s:i}", "pid", mapper->pid),
			   "the userfaultfd does not belong to process %d", mapper->pid);
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
			return refuse_mapping(mapping, mapper, memory, r, offset, refusal);
		if (is_unproved) {
			r = prove_owner(mapping, mapper, refusal);
			if (r < 0)
				return r;
			is_unproved = false;
		}
	}
	return 0;
}
