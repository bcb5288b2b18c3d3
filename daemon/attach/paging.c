/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A guest as the engine serves it. */
#include "attach/paging.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/units.h"
#include "job.h"
#include "kernel/proc-maps.h"
#include "log.h"
#include "pager/halt.h"
#include "refusal.h"

#define TURN_NS	   (20 * NSEC_PER_MSEC)
#define BETWEEN_NS NSEC_PER_MSEC
#define SLOW_TURNS 25 /* after so many it is asked whether the mappings are still there */

void paging_init(struct paging *paging, struct paging_engine *engine, const char *name,
		 const struct settings *settings, void *userdata)
{
	*paging = (struct paging){
		.engine = engine,
		.settings = *settings,
		.userdata = userdata,
		.arriving = PROCESS_ATTACHMENT_NONE,
	};
	snprintf(paging->name, sizeof(paging->name), "%s", name);
}

void paging_done(struct paging *paging)
{
	for (size_t i = 0; i < paging->n_memories; i++)
		free(paging->memories[i].source);
	for (size_t i = 0; i < paging->n_mappers; i++)
		process_attachment_done(&paging->mappers[i].attachment);
	process_attachment_done(&paging->arriving);
	free(paging->memories);
	free(paging->mappers);
	*paging = (struct paging){ .arriving = PROCESS_ATTACHMENT_NONE };
}

static const char *const front_end_words[] = {
	[FRONT_END_CLIENT] = "client",
	[FRONT_END_PROCESS] = "process",
	[FRONT_END_PRELOAD] = "preload",
	[FRONT_END_FIRECRACKER] = "firecracker",
	[FRONT_END_CLOUD_HYPERVISOR] = "cloud-hypervisor-uffd",
};
#define N_FRONT_ENDS (sizeof(front_end_words) / sizeof(front_end_words[0]))

const char *front_end_word(enum front_end front_end)
{
	return front_end < N_FRONT_ENDS ? front_end_words[front_end] : "unknown";
}

bool front_end_find(const char *word, enum front_end *ret)
{
	for (unsigned int i = 0; i < N_FRONT_ENDS; i++)
		if (strcmp(front_end_words[i], word) == 0) {
			*ret = i;
			return true;
		}
	return false;
}

void paging_lock(struct paging *paging)
{
	pthread_mutex_lock(&paging->engine->lock);
}

void paging_unlock(struct paging *paging)
{
	pthread_mutex_unlock(&paging->engine->lock);
}

/* By the wall clock: the other form is unknown to thread sanitizers, and a clock that is set is no harm. */
bool paging_lock_within(struct paging *paging, uint64_t timeout_ns)
{
	struct timespec until;
	uint64_t until_ns;

	clock_gettime(CLOCK_REALTIME, &until);
	until_ns = (uint64_t)until.tv_nsec + timeout_ns;
	until.tv_sec += (time_t)(until_ns / NSEC_PER_SEC);
	until.tv_nsec = (long)(until_ns % NSEC_PER_SEC);
	return pthread_mutex_timedlock(&paging->engine->lock, &until) == 0;
}

bool paging_try_lock(struct paging *paging)
{
	return pthread_mutex_trylock(&paging->engine->lock) == 0;
}

/* With its last mapping the engine forgets a memory; its number may be another's by now. */
static bool is_forgotten(const struct paging *paging, const struct paging_memory *memory)
{
	UFD_OPTS(ufd_memory_stats, stats);

	return paging->guest &&
	       (ufd_pager_memory_stats(paging->guest, memory->number, &stats) < 0 ||
		strcmp(stats.name, memory->name));
}

struct paging_memory *paging_memory(struct paging *paging, const char *name)
{
	for (size_t i = 0; i < paging->n_memories; i++) {
		struct paging_memory *memory = &paging->memories[i];

		if (strcmp(memory->name, name))
			continue;
		if (!is_forgotten(paging, memory))
			return memory;
		free(memory->source);
		*memory = paging->memories[--paging->n_memories];
		return NULL;
	}
	return NULL;
}

static bool claims(struct paging *paging, pid_t pid, uint64_t address, uint64_t length_bytes)
{
	UFD_OPTS(ufd_mapping_info, info);

	for (uint32_t i = 0; ufd_pager_mapping_info(paging->guest, i, &info) == 0; i++)
		if (info.pid == pid && info.address < address + length_bytes &&
		    address < info.address + info.length)
			return true;
	return false;
}

struct paging *paging_find_claim(struct paging_engine *engine, pid_t pid, uint64_t address,
				 uint64_t length_bytes)
{
	struct paging *paging;

	LIST_FOREACH(paging, &engine->paging_list, paging_link)
	if (claims(paging, pid, address, length_bytes))
		return paging;
	return NULL;
}

void paging_begin(struct paging *paging, struct ufd_pager_guest *guest)
{
	paging->guest = guest;
	ufd_pager_guest_set_userdata(guest, paging->userdata);
	LIST_INSERT_HEAD(&paging->engine->paging_list, paging, paging_link);
}

