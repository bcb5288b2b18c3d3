/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What clients hand over. */
#include "attach/client.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/units.h"
#include "kernel/backing.h"
#include "kernel/uapi.h"
#include "kernel/uffd.h"
#include "refusal.h"

#define PROC_MAGIC  0x9fa0
#define MAX_REGIONS 4096

#define BAD_FD(refusal, number, ...)               \
	refusal_set(refusal, "io.ufd.guest.BadFd", \
		    json_pack("{s:I}", "index", (json_int_t)(number)), __VA_ARGS__)
#define BAD_REGION(refusal, at, ...)                   \
	refusal_set(refusal, "io.ufd.guest.BadRegion", \
		    json_pack("{s:I}", "address", (json_int_t)(at)), __VA_ARGS__)

int client_check_uffd(int uffd, json_int_t index, bool is_wp_sync, struct refusal *refusal)
{
	uint64_t features = 0;
	int r = uffd_inspect(uffd, &features);

	switch (r) {
	case 0:
		break;
	case -EBADFD:
		return BAD_FD(refusal, index, "this is no userfaultfd");
	case -EPROTO:
		return BAD_FD(refusal, index, "the userfaultfd has not seen UFFDIO_API yet");
	case -EWOULDBLOCK:
		return BAD_FD(refusal, index, "the userfaultfd must be O_NONBLOCK");
	default:
		return BAD_FD(refusal, index, "the userfaultfd cannot be inspected: %s",
			      strerror(-r));
	}
	if (features & UFFD_FEATURES_FOREIGN)
		return BAD_FD(refusal, index,
			      "the userfaultfd was made with events other than REMOVE, or with "
			      "SIGBUS: ask UFFDIO_API for less");
	if (is_wp_sync && (features & UFFD_FEATURE_WP_ASYNC))
		return BAD_FD(refusal, index,
			      "the userfaultfd was made with UFFD_FEATURE_WP_ASYNC, which "
			      "track=wp cannot use");
	return 0;
}

int client_check_pagemap(int pagemap, json_int_t index, struct refusal *refusal)
{
	struct statfs info;
	char link[64], target[128];
	ssize_t n;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", pagemap);
	n = readlink(link, target, sizeof(target) - 1);
	if (n < 0)
		return BAD_FD(refusal, index, "cannot be inspected: %s", strerror(errno));
	target[n] = '\0';
	/* the name first: the file system of any other file may be one that never answers */
	if (n < 8 || strcmp(target + n - 8, "/pagemap") != 0 || fstatfs(pagemap, &info) < 0 ||
	    info.f_type != PROC_MAGIC)
		return BAD_FD(refusal, index, "this is no /proc/PID/pagemap");
	return 0;
}

static bool get_int(const json_t *object, const char *name, json_int_t *ret)
{
	const json_t *value = json_object_get(object, name);

	if (!json_is_integer(value))
		return false;
	*ret = json_integer_value(value);
	return true;
}

static int get_fd(const json_t *region, const char *name, const int *fds, size_t n_fds, int *ret,
		  struct refusal *refusal)
{
	json_int_t index;

	*ret = -EBADF;
	if (!get_int(region, name, &index))
		return 0;
	if (index < 0 || (size_t)index >= n_fds)
		return BAD_FD(refusal, index, "%s: only %zu file descriptors came with the call",
			      name, n_fds);
	*ret = fds[index];
	return 0;
}

static int set_kind(const json_t *region, json_int_t address, struct plan_memory *memory,
		    struct refusal *refusal)
{
	bool is_private = json_is_true(json_object_get(region, "private"));
	struct backing_info info;
	json_int_t index = -1, page_bytes;
	int r;

	if (memory->backing < 0) {
		memory->kind = UFD_MEMORY_ANON;
		memory->page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
	} else {
		r = backing_inspect(memory->backing, &info);
		if (r < 0) {
			get_int(region, "backing_fd", &index);
			return BAD_FD(refusal, index,
				      r == -ENOTSUP
					      ? "memory `%s`: no memfd, tmpfs or hugetlbfs file"
					      : "memory `%s`: the file cannot be inspected",
				      memory->name);
		}
		if (is_private)
			memory->kind = UFD_MEMORY_PRIVATE;
		else
			memory->kind = info.kind == BACKING_HUGETLB ? UFD_MEMORY_HUGETLB
								    : UFD_MEMORY_SHMEM;
		if (!is_private && !info.is_writable) {
			get_int(region, "backing_fd", &index);
			return BAD_FD(refusal, index,
				      "memory `%s`: the file must be open for writing",
				      memory->name);
		}
		memory->page_bytes = info.page_bytes;
	}
	if (get_int(region, "page_bytes", &page_bytes) && page_bytes > 0) {
		if (memory->backing >= 0 && (uint64_t)page_bytes != memory->page_bytes)
			return BAD_REGION(refusal, address, "memory `%s` has pages of %llu bytes",
					  memory->name, (unsigned long long)memory->page_bytes);
		if ((page_bytes & (page_bytes - 1)) != 0)
			return BAD_REGION(refusal, address, "no page has %lld bytes",
					  (long long)page_bytes);
		memory->page_bytes = (uint64_t)page_bytes;
	}
	return 0;
}

