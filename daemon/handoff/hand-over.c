/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a visitor's job does: its offer becomes a guest.
 *
 * A VMM without an acknowledgement goes on as soon as it has sent its message, so that some thread of it
 * waits for a page already. Everything that can be refused is refused before the engine registers
 * anything, and what fails later is left registered: to unregister would show it zeros.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "attach/arrival.h"
#include "attach/client.h"
#include "dirty/tracking.h"
#include "handoff/listener.h"
#include "kernel/proc-maps.h"
#include "store/refetch.h"

#define VMM_CONSUMER "vmm" /* of a VMM that registered write-protection: it reads by itself */

static int check_uffd(struct visitor *visitor)
{
	const struct settings *settings = &visitor->registration->paging.settings;

	if (visitor->offer.uffd < 0)
		return refusal_set(&visitor->refusal, "io.ufd.handoff.BadMessage", NULL,
				   "the message names memory, and brings no userfaultfd");
	return client_check_uffd(visitor->gather.fds[visitor->offer.uffd], visitor->offer.uffd,
				 settings->track == SETTINGS_TRACK_WP, &visitor->refusal);
}

/*
 * Each region is registered already, by some userfaultfd of the process that connected; that it is this
 * one shows when it is registered again (attach/plan.h). Where smaps cannot be read, the kernel's
 * word at that moment must do.
 */
static int check_owner(struct visitor *visitor)
{
	for (size_t i = 0; i < visitor->offer.n_regions; i++) {
		uint64_t address = visitor->offer.regions[i].address;
		struct proc_map_flags flags = {};
		int r = proc_map_flags(visitor->pid, (struct hva){ address }, &flags);

		if (r == -EACCES || r == -EPERM) {
			visitor->is_unverified = true;
			return 0;
		}
		if (r == 0 && !flags.is_uffd_missing && !flags.is_uffd_minor && !flags.is_uffd_wp)
			r = -ENOENT;
		if (r == -ENOENT)
			return refusal_set(&visitor->refusal, "io.ufd.guest.CannotAttach",
					   json_pack("{s:i}", "pid", visitor->pid),
					   "process %d has nothing at 0x%llx that is registered by "
					   "a userfaultfd: it is another process's",
					   visitor->pid, (unsigned long long)address);
		if (r < 0)
			return refusal_set(&visitor->refusal, "io.ufd.guest.CannotAttach",
					   json_pack("{s:i}", "pid", visitor->pid),
					   "the mappings of process %d cannot be read: %s",
					   visitor->pid, strerror(-r));
		visitor->is_protected |= flags.is_uffd_wp;
	}
	return 0;
}

/*
 * A VMM that sends no file may map one all the same: it is opened through the mapping, for which the
 * kernel wants CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE. Then it is as if it had been sent.
 */
int hand_over_find_backing(struct gather *gather, struct frontend_offer *offer, pid_t pid,
			   struct refusal *refusal)
{
	uint64_t address = offer->regions[0].address;
	_cleanup_(proc_maps_done) struct proc_maps maps = {};
	int fd = -EBADF;
	char path[96];

	if (!offer->is_backing_unsaid || proc_maps_read(pid, &maps) < 0 ||
	    gather->n_fds == FRONTEND_MAX_FDS)
		return 0;
	for (size_t i = 0; i < maps.n_maps; i++) {
		const struct proc_map *map = &maps.maps[i];

		if (address - map->range.start.v >= map->range.length_bytes || !map->inode ||
		    !map->is_shared)
			continue;
		snprintf(path, sizeof(path), "/proc/%d/map_files/%llx-%llx", pid,
			 (unsigned long long)map->range.start.v,
			 (unsigned long long)(map->range.start.v + map->range.length_bytes));
		fd = open(path, O_RDWR | O_CLOEXEC);
		if (fd < 0)
			return refusal_set(refusal, "io.ufd.guest.CannotAttach",
					   json_pack("{s:i}", "pid", pid),
					   "process %d maps a file that it did not send, and %s "
					   "cannot be opened: %s",
					   pid, path, strerror(errno));
		offer->backing = (int)gather->n_fds;
		gather->fds[gather->n_fds++] = fd;
		return 0;
	}
	return 0;
}

