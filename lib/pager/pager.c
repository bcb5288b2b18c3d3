/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The engine: its guests, its events, and sources under their public name. */
#include "ufd/pager.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/opts.h"
#include "kernel/features.h"
#include "pager/kinds.h"
#include "pager/paged.h"
#include "source/kinds.h"

EXPORT int ufd_pager_new(struct ufd_pager **ret, const struct ufd_pager_opts *given)
{
	struct ufd_pager *pager;
	pthread_condattr_t attributes;
	int r;

	pager = calloc(1, sizeof(*pager));
	if (!pager)
		return -ENOMEM;
	pager->event_fd = pager->chore_fd = pager->ledger_directory = -EBADF;
	pthread_mutex_init(&pager->lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&pager->changed, &attributes);
	pthread_condattr_destroy(&attributes);

	r = opts_load(&pager->opts, sizeof(pager->opts), given);
	if (r == 0 && !features_get()->uffd)
		r = -ENOSYS;
	if (r == 0) {
		pager->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		pager->chore_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (pager->event_fd < 0 || pager->chore_fd < 0)
			r = -errno;
	}
	if (r == 0)
		r = memcg_find_tree(&pager->groups);
	if (r == 0)
		r = bulk_start(pager);
	residence_lock_code();
	if (r < 0) {
		ufd_pager_free(pager);
		return r;
	}
	*ret = pager;
	return 0;
}

EXPORT struct ufd_pager *ufd_pager_free(struct ufd_pager *pager)
{
	if (!pager)
		return NULL;
	while (pager->guests)
		ufd_pager_guest_free(pager->guests);
	bulk_stop(pager);
	closep(&pager->event_fd);
	closep(&pager->chore_fd);
	closep(&pager->ledger_directory);
	pthread_cond_destroy(&pager->changed);
	pthread_mutex_destroy(&pager->lock);
	free(pager);
	return NULL;
}

EXPORT int ufd_pager_fd(const struct ufd_pager *pager)
{
	return pager->event_fd;
}

/* Bytes that cannot be had: which ones of which file. A memory that went meanwhile has none. */
static void notice_place(struct ufd_pager_guest *paged, const struct notice *notice,
			 struct ufd_event *event)
{
	const struct memory *memory = notice->memory;
	struct source_where where;

	if ((notice->kind != UFD_EVENT_STALLED && notice->kind != UFD_EVENT_DEADLINE &&
	     notice->kind != UFD_EVENT_SOURCE_CHANGED) ||
	    !memory || pthread_mutex_trylock(&paged->model_lock) != 0)
		return;
	if (!memory->is_forgotten && paged->guest->memories[memory->id] == memory &&
	    paged->sources[memory->id] &&
	    source_where(paged->sources[memory->id], memory->source_offset + notice->offset_bytes,
			 &where)) {
		event->path = where.path;
		event->path_offset = where.offset;
	}
	pthread_mutex_unlock(&paged->model_lock);
}

/* False when the callback freed the guest. */
static bool pager_deliver(struct ufd_pager *pager, struct ufd_pager_guest *paged,
			  const struct notice *notice)
{
	struct ufd_event event = {
		.size = sizeof(event),
		.time_ns = notice->time_ns,
		.memory = notice->memory ? notice->memory->name : NULL,
		.offset = notice->offset_bytes,
		.value = notice->value,
		.kind = notice->kind,
	};

	notice_place(paged, notice, &event);
	if (pager->opts.on_event)
		pager->opts.on_event(paged, &event, pager->opts.userdata);
	return pager->dispatching == paged;
}

EXPORT int ufd_pager_dispatch(struct ufd_pager *pager)
{
	struct ufd_pager_guest *paged, *next;
	struct notice notice;
	uint64_t n;

	(void)!read(pager->event_fd, &n, sizeof(n));
	for (paged = pager->guests; paged; paged = next) {
		next = paged->next;
		pager->dispatching = paged;
		while (paged_demand(paged) && demand_take_notice(paged_demand(paged), &notice)) {
			if (notice.kind == UFD_EVENT_ENDED)
				atomic_store(&paged->is_ended, true);
			if (!pager_deliver(pager, paged, &notice))
				break;
		}
	}
	pager->dispatching = NULL;
	return 0;
}

/* ---- the watchdog's question ---- */

#define ROUND_NS (900 * NSEC_PER_MSEC) /* asked once a second, one that is stuck is found */

/*
 * Asleep it is well, as long as it wakes now and then; and a round takes a moment. Holding pager->lock.
 */
static bool paged_is_alive(struct ufd_pager_guest *paged, uint64_t now_ns)
{
	const struct demand *demand = paged_demand(paged);
	uint64_t pulse;

	if (!demand)
		return true;
	pulse = demand_pulse(demand);
	if (pulse != paged->seen_pulse || !paged->seen_ns) {
		paged->seen_pulse = pulse;
		paged->seen_ns = now_ns;
		return true;
	}
	return now_ns - paged->seen_ns < (demand_is_asleep(demand) ? 3 * SLEEP_MAX_NS : ROUND_NS);
}

EXPORT int ufd_pager_is_alive(struct ufd_pager *pager, const char **ret_guest)
{
	uint64_t now_ns = clock_now_ns();
	struct ufd_pager_guest *late = NULL;

	pthread_mutex_lock(&pager->lock);
	for (struct ufd_pager_guest *paged = pager->guests; paged; paged = paged->next)
		if (!paged_is_alive(paged, now_ns) && !late)
			late = paged;
	if (late)
		strcpy(pager->late_name, late->guest->name);
	pthread_mutex_unlock(&pager->lock);
	if (late && ret_guest)
		*ret_guest = pager->late_name;
	return !late;
}

/* ---- sources ---- */

EXPORT int ufd_source_new(struct ufd_source **ret, const struct ufd_source_ops *ops, void *userdata)
{
	return source_new_callback((struct source **)ret, ops, userdata);
}

EXPORT int ufd_source_open(struct ufd_source **ret, const char *spec, int fd,
			   const char **ret_error)
{
	return kinds_source_open((struct source **)ret, spec, fd, ret_error);
}

EXPORT struct ufd_source *ufd_source_ref(struct ufd_source *source)
{
	return (struct ufd_source *)source_ref((struct source *)source);
}

EXPORT struct ufd_source *ufd_source_unref(struct ufd_source *source)
{
	return (struct ufd_source *)source_unref((struct source *)source);
}

EXPORT void ufd_read_complete(struct ufd_read *read, int answer)
{
	source_complete((struct source_request *)read, answer);
}