static int add_memory(const json_t *region, const char *name, json_int_t address, const int *fds,
		      size_t n_fds, bool may_use_paths, struct plan *plan, struct refusal *refusal)
{
	struct plan_memory *memory = &plan->memories[plan->n_memories];
	int r;

	if (!name[0] || strlen(name) >= sizeof(memory->name))
		return BAD_REGION(refusal, address, "the name of a memory has 1 to %zu bytes",
				  sizeof(memory->name) - 1);
	*memory = (struct plan_memory){ .base_bytes = UINT64_MAX };
	strcpy(memory->name, name);
	memory->spec = json_string_value(json_object_get(region, "source"));
	if (memory->spec) {
		r = plan_check_spec(memory->spec, may_use_paths, refusal);
		if (r < 0)
			return r;
	}
	r = get_fd(region, "backing_fd", fds, n_fds, &memory->backing, refusal);
	if (r < 0)
		return r;
	r = get_fd(region, "source_fd", fds, n_fds, &memory->source_fd, refusal);
	if (r < 0)
		return r;
	r = set_kind(region, address, memory, refusal);
	if (r == 0)
		plan->n_memories++;
	return r;
}

static int add_region(const json_t *region, const int *fds, size_t n_fds, bool may_use_paths,
		      struct plan *plan, struct refusal *refusal)
{
	const char *name = json_string_value(json_object_get(region, "memory"));
	json_int_t address = 0, length = 0, offset = 0;
	struct plan_mapping *mapping = &plan->mappings[plan->n_mappings];
	struct plan_memory *memory;
	size_t i;
	int r;

	get_int(region, "address", &address);
	get_int(region, "length_bytes", &length);
	get_int(region, "offset_bytes", &offset);
	if (address < 0 || length < 0 || offset < 0 || offset > INT64_MAX - length)
		return BAD_REGION(refusal, address,
				  "address, length and offset must not be negative");

	for (i = 0; i < plan->n_memories; i++)
		if (strcmp(plan->memories[i].name, name) == 0)
			break;
	if (i == plan->n_memories) {
		r = add_memory(region, name, address, fds, n_fds, may_use_paths, plan, refusal);
		if (r < 0)
			return r;
	}
	memory = &plan->memories[i];
	memory->base_bytes = min_u64(memory->base_bytes, (uint64_t)offset);
	memory->end_bytes = max_u64(memory->end_bytes, (uint64_t)(offset + length));
	*mapping = (struct plan_mapping){
		.memory = i,
		.address = (uint64_t)address,
		.length_bytes = (uint64_t)length,
		.offset_bytes = (uint64_t)offset,
	};
	plan->n_mappings++;
	return 0;
}

int client_plan(const json_t *regions, const int *fds, size_t n_fds, bool may_use_paths,
		struct plan *ret, struct refusal *refusal)
{
	_cleanup_(plan_done) struct plan plan = {};
	size_t n = json_array_size(regions);
	int r;

	if (n == 0 || n > MAX_REGIONS)
		return BAD_REGION(refusal, 0, "a call names 1 to %d regions, not %zu", MAX_REGIONS,
				  n);
	plan.memories = calloc(n, sizeof(*plan.memories));
	plan.mappings = calloc(n, sizeof(*plan.mappings));
	if (!plan.memories || !plan.mappings)
		return refusal_set_errno(refusal, -ENOMEM, "no memory");
	for (size_t i = 0; i < n; i++) {
		r = add_region(json_array_get(regions, i), fds, n_fds, may_use_paths, &plan,
			       refusal);
		if (r < 0)
			return r;
	}
	r = plan_check(&plan, refusal);
	if (r < 0)
		return r;
	*ret = plan;
	plan = (struct plan){};
	return 0;
}
