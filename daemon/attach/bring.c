/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Unmodified processes become guests. */
#include "attach/bring.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "attach/arrival.h"
#include "base/files.h"
#include "base/units.h"
#include "kernel/pidfd.h"
#include "refusal.h"

#define DEVICE	    "/dev/userfaultfd"
#define DEVICE_NAME "ufd-device"

void bring_target_done(struct bring_target *target)
{
	closep(&target->pidfd);
	qmp_free(target->qmp);
	*target = (struct bring_target)BRING_TARGET_NONE;
}

static int refuse_process(pid_t pid, int r, struct refusal *refusal)
{
	return refusal_set(refusal, "io.ufd.guest.CannotAttach", json_pack("{s:i}", "pid", pid),
			   "process %d cannot be opened: %s", pid, strerror(-r));
}

int bring_target_by_pid(struct bring_target *ret, pid_t pid, struct refusal *refusal)
{
	int r = pidfd_open_pid(&ret->pidfd, pid);

	if (r < 0)
		return refuse_process(pid, r, refusal);
	ret->pid = pid;
	return 0;
}

int bring_target_by_pidfd(struct bring_target *ret, int pidfd, struct refusal *refusal)
{
	int r = pidfd_get_pid(pidfd, &ret->pid);

	if (r < 0)
		return refuse_process(0, r, refusal);
	r = fd_duplicate(&ret->pidfd, pidfd);
	return r < 0 ? refusal_set_errno(refusal, r, "%s", strerror(-r)) : 0;
}

static int take_qmp(struct bring_target *target, struct refusal *refusal)
{
	int r = qmp_check_pageable(target->qmp, refusal);

	if (r < 0)
		return r;
	target->pid = qmp_pid(target->qmp);
	r = fd_duplicate(&target->pidfd, qmp_pidfd(target->qmp));
	return r < 0 ? refusal_set_errno(refusal, r, "%s", strerror(-r)) : 0;
}

int bring_target_by_qmp(struct bring_target *ret, const char *path, struct refusal *refusal)
{
	int r = qmp_connect(&ret->qmp, path, 0, refusal);

	return r < 0 ? r : take_qmp(ret, refusal);
}

int bring_target_by_socket(struct bring_target *ret, int socket, struct refusal *refusal)
{
	int fd = -EBADF, r;

	r = fd_duplicate(&fd, socket);
	if (r < 0)
		return refusal_set_errno(refusal, r, "%s", strerror(-r));
	r = qmp_adopt(&ret->qmp, fd, 0, refusal);
	return r < 0 ? r : take_qmp(ret, refusal);
}

bool bring_is_socket(int fd)
{
	int domain;
	socklen_t n = sizeof(domain);

	/* not fstat(): of a stranger's file it might never answer */
	return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &n) == 0;
}

/* ---- plans ---- */

static uint32_t kind_of(enum backing_kind kind)
{
	switch (kind) {
	case BACKING_ANON:
		return UFD_MEMORY_ANON;
	case BACKING_SHMEM:
		return UFD_MEMORY_SHMEM;
	case BACKING_HUGETLB:
		return UFD_MEMORY_HUGETLB;
	case BACKING_PRIVATE:
		break;
	}
	return UFD_MEMORY_PRIVATE;
}

/* A long name keeps its end, where it differs from others. */
static void copy_name(const char *from, char to[UFD_NAME_BYTES])
{
	size_t n = strlen(from);

	strcpy(to, n < UFD_NAME_BYTES ? from : from + n - (UFD_NAME_BYTES - 1));
}

