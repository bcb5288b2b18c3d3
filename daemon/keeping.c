/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Guests are kept. */
#include "keeping.h"

#include <errno.h>
#include <string.h>

#include "attach/plan.h"
#include "refusal.h"
#include "registry.h"
#include "store/admission.h"
#include "store/record.h"
#include "store/refetch.h"

struct keeping {
	struct registry *registry; /* borrowed */
	struct store *store;	   /* owned */
};

/* ---- does it fit ---- */

/* What a guest that is there may still ask for. */
static void add_promised(struct paging *paging, struct admission_need *need)
{
	for (size_t i = 0; i < paging->n_memories; i++) {
		const struct paging_memory *memory = &paging->memories[i];
		UFD_OPTS(ufd_memory_stats, stats);

		if (ufd_pager_memory_stats(paging->guest, memory->number, &stats) < 0)
			continue;
		if (stats.page_bytes > (uint64_t)sysconf(_SC_PAGESIZE))
			admission_add(&need->huge, stats.page_bytes, stats.absent_bytes);
		else if (paging->settings.background && strchr(memory->source, ':'))
			need->filled_bytes += stats.absent_bytes;
	}
}

/* The memories of a plan that the guest does not have yet. @ret: owned members, for plan_done(). */
static int plan_new_memories(struct paging *paging, const struct plan *plan, struct plan *ret)
{
	ret->memories = calloc(plan->n_memories + 1, sizeof(*ret->memories));
	if (!ret->memories)
		return -ENOMEM;
	for (size_t i = 0; i < plan->n_memories; i++)
		if (!paging_memory(paging, plan->memories[i].name))
			ret->memories[ret->n_memories++] = plan->memories[i];
	return 0;
}

static int admit(void *userdata, struct paging *paging, const struct plan *plan, pid_t pid,
		 struct refusal *refusal)
{
	_cleanup_(plan_done) struct plan added = {};
	struct keeping *keeping = userdata;
	struct admission_need need, others = {};
	struct admission_room room;
	struct paging *other;
	int r;

	r = plan_new_memories(paging, plan, &added);
	if (r < 0)
		return refusal_set_errno(refusal, r, "%s", strerror(-r));
	need = admission_need_of(&added, &paging->settings);
	LIST_FOREACH(other, &registry_engine(keeping->registry)->paging_list, paging_link)
	add_promised(other, &others);
	room = admission_look(keeping->store, pid, &need);
	return admission_decide(&room, &need, &others, paging->guest ? 0 : added.n_memories,
				paging->name, refusal);
}

/* ---- what is known of it ---- */

static int handle_of(struct ufd_pager_guest *guest, uint32_t kind, uint32_t id)
{
	struct ufd_handle handles[UFD_MAX_HANDLES];
	size_t n = 0;

	if (ufd_pager_guest_handles(guest, handles, UFD_MAX_HANDLES, &n) < 0)
		return -EBADF;
	for (size_t i = 0; i < n; i++)
		if (handles[i].kind == kind && handles[i].id == id)
			return handles[i].fd;
	return -EBADF;
}

/* Once, when the process becomes a mapper. */
static void look_at_mapper(struct paging *paging, struct paging_mapper *mapper)
{
	int uffd = handle_of(paging->guest, UFD_HANDLE_UFFD, mapper->number);
	int pidfd = handle_of(paging->guest, UFD_HANDLE_PIDFD, mapper->number);

	if (refetch_uffd_inode(uffd, &mapper->uffd_inode) == 0)
		mapper->has_duplicate = refetch_uffd(mapper->pid, pidfd, mapper->uffd_inode,
						     &mapper->copy_fd, NULL) == 0;
}

static int write_mappers(struct paging *paging)
{
	bool has_duplicates = true;
	int r = 0;

	for (size_t i = 0; r == 0 && i < paging->n_mappers; i++) {
		struct paging_mapper *mapper = &paging->mappers[i];
		struct record_mapper record = { .pid = mapper->pid };

		if (mapper->uffd_inode == 0)
			look_at_mapper(paging, mapper);
		record.remote_fd = mapper->attachment.remote_fd;
		record.uffd_inode = mapper->uffd_inode;
		record.has_duplicate = mapper->has_duplicate;
		record.copy_fd = mapper->copy_fd;
		has_duplicates &= mapper->has_duplicate;
		r = record_put_mapper(paging->guest, mapper->number, &record);
	}
	paging->has_duplicates = has_duplicates;
	return r;
}

