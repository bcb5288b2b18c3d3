/* SPDX-License-Identifier: MIT */
/* The memories of the client's guest. */
#include "client/memories.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/files.h"

struct client_memory *client_memory_free(struct client_memory *memory)
{
	if (!memory)
		return NULL;
	discards_done(&memory->discards);
	closep(&memory->backing);
	closep(&memory->source_fd);
	free(memory->regions);
	free(memory->source);
	free(memory->name);
	free(memory);
	return NULL;
}

void memories_done(struct memories *memories)
{
	for (size_t i = 0; i < memories->n_list; i++)
		client_memory_free(memories->list[i]);
	free(memories->list);
	*memories = (struct memories){};
}

struct client_memory *memories_find(const struct memories *memories, const char *name)
{
	for (size_t i = 0; i < memories->n_list; i++)
		if (strcmp(memories->list[i]->name, name) == 0)
			return memories->list[i];
	return NULL;
}

bool memories_overlap(const struct memories *memories, struct hva_range range)
{
	for (size_t i = 0; i < memories->n_list; i++) {
		const struct client_memory *memory = memories->list[i];

		for (size_t j = 0; j < memory->n_regions; j++) {
			struct hva_range other = memory->regions[j].range;

			if (range.start.v < other.start.v + other.length_bytes &&
			    other.start.v < range.start.v + range.length_bytes)
				return true;
		}
	}
	return false;
}

/* What kind of memory the options describe, and its page size. */
static int look_at_backing(struct client_memory *memory, const struct ufd_client_memory_opts *opts,
			   const char **ret_error)
{
	struct backing_info info;
	int r;

	memory->kind = BACKING_ANON;
	memory->page_bytes = opts->page_bytes ? opts->page_bytes : (uint64_t)sysconf(_SC_PAGESIZE);
	if (opts->backing <= 0) {
		*ret_error = "only a memory with a backing can be mapped private";
		return opts->flags & UFD_CLIENT_PRIVATE ? -EINVAL : 0;
	}

	r = backing_inspect(opts->backing, &info);
	if (r == -ENOTSUP || r == -EBADF) {
		*ret_error = "the backing is no memfd, tmpfs or hugetlbfs file";
		return -EBADF;
	}
	if (r < 0) {
		*ret_error = "the backing cannot be looked at";
		return r;
	}
	*ret_error = "page_bytes is not the backing's page size";
	if (opts->page_bytes && opts->page_bytes != info.page_bytes)
		return -EINVAL;
	memory->page_bytes = info.page_bytes;
	memory->kind = opts->flags & UFD_CLIENT_PRIVATE ? BACKING_PRIVATE : info.kind;
	return 0;
}

/* The words of the description. */
static int check_opts(const struct ufd_client_memory_opts *opts, const char **ret_error)
{
	uint64_t base_page = (uint64_t)sysconf(_SC_PAGESIZE);

	if (!opts->name || !*opts->name || strlen(opts->name) >= UFD_CLIENT_NAME_BYTES)
		*ret_error = "a memory's name has 1 to 63 bytes";
	else if (!opts->source || !*opts->source)
		*ret_error = "a memory needs a source: zero, file:PATH[,offset=N] or backing";
	else if (strcmp(opts->source, "backing") == 0 && opts->backing <= 0)
		*ret_error = "source `backing` needs a memory with a backing";
	else if (opts->flags & ~(uint32_t)UFD_CLIENT_PRIVATE || opts->reserved)
		*ret_error = "flags has a bit that this library does not know";
	else if (opts->page_bytes & (opts->page_bytes - 1) ||
		 (opts->page_bytes && opts->page_bytes < base_page))
		*ret_error = "page_bytes is no page size";
	else
		return 0;
	return -EINVAL;
}

