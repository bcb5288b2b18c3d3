/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A guest as the engine serves it. */
#include "attach/paging.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/units.h"
#include "log.h"
#include "refusal.h"

#define TURN_NS	   (20 * NSEC_PER_MSEC)
#define BETWEEN_NS NSEC_PER_MSEC

void paging_done(struct paging *paging)
{
	for (size_t i = 0; i < paging->n_memories; i++)
		free(paging->memories[i].source);
	for (size_t i = 0; i < paging->n_mappers; i++)
		process_attachment_done(&paging->mappers[i].attachment);
	free(paging->memories);
	free(paging->mappers);
	*paging = (struct paging){};
}

void paging_lock(struct paging *paging)
{
	pthread_mutex_lock(&paging->engine->lock);
}

void paging_unlock(struct paging *paging)
{
	pthread_mutex_unlock(&paging->engine->lock);
}

bool paging_try_lock(struct paging *paging)
{
	return pthread_mutex_trylock(&paging->engine->lock) == 0;
}

struct paging_memory *paging_memory(struct paging *paging, const char *name)
{
	for (size_t i = 0; i < paging->n_memories; i++)
		if (strcmp(paging->memories[i].name, name) == 0)
			return &paging->memories[i];
	return NULL;
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

void paging_keep_attachment(struct paging *paging, struct process_attachment *attachment)
{
	for (size_t i = 0; i < paging->n_mappers; i++)
		if (paging->mappers[i].pid == attachment->pid) {
			paging->mappers[i].attachment = *attachment;
			*attachment = (struct process_attachment)PROCESS_ATTACHMENT_NONE;
		}
}

int paging_finish(struct paging *paging, uint64_t deadline_ns)
{
	const struct timespec between = { .tv_nsec = (long)BETWEEN_NS };

	for (;;) {
		int r = -ESRCH;

		paging_lock(paging);
		if (paging->guest)
			r = ufd_pager_guest_finish(paging->guest, TURN_NS);
		paging_unlock(paging);
		if (r != -ETIMEDOUT)
			return r;
		if (deadline_ns && clock_now_ns() >= deadline_ns)
			return -ETIMEDOUT;
		nanosleep(&between, NULL); /* somebody else's turn */
	}
}

/* Our fd is still open: nobody reads zeros while the process's own copy goes. */
static void let_go(struct paging *paging, struct paging_mapper *mapper)
{
	_cleanup_(refusal_done) struct refusal refusal = {};
	struct process_opts opts = PROCESS_OPTS_DEFAULT;

	if (mapper->attachment.uffd >= 0 &&
	    process_detach(&mapper->attachment, &opts, &refusal) < 0)
		log_warning(LOG_FIELDS(.guest = paging->name),
			    "process %d keeps its copy of the userfaultfd: %s", mapper->pid,
			    json_string_value(json_object_get(refusal.parameters, "message")));
	process_attachment_done(&mapper->attachment);
}

void paging_take_down(struct paging *paging)
{
	struct paging_mapper *mappers;
	size_t n_mappers;

	paging_lock(paging);
	paging->guest = ufd_pager_guest_free(paging->guest);
	mappers = TAKE_PTR(paging->mappers);
	n_mappers = paging->n_mappers;
	paging->n_mappers = 0;
	paging_unlock(paging);

	for (size_t i = 0; i < n_mappers; i++)
		let_go(paging, &mappers[i]);
	free(mappers);
}
