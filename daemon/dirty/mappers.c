/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Other mappers of a guest that is tracked. */
#include "dirty/mappers.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "attach/others.h"
#include "attach/plan.h"
#include "base/clock.h"
#include "base/files.h"
#include "kernel/proc-maps.h"
#include "refusal.h"
#include "registry.h"

#define MAX_NAMED  8  /* pids of a warning */
#define IDLE_PARTS 19 /* for each part of the time that it is looked */

static int backing_of(const struct ufd_handle *handles, size_t n, uint32_t memory)
{
	for (size_t i = 0; i < n; i++)
		if (handles[i].kind == UFD_HANDLE_BACKING && handles[i].id == memory)
			return handles[i].fd;
	return -EBADF;
}

/* Its fds are duplicates: the guest may go meanwhile. */
static void duplicates_done(struct plan *plan)
{
	for (size_t i = 0; i < plan->n_memories; i++)
		closep(&plan->memories[i].backing);
	plan_done(plan);
}

/* The guest's memories that have a file. With the lock held. */
static int plan_of_guest(struct paging *paging, struct plan *plan)
{
	struct ufd_handle handles[UFD_MAX_HANDLES];
	size_t n = 0;
	int r;

	r = paging->guest ? ufd_pager_guest_handles(paging->guest, handles, UFD_MAX_HANDLES, &n)
			  : -ESRCH;
	if (r < 0)
		return r;
	plan->memories = calloc(paging->n_memories + 1, sizeof(*plan->memories));
	if (!plan->memories)
		return -ENOMEM;
	for (size_t i = 0; i < paging->n_memories; i++) {
		const struct paging_memory *known = &paging->memories[i];
		struct plan_memory *memory = &plan->memories[plan->n_memories];
		int backing = backing_of(handles, n, known->number);

		if (backing < 0 || known->kind == UFD_MEMORY_PRIVATE)
			continue; /* nobody else can write to what the process sees */
		*memory = (struct plan_memory){
			.kind = known->kind,
			.page_bytes = known->page_bytes,
			.base_bytes = known->base_bytes,
			.end_bytes = known->base_bytes + known->length_bytes,
			.backing = -EBADF,
			.source_fd = -EBADF,
		};
		strcpy(memory->name, known->name);
		r = fd_duplicate(&memory->backing, backing);
		if (r < 0)
			return r;
		plan->n_memories++;
	}
	return 0;
}

int mappers_attach(struct registration *registration, const struct arrival_rights *rights,
		   struct refusal *refusal)
{
	_cleanup_(duplicates_done) struct plan plan = {};
	struct paging *paging = &registration->paging;
	int r;

	paging_lock(paging);
	r = plan_of_guest(paging, &plan);
	paging_unlock(paging);
	if (r < 0)
		return refusal_set_errno(refusal, r, "guest `%s`: %s", paging->name, strerror(-r));
	registration->mappers_due_ns = 0;
	return others_attach(paging, &plan, rights, refusal);
}

/* ---- warnings ---- */

struct known {
	pid_t *pids; /* owned */
	size_t n;
};

static void known_done(struct known *known)
{
	free(known->pids);
}

static bool is_known(const struct known *known, pid_t pid)
{
	for (size_t i = 0; i < known->n; i++)
		if (known->pids[i] == pid)
			return true;
	return false;
}

/* Those of whom something is seen. */
static int find_known(struct paging *paging, struct known *ret)
{
	ret->pids = calloc(paging->n_mappers + 1, sizeof(*ret->pids));
	if (!ret->pids)
		return -ENOMEM;
	for (size_t i = 0; i < paging->n_mappers; i++)
		if (paging_has_mapping(paging, paging->mappers[i].pid))
			ret->pids[ret->n++] = paging->mappers[i].pid;
	return 0;
}

static void warn_of(const struct plan_memory *memory, const struct known *known, json_t *warnings)
{
	_cleanup_(proc_maps_done) struct proc_maps maps = {};
	char text[512], pids[128] = "";
	size_t n = 0, n_text = 0;
	pid_t before = 0;
	struct stat info;

	if (fstat(memory->backing, &info) < 0 ||
	    proc_maps_of_file(info.st_dev, info.st_ino, &maps, NULL) < 0)
		return;
	for (size_t i = 0; i < maps.n_maps; i++) {
		pid_t pid = maps.maps[i].pid;

		if (pid == before || pid == getpid() || is_known(known, pid) ||
		    !maps.maps[i].is_shared || !maps.maps[i].is_writable)
			continue;
		before = pid;
		if (n++ < MAX_NAMED)
			n_text += (size_t)snprintf(pids + n_text, sizeof(pids) - n_text, "%s%d",
						   n_text ? ", " : "", pid);
	}
	if (n == 0)
		return;
	snprintf(
		text, sizeof(text),
		"memory `%s` is mapped by %zu other process%s (%s%s): what they write is not seen; "
		"start with all_mappers to attach to them",
		memory->name, n, n == 1 ? "" : "es", pids, n > MAX_NAMED ? ", ..." : "");
	json_array_append_new(warnings, json_string(text));
}

/* Return: owned array of texts; NULL without memory. */
static json_t *look(struct registration *registration)
{
	json_t *warnings = json_array();
	_cleanup_(duplicates_done) struct plan plan = {};
	_cleanup_(known_done) struct known known = {};
	struct paging *paging = &registration->paging;
	int r;

	paging_lock(paging);
	r = plan_of_guest(paging, &plan);
	if (r == 0)
		r = find_known(paging, &known);
	paging_unlock(paging);
	for (size_t i = 0; r == 0 && i < plan.n_memories; i++)
		warn_of(&plan.memories[i], &known, warnings);
	return warnings;
}

void mappers_warn(struct registration *registration, json_t *warnings)
{
	uint64_t before_ns = clock_now_ns(), after_ns;

	if (before_ns >= registration->mappers_due_ns) {
		json_decref(registration->mapper_warnings);
		registration->mapper_warnings = look(registration);
		after_ns = clock_now_ns();
		registration->mappers_due_ns = after_ns + (after_ns - before_ns) * IDLE_PARTS;
	}
	if (registration->mapper_warnings)
		json_array_extend(warnings, registration->mapper_warnings);
}