int client_memory_new(struct client_memory **ret, const struct ufd_client_memory_opts *opts,
		      const char **ret_error)
{
	_cleanup_(client_memory_freep) struct client_memory *memory = NULL;
	int r;

	r = check_opts(opts, ret_error);
	if (r < 0)
		return r;
	*ret_error = "out of memory or file descriptors";
	memory = calloc(1, sizeof(*memory));
	if (!memory)
		return -ENOMEM;
	memory->backing = -EBADF;
	memory->source_fd = -EBADF;
	memory->asked_page_bytes = opts->page_bytes;
	memory->name = strdup(opts->name);
	memory->source = strdup(opts->source);
	if (!memory->name || !memory->source)
		return -ENOMEM;

	r = look_at_backing(memory, opts, ret_error);
	if (r < 0)
		return r;
	*ret_error = "the backing cannot be duplicated";
	if (opts->backing > 0)
		r = fd_duplicate(&memory->backing, opts->backing);
	if (r < 0)
		return r;
	*ret_error = "source_fd is no open file";
	if (opts->source_fd > 0)
		r = fd_duplicate(&memory->source_fd, opts->source_fd);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(memory);
	return 0;
}

bool memory_is_aligned(const struct client_memory *memory, const struct region *region)
{
	uint64_t end = region->range.start.v + region->range.length_bytes;

	return region->range.length_bytes > 0 && end > region->range.start.v &&
	       region->offset_bytes <= INT64_MAX - region->range.length_bytes &&
	       is_aligned(region->range.start.v | region->range.length_bytes | region->offset_bytes,
			  memory->page_bytes);
}

bool memory_is_mapped(const struct client_memory *memory, uint64_t offset, uint64_t length_bytes)
{
	uint64_t end = offset + length_bytes;
	bool has_moved = true;

	if (end < offset)
		return false;
	/* Regions may overlap in the memory and lie in any order: walk on while one goes further.
	 */
	while (offset < end && has_moved) {
		has_moved = false;
		for (size_t i = 0; i < memory->n_regions; i++) {
			const struct region *region = &memory->regions[i];
			uint64_t region_end = region->offset_bytes + region->range.length_bytes;

			if (region->offset_bytes <= offset && offset < region_end) {
				offset = region_end;
				has_moved = true;
			}
		}
	}
	return offset >= end;
}

int memories_add(struct memories *memories, struct client_memory *memory)
{
	struct client_memory **list;

	list = reallocarray(memories->list, memories->n_list + 1, sizeof(struct client_memory *));
	if (!list)
		return -ENOMEM;
	memories->list = list;
	memories->list[memories->n_list++] = memory;
	return 0;
}

int memory_add_region(struct client_memory *memory, const struct region *region)
{
	struct region *regions;

	regions = reallocarray(memory->regions, memory->n_regions + 1, sizeof(*regions));
	if (!regions)
		return -ENOMEM;
	memory->regions = regions;
	memory->regions[memory->n_regions++] = *region;
	return 0;
}

void memories_set_handed_over(struct memories *memories)
{
	for (size_t i = 0; i < memories->n_list; i++) {
		struct client_memory *memory = memories->list[i];

		memory->is_handed_over = true;
		for (size_t j = 0; j < memory->n_regions; j++)
			memory->regions[j].is_leaving &= memory->regions[j].is_gone;
	}
}

struct region *memories_find_region(const struct memories *memories, struct hva_range range)
{
	for (size_t i = 0; i < memories->n_list; i++) {
		const struct client_memory *memory = memories->list[i];

		for (size_t j = 0; j < memory->n_regions; j++) {
			struct region *region = &memory->regions[j];

			if (region->range.start.v == range.start.v &&
			    region->range.length_bytes == range.length_bytes)
				return region;
		}
	}
	return NULL;
}

static bool memory_remove_region(struct client_memory *memory, struct hva_range range)
{
	for (size_t i = 0; i < memory->n_regions; i++) {
		struct hva_range *other = &memory->regions[i].range;

		if (other->start.v != range.start.v || other->length_bytes != range.length_bytes)
			continue;
		memmove(memory->regions + i, memory->regions + i + 1,
			(memory->n_regions - i - 1) * sizeof(*memory->regions));
		memory->n_regions--;
		return true;
	}
	return false;
}

bool memories_remove_region(struct memories *memories, struct hva_range range)
{
	for (size_t i = 0; i < memories->n_list; i++) {
		if (!memory_remove_region(memories->list[i], range))
			continue;
		if (memories->list[i]->n_regions == 0) {
			client_memory_free(memories->list[i]);
			memmove(memories->list + i, memories->list + i + 1,
				(memories->n_list - i - 1) * sizeof(*memories->list));
			memories->n_list--;
		}
		return true;
	}
	return false;
}