int bring_plan_add(struct plan *plan, const struct process_memory *memory, const char *source,
		   int source_fd)
{
	struct plan_memory *memories;
	struct plan_mapping *mappings;
	struct plan_memory *added;

	memories = reallocarray(plan->memories, plan->n_memories + 1, sizeof(*memories));
	if (!memories)
		return -ENOMEM;
	plan->memories = memories;
	mappings = reallocarray(plan->mappings, plan->n_mappings + memory->n_mappings,
				sizeof(*mappings));
	if (!mappings)
		return -ENOMEM;
	plan->mappings = mappings;

	added = &memories[plan->n_memories];
	*added = (struct plan_memory){
		.kind = kind_of(memory->kind),
		.page_bytes = memory->page_bytes,
		.base_bytes = UINT64_MAX,
		.backing = memory->fd,
		.spec = source,
		.source_fd = source_fd,
	};
	copy_name(memory->name, added->name);
	for (size_t i = 0; i < memory->n_mappings; i++) {
		const struct process_mapping *mapping = &memory->mappings[i];
		uint64_t end = mapping->offset_bytes + mapping->range.length_bytes;

		added->base_bytes = min_u64(added->base_bytes, mapping->offset_bytes);
		added->end_bytes = max_u64(added->end_bytes, end);
		mappings[plan->n_mappings++] = (struct plan_mapping){
			.memory = plan->n_memories,
			.address = mapping->range.start.v,
			.length_bytes = mapping->range.length_bytes,
			.offset_bytes = mapping->offset_bytes,
		};
	}
	plan->n_memories++;
	return 0;
}

int bring_plan(const struct process_memories *memories, const char *source, int source_fd,
	       struct plan *ret, struct refusal *refusal)
{
	_cleanup_(plan_done) struct plan plan = {};
	int r;

	if (memories->n_memories > 1 && strchr(source, ':'))
		return refusal_set(
			refusal, "io.ufd.guest.BadSource", json_pack("{s:s}", "source", source),
			"%zu memories were found, and one file cannot serve them all: pick "
			"one by name",
			memories->n_memories);
	for (size_t i = 0; i < memories->n_memories; i++) {
		r = bring_plan_add(&plan, &memories->memories[i], source, source_fd);
		if (r < 0)
			return refusal_set_errno(refusal, r, "%s", strerror(-r));
	}
	r = plan_check(&plan, refusal);
	if (r < 0)
		return r;
	*ret = plan;
	plan = (struct plan){};
	return 0;
}

/* ---- attaching ---- */

/*
 * A QEMU that may not call userfaultfd(2) can still use the device, if somebody who may open it
 * hands it in: the monitor takes fds.
 */
static int attach_through_monitor(struct paging *paging, struct bring_target *target,
				  struct process_opts *opts, struct refusal *refusal)
{
	_cleanup_(refusal_done) struct refusal ignored = {};
	_cleanup_(closep) int device = open(DEVICE, O_RDWR | O_CLOEXEC);
	bool is_pushed;
	int r;

	is_pushed = device >= 0 && qmp_push_fd(target->qmp, DEVICE_NAME, device, &ignored) == 0 &&
		    process_find_device(target->pid, &opts->remote_device) == 0;
	r = paging_attach_process(paging, target->pid, opts, refusal);
	if (is_pushed)
		qmp_drop_fd(target->qmp, DEVICE_NAME, &ignored);
	return r;
}

int bring(struct paging *paging, struct bring_target *target, const struct plan *plan,
	  const struct arrival_rights *rights, struct refusal *refusal)
{
	struct process_opts opts = PROCESS_OPTS_DEFAULT;
	struct plan_mapper mapper = { .pid = target->pid, .pagemap = -1 };
	_cleanup_(closep) int offered = -EBADF;
	int r;

	r = arrival_prepare(paging, plan, target->pid, -EBADF, refusal);
	if (r < 0)
		return r;
	opts.is_wp_sync = paging_is_wp_sync(paging);
	opts.pidfd = target->pidfd;
	if (offers_find(&paging->engine->offers, target->pid, opts.is_wp_sync, &offered,
			&paging->front_end) == 0) {
		paging->is_offered = true;
		mapper.pidfd = target->pidfd;
		mapper.uffd = offered;
		return arrival_begin(paging, plan, &mapper, rights, refusal);
	}
	if (target->qmp)
		r = attach_through_monitor(paging, target, &opts, refusal);
	else
		r = paging_attach_process(paging, target->pid, &opts, refusal);
	if (r < 0) {
		paging_take_down(paging);
		return r;
	}
	mapper.pidfd = paging->arriving.pidfd;
	mapper.uffd = paging->arriving.uffd;
	return arrival_begin(paging, plan, &mapper, rights, refusal);
}