static int write_arriving(struct paging *paging)
{
	struct record_mapper record = {
		.pid = paging->arriving.pid,
		.remote_fd = paging->arriving.remote_fd,
	};

	if (record.pid == 0) {
		record_drop_attaching(paging->guest);
		return 0;
	}
	if (paging->arriving.uffd >= 0)
		refetch_uffd_inode(paging->arriving.uffd, &record.uffd_inode);
	return record_put_attaching(paging->guest, &record);
}

static int write_guest(struct registration *registration, bool is_leaving)
{
	struct record_guest record = {
		.owner = registration->owner,
		.pid = registration->pid,
		.front_end = registration->paging.front_end,
		.is_leaving = is_leaving,
		.attached_ns = registration->attached_ns,
		.settings = registration->paging.settings,
	};

	memcpy(record.qmp, registration->qmp, sizeof(record.qmp));
	return record_put_guest(registration->paging.guest, &record);
}

int keeping_write(struct keeping *keeping, struct registration *registration)
{
	struct paging *paging = &registration->paging;
	int r;

	r = write_guest(registration, false);
	for (size_t i = 0; r == 0 && i < paging->n_memories; i++)
		r = record_put_base(paging->guest, paging->memories[i].number,
				    paging->memories[i].base_bytes);
	if (r == 0)
		r = write_mappers(paging); /* before what was arriving is forgotten */
	if (r == 0)
		r = write_arriving(paging);
	if (r == 0)
		r = store_keep(keeping->store, paging->guest, registration->number);
	return r;
}

static int keep(void *userdata, struct paging *paging, struct refusal *refusal)
{
	int r = keeping_write(userdata, paging->userdata);

	switch (r) {
	case 0:
		return 0;
	case -ETOOMANYREFS:
	case -EMFILE:
		return refusal_set(
			refusal, "io.ufd.manager.LimitReached",
			json_pack("{s:s}", "limit", "nofile"),
			"guest `%s`: too many file descriptors to keep: raise LimitNOFILE= "
			"of the unit (ulimit -n)",
			paging->name);
	case -ETIMEDOUT:
		return refusal_set_errno(refusal, r,
					 "guest `%s` cannot be kept: the service manager does not "
					 "answer",
					 paging->name);
	default:
		return refusal_set_errno(refusal, r, "guest `%s` cannot be kept: %s", paging->name,
					 strerror(-r));
	}
}

static void leave(void *userdata, struct paging *paging)
{
	write_guest(paging->userdata, true);
}

static void drop(void *userdata, struct paging *paging)
{
	struct registration *registration = paging->userdata;
	struct keeping *keeping = userdata;

	store_drop(keeping->store, registration->number);
	registration->number[0] = '\0';
}

/* ---- the end of us ---- */

static bool has_copy(struct paging *paging, const struct paging_mapper *mapper)
{
	int pidfd = handle_of(paging->guest, UFD_HANDLE_PIDFD, mapper->number);
	int number = mapper->copy_fd;

	return mapper->uffd_inode &&
	       refetch_uffd(mapper->pid, pidfd, mapper->uffd_inode, &number, NULL) == 0;
}

bool keeping_may_leave(void *userdata, struct registration *registration)
{
	struct paging *paging = &registration->paging;
	struct keeping *keeping = userdata;

	if (!store_outlives_stop(keeping->store) && paging->front_end != FRONT_END_CLIENT)
		return false;
	for (size_t i = 0; i < paging->n_mappers; i++)
		if (!has_copy(paging, &paging->mappers[i]))
			return false;
	return true;
}

/* ---- life ---- */

int keeping_new(struct keeping **ret, struct registry *registry, const char *state_dir)
{
	static const struct paging_keeper keeper = {
		.admit = admit,
		.keep = keep,
		.leave = leave,
		.drop = drop,
	};
	_cleanup_(keeping_freep) struct keeping *keeping = calloc(1, sizeof(*keeping));
	struct paging_engine *engine = registry_engine(registry);
	int r;

	if (!keeping)
		return -ENOMEM;
	keeping->registry = registry;
	r = store_new(&keeping->store, state_dir);
	if (r == 0 && !store_is_systemd(keeping->store))
		r = ufd_pager_set_ledger_directory(engine->pager, store_directory(keeping->store));
	if (r < 0)
		return r;
	engine->keeper = &keeper;
	engine->keeper_data = keeping;
	*ret = TAKE_PTR(keeping);
	return 0;
}

struct store *keeping_store(struct keeping *keeping)
{
	return keeping->store;
}

struct keeping *keeping_free(struct keeping *keeping)
{
	if (!keeping)
		return NULL;
	store_free(keeping->store);
	free(keeping);
	return NULL;
}