bool paging_has_process(struct paging *paging, pid_t pid)
{
	bool is_mapper = false;

	paging_lock(paging);
	for (size_t i = 0; paging->guest && i < paging->n_mappers; i++)
		is_mapper |= paging->mappers[i].pid == pid;
	paging_unlock(paging);
	return is_mapper;
}

bool paging_has_mapping(struct paging *paging, pid_t pid)
{
	UFD_OPTS(ufd_mapping_info, info);

	for (uint32_t i = 0; ufd_pager_mapping_info(paging->guest, i, &info) == 0; i++)
		if (info.pid == pid)
			return true;
	return false;
}

bool paging_is_wp_sync(const struct paging *paging)
{
	UFD_OPTS(ufd_pager_guest_opts, opts);

	ufd_pager_guest_get_opts(paging->guest, &opts);
	return opts.track == UFD_TRACK_WP;
}

int paging_admit(struct paging *paging, const struct plan *plan, pid_t pid, struct refusal *refusal)
{
	const struct paging_engine *engine = paging->engine;

	return engine->keeper
		       ? engine->keeper->admit(engine->keeper_data, paging, plan, pid, refusal)
		       : 0;
}

int paging_keep(struct paging *paging, struct refusal *refusal)
{
	const struct paging_engine *engine = paging->engine;

	return engine->keeper ? engine->keeper->keep(engine->keeper_data, paging, refusal) : 0;
}

/* Our fd is still open: nobody reads zeros while the process's own copy goes. */
static void let_go(struct paging *paging, struct process_attachment *attachment)
{
	_cleanup_(refusal_done) struct refusal refusal = {};
	struct process_opts opts = PROCESS_OPTS_DEFAULT;

	if (attachment->uffd >= 0 && process_detach(attachment, &opts, &refusal) < 0)
		log_warning(LOG_FIELDS(.guest = paging->name),
			    "process %d keeps its copy of the userfaultfd: %s", attachment->pid,
			    json_string_value(json_object_get(refusal.parameters, "message")));
	process_attachment_done(attachment);
}

void paging_let_arriving_go(struct paging *paging)
{
	struct process_attachment arriving;

	paging_lock(paging);
	arriving = paging->arriving;
	paging->arriving = (struct process_attachment)PROCESS_ATTACHMENT_NONE;
	paging_unlock(paging);
	let_go(paging, &arriving);
}

static int keep_arriving(struct paging *paging, struct process_attachment arriving,
			 struct refusal *refusal)
{
	int r;

	paging_lock(paging);
	paging->arriving = arriving;
	r = paging_keep(paging, refusal);
	if (r < 0)
		paging->arriving = (struct process_attachment)PROCESS_ATTACHMENT_NONE;
	paging_unlock(paging);
	return r;
}

/* Its fds are still process_attach()'s. */
static int on_made(void *userdata, const struct process_attachment *attachment,
		   struct refusal *refusal)
{
	return keep_arriving(userdata, *attachment, refusal);
}

int paging_attach_process(struct paging *paging, pid_t pid, struct process_opts *opts,
			  struct refusal *refusal)
{
	struct process_attachment attachment = PROCESS_ATTACHMENT_NONE;
	int r;

	paging_let_arriving_go(paging);
	opts->on_made = on_made;
	opts->userdata = paging;
	attachment.pid = pid;
	r = keep_arriving(paging, attachment, refusal);
	if (r < 0)
		return r;
	attachment = (struct process_attachment)PROCESS_ATTACHMENT_NONE;
	r = process_attach(pid, opts, &attachment, refusal);
	paging_lock(paging);
	paging->arriving = attachment;
	paging_unlock(paging);
	return r;
}

/* Absent bytes that a mapping shows; what none shows cannot be filled, nor missed. With the lock held. */
static uint64_t missing_bytes(struct paging *paging)
{
	UFD_OPTS(ufd_mapping_info, info);
	uint64_t total = 0, absent;

	for (uint32_t i = 0; ufd_pager_mapping_info(paging->guest, i, &info) == 0; i++)
		if (ufd_pager_guest_absent(paging->guest, info.memory, info.offset, info.length,
					   &absent) == 0)
			total += absent;
	return total;
}

/* Of one mapping, what is still mapped and registered. */
static uint64_t reachable_of(struct paging *paging, const struct ufd_mapping_info *info)
{
	_cleanup_(proc_maps_done) struct proc_maps maps = {};
	uint64_t total = 0, absent;

	if (proc_maps_read(info->pid, &maps) < 0)
		return 1; /* it ends, or hides; its pidfd will tell */
	for (size_t i = 0; i < maps.n_maps; i++) {
		const struct hva_range *range = &maps.maps[i].range;
		uint64_t first = max_u64(range->start.v, info->address);
		uint64_t end = min_u64(range->start.v + range->length_bytes,
				       info->address + info->length);
		struct proc_map_flags flags = {};

		if (first < end && proc_map_flags(info->pid, range->start, &flags) == 0 &&
		    (flags.is_uffd_missing || flags.is_uffd_minor) &&
		    ufd_pager_guest_absent(paging->guest, info->memory,
					   info->offset + first - info->address, end - first,
					   &absent) == 0)
			total += absent;
	}
	return total;
}

