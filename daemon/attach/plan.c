/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Plans, checked. */
#include "attach/plan.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/units.h"
#include "kernel/proc-maps.h"
#include "refusal.h"
#include "source/remote.h"

#define ANON_HUGE "/anon_hugepage"

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

/*
 * Anonymous memory of huge pages shows as a private mapping of a file that nobody can open. Pages of
 * another size than its own cannot be put there.
 */
static int check_anonymous(const struct plan_memory *memory, const struct proc_map *map,
			   uint64_t address, struct refusal *refusal)
{
	bool is_huge = !map->is_shared && strncmp(map->name, ANON_HUGE, strlen(ANON_HUGE)) == 0;
	struct proc_map_flags flags = { .page_bytes = (uint64_t)sysconf(_SC_PAGESIZE) };

	if (map->inode != 0 && !is_huge)
		return BAD_REGION(refusal, address,
				  "memory `%s`: the process maps a file (give its fd) there",
				  memory->name);
	if (is_huge && proc_map_flags(map->pid, (struct hva){ address }, &flags) < 0)
		return BAD_REGION(refusal, address,
				  "memory `%s`: the size of its pages cannot be read",
				  memory->name);
	if (flags.page_bytes != memory->page_bytes)
		return BAD_REGION(refusal, address,
				  "memory `%s`: the pages of the process have %llu bytes there",
				  memory->name, (unsigned long long)flags.page_bytes);
	return 0;
}

/* Is this piece of the process what the plan takes it for, from @address on? */
static int check_map(const struct plan_memory *memory, const struct plan_mapping *mapping,
		     const struct proc_map *map, uint64_t address, struct refusal *refusal)
{
	struct stat info;
	uint64_t offset;

	if (memory->kind == UFD_MEMORY_ANON)
		return check_anonymous(memory, map, address, refusal);
	if (map->inode == 0)
		return BAD_REGION(refusal, address,
				  "memory `%s`: the process maps anonymous memory there",
				  memory->name);
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

/* ---- what the engine says of it ---- */

int plan_refuse_mapping(const struct plan_mapping *mapping, const char *memory, pid_t pid, int r,
			uint64_t offset, struct refusal *refusal)
{
	unsigned long long at = mapping->address;

	switch (r) {
	case -ENOTEMPTY:
		return refusal_set(
			refusal, "io.ufd.guest.NotEmpty",
			json_pack("{s:s, s:I}", "memory", memory, "offset_bytes",
				  (json_int_t)offset),
			"memory `%s` has a page at offset %llu where absence was declared; "
			"settings.populated says what to do with such pages",
			memory, (unsigned long long)offset);
	case -EBUSY:
		return refusal_set(refusal, "io.ufd.guest.CannotAttach",
				   json_pack("{s:i}", "pid", pid),
				   "another userfaultfd of process %d holds 0x%llx", pid, at);
	case -ESRCH:
		return refusal_set(refusal, "io.ufd.guest.CannotAttach",
				   json_pack("{s:i}", "pid", pid), "process %d has ended", pid);
	case -EEXIST:
		return BAD_REGION(refusal, at, "the region overlaps one that is attached already");
	case -EPERM:
		return BAD_REGION(
			refusal, at,
			"the kernel cannot page this mapping: it must be writable, and its "
			"file a memfd, tmpfs or hugetlbfs");
	case -EACCES:
		return refusal_set(refusal, "io.ufd.guest.CannotAttach",
				   json_pack("{s:i}", "pid", pid),
				   "/proc/%d/pagemap cannot be opened; pass it with the call, or "
				   "give ufdd CAP_SYS_PTRACE",
				   pid);
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

int plan_prove_owner(const struct plan_mapping *mapping, pid_t pid, struct refusal *refusal)
{
	struct proc_map_flags flags = {};
	int r = proc_map_flags(pid, (struct hva){ mapping->address }, &flags);

	if (r == 0 && (flags.is_uffd_missing || flags.is_uffd_minor || flags.is_uffd_wp))
		return 0;
	return refusal_set(refusal, "io.ufd.guest.CannotAttach", json_pack("{s:i}", "pid", pid),
			   "the userfaultfd does not belong to process %d", pid);
}