static int make_plan(struct visitor *visitor, struct plan *ret)
{
	struct frontend_input input = gather_input(&visitor->gather);

	return frontend_plan(&visitor->offer, &input, visitor->listener->wish.source, -EBADF, ret,
			     &visitor->refusal);
}

/* ---- a new guest ---- */

struct hand_over {
	struct visitor *visitor;
	const struct plan *plan;
	struct plan_mapper mapper;
	struct arrival_rights rights;
};

static int begin(void *userdata, struct refusal *refusal)
{
	struct hand_over *work = userdata;

	return arrival_begin(&work->visitor->registration->paging, work->plan, &work->mapper,
			     &work->rights, refusal);
}

static int bring(struct visitor *visitor, const struct plan *plan)
{
	const char *consumer = visitor->listener->wish.consumer;
	struct registration *registration = visitor->registration;
	struct hand_over work = {
		.visitor = visitor,
		.plan = plan,
		.mapper = {
			.pid = visitor->pid,
			.pidfd = visitor->pidfd,
			.uffd = visitor->gather.fds[visitor->offer.uffd],
			.pagemap = -1,
			.may_be_unproved = visitor->is_unverified,
		},
		.rights = { .caller = visitor->listener->wish.owner },
	};
	int r;

	if (!visitor->is_unverified) {
		r = plan_check_maps(plan, visitor->pid, &visitor->refusal);
		if (r < 0)
			return r;
	}
	if (!consumer && visitor->is_protected)
		consumer = VMM_CONSUMER;
	r = arrival_prepare(&registration->paging, plan, visitor->pid, work.mapper.uffd,
			    &visitor->refusal);
	if (r < 0)
		return r;
	return tracking_arrive(registration, consumer, &work.rights, begin, &work,
			       &visitor->refusal);
}

/* ---- one that is back ---- */

static bool has_region(struct paging *paging, const struct frontend_region *region)
{
	UFD_OPTS(ufd_mapping_info, info);

	for (uint32_t i = 0; ufd_pager_mapping_info(paging->guest, i, &info) == 0; i++)
		if (info.address == region->address && info.length == region->length_bytes)
			return true;
	return false;
}

/* The same userfaultfd, and nothing that is not known. What is known beside it was added since. */
static int check_again(struct visitor *visitor)
{
	struct paging *paging = &visitor->registration->paging;
	uint64_t inode = 0;
	bool is_same;
	int r;

	r = refetch_uffd_inode(visitor->gather.fds[visitor->offer.uffd], &inode);
	paging_lock(paging);
	is_same = r == 0 && paging->guest && paging->n_mappers &&
		  paging->mappers[0].uffd_inode == inode;
	for (size_t i = 0; is_same && i < visitor->offer.n_regions; i++)
		is_same = has_region(paging, &visitor->offer.regions[i]);
	paging_unlock(paging);
	if (is_same)
		return 0;
	return refusal_set(&visitor->refusal, "io.ufd.guest.GuestExists",
			   json_pack("{s:s}", "name", visitor->name),
			   "process %d comes back with another userfaultfd, or other memory, than "
			   "guest `%s` has",
			   visitor->pid, visitor->name);
}

int visitor_hand_over(struct visitor *visitor, struct job *job)
{
	_cleanup_(plan_done) struct plan plan = {};
	const struct handoff_speaker *speaker = visitor->listener->speaker;
	int r;

	if (speaker)
		return speaker->run(job,
				    &(struct handoff_visit){
					    .connection = visitor->gather.fd,
					    .pid = visitor->pid,
					    .pidfd = visitor->pidfd,
					    .uid = visitor->uid,
					    .gid = visitor->gid,
					    .wish = &visitor->listener->wish,
					    .name = visitor->name,
				    },
				    visitor->said, sizeof(visitor->said), &visitor->refusal);
	r = check_uffd(visitor);
	if (r == 0 && visitor->is_again)
		return check_again(visitor);
	if (r == 0)
		r = check_owner(visitor);
	if (r == 0)
		r = hand_over_find_backing(&visitor->gather, &visitor->offer, visitor->pid,
					   &visitor->refusal);
	if (r == 0)
		r = make_plan(visitor, &plan);
	if (r == 0)
		r = bring(visitor, &plan);
	return r;
}