/*
 * The same of what can still be filled: processes unmap, move and replace parts of their memory
 * without a word, and nobody waits for those. Reads much of /proc.
 */
static uint64_t reachable_bytes(struct paging *paging)
{
	UFD_OPTS(ufd_mapping_info, info);
	uint64_t total = 0;

	for (uint32_t i = 0; ufd_pager_mapping_info(paging->guest, i, &info) == 0; i++)
		total += reachable_of(paging, &info);
	return total;
}

static bool is_mapped(const struct ufd_mapping_info *info)
{
	_cleanup_(proc_maps_done) struct proc_maps maps = {};

	if (proc_maps_read(info->pid, &maps) < 0)
		return true; /* it ends, or hides; its pidfd will tell */
	for (size_t i = 0; i < maps.n_maps; i++) {
		const struct hva_range *range = &maps.maps[i].range;

		if (range->start.v < info->address + info->length &&
		    info->address < range->start.v + range->length_bytes)
			return true;
	}
	return false;
}

/* Mappings that their process took away without a word. With the lock held. */
static void forget_vanished(struct paging *paging)
{
	UFD_OPTS(ufd_mapping_info, info);
	uint32_t i = 0;

	while (ufd_pager_mapping_info(paging->guest, i, &info) == 0) {
		if (is_mapped(&info) ||
		    ufd_pager_guest_remove_mapping(paging->guest, info.mapper, info.address,
						   info.length) < 0)
			i++;
	}
}

/* One turn. Return: 0, -ETIMEDOUT to come again, -ESRCH. */
static int finish_turn(struct paging *paging, bool is_slow)
{
	int r;

	if (!paging->guest)
		return -ESRCH;
	r = ufd_pager_guest_finish(paging->guest, TURN_NS);
	if (r != -ETIMEDOUT)
		return r;
	if (!is_slow)
		return missing_bytes(paging) ? -ETIMEDOUT : 0;
	forget_vanished(paging);
	return reachable_bytes(paging) ? -ETIMEDOUT : 0;
}

int paging_finish(struct paging *paging, uint64_t deadline_ns, const struct job *job)
{
	const struct timespec between = { .tv_nsec = (long)BETWEEN_NS };
	int r;

	for (unsigned int turn = 1;; turn++) {
		paging_lock(paging);
		r = finish_turn(paging, turn % SLOW_TURNS == 0);
		paging_unlock(paging);
		if (r != -ETIMEDOUT)
			return r;
		if (job && job_is_cancelled(job))
			return -EINTR;
		if (deadline_ns && clock_now_ns() >= deadline_ns)
			return -ETIMEDOUT;
		nanosleep(&between, NULL); /* somebody else's turn */
	}
}

bool paging_may_run_already(const struct paging *paging)
{
	struct ufd_pager_guest_opts opts = { .size = sizeof(opts) };

	if (!paging->guest || !paging->n_mappers || paging->mappers[0].attachment.uffd >= 0 ||
	    paging->is_offered)
		return false;
	ufd_pager_guest_get_opts(paging->guest, &opts);
	return opts.may_run || opts.populated == UFD_POPULATED_KEEP ||
	       paging->front_end >= FRONT_END_FIRECRACKER;
}

void paging_take_down(struct paging *paging)
{
	const struct paging_keeper *keeper = paging->engine->keeper;
	struct ufd_pager_guest *guest = paging->guest;
	struct process_attachment arriving;
	struct paging_mapper *mappers;
	size_t n_mappers;

	paging_lock(paging);
	if (guest) {
		LIST_REMOVE(paging, paging_link);
		if (keeper)
			keeper->leave(paging->engine->keeper_data, paging);
	}
	if (paging->is_to_be_left)
		guest = ufd_pager_guest_leave(guest);
	else if (guest)
		pager_halt(guest);
	paging->guest = NULL;
	mappers = TAKE_PTR(paging->mappers);
	n_mappers = paging->n_mappers;
	paging->n_mappers = 0;
	arriving = paging->arriving;
	paging->arriving = (struct process_attachment)PROCESS_ATTACHMENT_NONE;
	paging_unlock(paging);

	for (size_t i = 0; i < n_mappers; i++)
		let_go(paging, &mappers[i].attachment);
	let_go(paging, &arriving);
	free(mappers);

	/* last: until here a successor would go on with letting go */
	paging_lock(paging);
	ufd_pager_guest_free(guest);
	if (keeper)
		keeper->drop(paging->engine->keeper_data, paging);
	paging_unlock(paging);
}
