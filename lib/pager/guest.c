/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Guests of the engine: made, started, told things, finished, freed. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/opts.h"
#include "kernel/features.h"
#include "kernel/pidfd.h"
#include "kernel/uapi.h"
#include "kernel/uffd.h"
#include "pager/halt.h"
#include "pager/track.h"

#define WINDOW_DEFAULT_BYTES (64 * KIB)
#define UNREGISTER_BYTES     (64 * MIB)

int paged_load_opts(struct ufd_pager_guest_opts *opts, const struct ufd_pager_guest_opts *given)
{
	int r = opts_load(opts, sizeof(*opts), given);

	if (r < 0)
		return r;
	if (opts->policy > UFD_POLICY_KILL || opts->track > UFD_TRACK_WP ||
	    opts->other_mappers > UFD_OTHERS_IGNORE || opts->populated > UFD_POPULATED_KEEP ||
	    opts->cpu > 1024 || opts->may_run > 1)
		return -EINVAL;
	if (opts->window_bytes == 0)
		opts->window_bytes = WINDOW_DEFAULT_BYTES;
	if (opts->window_bytes != UFD_NO_WINDOW && opts->window_bytes & (opts->window_bytes - 1))
		return -EINVAL;
	if (opts->policy == UFD_POLICY_POISON && !(features_get()->uffd & UFFD_FEATURE_POISON))
		return -EOPNOTSUPP;
	opts->size = sizeof(*opts);
	return 0;
}

/* A guest without anything, in a new ledger. */
static int paged_new_model(struct ufd_pager *pager, const char *name, struct guest **ret)
{
	_cleanup_(ledger_freep) struct ledger *ledger = NULL;
	int r;

	if (pager->ledger_directory < 0)
		return guest_new(ret, name);
	if (!name[0] || strlen(name) >= UFD_NAME_BYTES)
		return -EINVAL;
	r = ledger_new_file(&ledger, name, pager->ledger_directory);
	if (r == 0)
		r = guest_adopt(ret, ledger);
	if (r == 0)
		TAKE_PTR(ledger);
	return r;
}

void paged_link(struct ufd_pager *pager, struct ufd_pager_guest *paged)
{
	pthread_mutex_lock(&pager->lock);
	paged->next = pager->guests;
	pager->guests = paged;
	pthread_mutex_unlock(&pager->lock);
}

EXPORT int ufd_pager_guest_new(struct ufd_pager *pager, struct ufd_pager_guest **ret,
			       const char *name, const struct ufd_pager_guest_opts *given)
{
	struct ufd_pager_guest *paged;
	int r;

	for (paged = pager->guests; paged; paged = paged->next)
		if (strcmp(paged->guest->name, name) == 0)
			return -EEXIST;
	paged = calloc(1, sizeof(*paged));
	if (!paged)
		return -ENOMEM;
	paged->pager = pager;
	pthread_mutex_init(&paged->model_lock, NULL);
	r = paged_load_opts(&paged->opts, given);
	if (r == 0)
		r = paged_new_model(pager, name, &paged->guest);
	if (r == 0)
		track_init(paged);
	if (r == 0)
		r = keep_guest(paged);
	if (r < 0) {
		paged_destroy(paged);
		return r;
	}
	paged_link(pager, paged);
	*ret = paged;
	return 0;
}

void paged_unregister(const struct mapping *mapping)
{
	for (uint64_t at = 0; at < mapping->range.length_bytes; at += UNREGISTER_BYTES) {
		struct hva_range step = {
			hva_add(mapping->range.start, at),
			min_u64(mapping->range.length_bytes - at, UNREGISTER_BYTES),
		};

		if (uffd_unregister(mapping->mapper->uffd, step) == UFFD_GONE)
			return;
	}
}

static void paged_unlink(struct ufd_pager_guest *paged)
{
	struct ufd_pager_guest **at;

	pthread_mutex_lock(&paged->pager->lock);
	for (at = &paged->pager->guests; *at != paged; at = &(*at)->next)
		;
	*at = paged->next;
	paged->is_leaving = true;
	pthread_mutex_unlock(&paged->pager->lock);
	bulk_let_go(paged);
	if (paged->pager->dispatching == paged)
		paged->pager->dispatching = NULL;
}

void paged_destroy(struct ufd_pager_guest *paged)
{
	guest_free(paged->guest);
	while (paged->forgotten) {
		struct memory *memory = paged->forgotten;

		paged->forgotten = memory->next_forgotten;
		memory_free(memory);
	}
	for (unsigned int i = 0; i < MAX_MEMORIES; i++) {
		source_unref(paged->sources[i]);
		free(paged->specs[i]);
	}
	pthread_mutex_destroy(&paged->model_lock);
	free(paged);
}

void pager_halt(struct ufd_pager_guest *paged)
{
	const struct guest_view *view;

	paged_unlink(paged);

	/* should we die now, a successor ends what we began, in place of serving the half of it */
	paged->is_started = false;
	(void)keep_guest(paged);
	if (paged_demand(paged) && demand_stop(paged_demand(paged), false))
		demand_free(paged_demand(paged));
	view = paged->guest->view;
	for (uint32_t i = 0; i < view->n_mappings; i++)
		if (!view->mappings[i]->mapper->is_gone)
			paged_unregister(view->mappings[i]);
	paged->is_halted = true;
}

EXPORT struct ufd_pager_guest *ufd_pager_guest_free(struct ufd_pager_guest *paged)
{
	if (!paged)
		return NULL;
	if (!paged->is_halted)
		pager_halt(paged);
	if (paged->pager->ledger_directory >= 0)
		ledger_unlink(paged->guest->ledger, paged->pager->ledger_directory);
	paged_destroy(paged);
	return NULL;
}

EXPORT struct ufd_pager_guest *ufd_pager_guest_leave(struct ufd_pager_guest *paged)
{
	if (!paged)
		return NULL;
	paged_unlink(paged);
	if (paged_demand(paged) && demand_stop(paged_demand(paged), true))
		demand_free(paged_demand(paged));
	paged_destroy(paged);
	return NULL;
}

EXPORT const char *ufd_pager_guest_name(const struct ufd_pager_guest *paged)
{
	return paged->guest->name;
}

EXPORT void ufd_pager_guest_set_userdata(struct ufd_pager_guest *paged, void *userdata)
{
	paged->userdata = userdata;
}

EXPORT void *ufd_pager_guest_userdata(const struct ufd_pager_guest *paged)
{
	return paged->userdata;
}

EXPORT void ufd_pager_guest_get_opts(const struct ufd_pager_guest *paged,
				     struct ufd_pager_guest_opts *ret)
{
	*ret = paged->opts;
}

int paged_command(struct ufd_pager_guest *paged, struct command *command)
{
	if (!paged_demand(paged))
		return 0;
	return demand_command(paged_demand(paged), command);
}

/* Return: -EUSERS when processes that are not ours map a memory that is to be filled lazily. */
static int paged_refuse_others(struct ufd_pager_guest *paged)
{
	for (uint32_t i = 0; i < paged->guest->n_memories; i++) {
		struct others others = {};
		int r = mappers_find(paged, paged->guest->memories[i], false, &others);

		if (r < 0)
			return r;
		if (others.n)
			return -EUSERS;
	}
	return 0;
}

static void paged_config(const struct ufd_pager_guest *paged, struct demand_config *ret)
{
	const struct ufd_pager_guest_opts *opts = &paged->opts;

	*ret = (struct demand_config){
		.policy = (enum demand_policy)opts->policy,
		.deadline_ns = opts->deadline_ns,
		.background_rate = opts->background_rate,
		.window_bytes = opts->window_bytes,
		.spin_ns = opts->spin_ns,
		.sleep_max_ns = SLEEP_MAX_NS,
		.can_map_protected = features_get()->has_continue_wp,
		.is_background = !opts->no_background,
		.is_adopted = paged->is_adopted,
		.is_graduated = atomic_load(&paged->is_graduated),
		.cpu = (int)opts->cpu - 1,
		.nice = opts->nice,
		.event_fd = paged->pager->event_fd,
		.chore_fd = paged->pager->chore_fd,
	};
}

EXPORT int ufd_pager_guest_start(struct ufd_pager_guest *paged)
{
	_cleanup_(demand_freep) struct demand *demand = NULL;
	struct command finish = { .kind = COMMAND_FINISH };
	bool was_started = paged->is_started;
	struct demand_config config;
	int r;

	if (paged_demand(paged))
		return -EALREADY;
	/* one that is served already has no choice any more; others raise an alarm */
	if (paged->opts.other_mappers == UFD_OTHERS_REFUSE && !paged->is_started) {
		r = paged_refuse_others(paged);
		if (r < 0)
			return r;
	}
	pthread_mutex_lock(&paged->model_lock);
	track_recover(paged);
	paged_config(paged, &config);
	/* before the first page is filled, which must not be undone any more */
	paged->is_started = true;
	r = keep_guest(paged);
	if (r == 0)
		r = demand_new(&demand, paged->guest, &config);
	if (r == 0)
		limits_begin(paged, demand);
	if (r == 0)
		r = demand_start(demand);
	if (r == 0)
		/* pairs with acquire in paged_demand() */
		atomic_store_explicit(&paged->demand, TAKE_PTR(demand), memory_order_release);
	if (r == 0)
		paged_undo_halves(paged); /* whose messages its thread reads */
	if (r == 0 && was_started)
		paged_forget_unmapped(paged);
	if (r < 0) {
		paged->is_started = was_started;
		(void)keep_guest(paged);
	}
	pthread_mutex_unlock(&paged->model_lock);
	if (r < 0 || paged->opts.other_mappers != UFD_OTHERS_EAGER)
		return r;
	/* nobody waits for one that is served already, but it is filled as it was promised */
	return was_started ? paged_command(paged, &finish) : ufd_pager_guest_finish(paged, 0);
}

/* The pages of @memory in a range of bytes. Return: 0, -EINVAL. */
static int paged_pages(struct ufd_pager_guest *paged, uint32_t id, uint64_t offset, uint64_t length,
		       struct memory **ret_memory, struct page_range *ret_pages)
{
	struct memory *memory;

	if (id >= paged->guest->n_memories || paged->guest->memories[id]->is_forgotten)
		return -EINVAL;
	memory = paged->guest->memories[id];
	if (offset > memory->length_bytes)
		return -EINVAL;
	if (length == 0)
		length = memory->length_bytes - offset;
	if (length > memory->length_bytes - offset)
		return -EINVAL;
	*ret_memory = memory;
	*ret_pages = (struct page_range){
		offset / memory->page_bytes,
		align_up(offset + length, memory->page_bytes) / memory->page_bytes -
			offset / memory->page_bytes,
	};
	return 0;
}

EXPORT int ufd_pager_guest_prefetch(struct ufd_pager_guest *paged, uint32_t id, uint64_t offset,
				    uint64_t length)
{
	struct command command = { .kind = COMMAND_PREFETCH };
	int r = paged_pages(paged, id, offset, length, &command.memory, &command.pages);

	return r < 0 ? r : paged_command(paged, &command);
}

EXPORT int ufd_pager_guest_note_discard(struct ufd_pager_guest *paged, uint32_t id, uint64_t offset,
					uint64_t length)
{
	struct command command = { .kind = COMMAND_DISCARD };
	struct memory *memory;
	int r = paged_pages(paged, id, offset, length, &command.memory, &command.pages);

	if (r < 0)
		return r;
	memory = command.memory;
	if (!is_aligned(offset | length, memory->page_bytes))
		return -EINVAL;
	r = paged_command(paged, &command);
	if (r < 0)
		return r;
	/* A fill may have come between the owner's discard and this note: make it true. */
	if (memory->kind != BACKING_SHMEM && memory->kind != BACKING_HUGETLB)
		return 0;
	pthread_mutex_lock(&paged->model_lock);
	if (!memory->is_forgotten)
		r = backing_punch(memory->backing,
				  memory->backing_offset + command.pages.first * memory->page_bytes,
				  command.pages.count * memory->page_bytes);
	/* the file's time has moved by it */
	atomic_fetch_add(&memory->n_marked, 1);
	pthread_mutex_unlock(&paged->model_lock);
	return r;
}

EXPORT int ufd_pager_guest_note_write(struct ufd_pager_guest *paged, uint32_t id, uint64_t offset,
				      uint64_t length)
{
	struct command command = { .kind = COMMAND_WRITTEN };
	int r = paged_pages(paged, id, offset, length, &command.memory, &command.pages);

	return r < 0 ? r : paged_command(paged, &command);
}

static bool paged_is_dead(const struct ufd_pager_guest *paged)
{
	for (uint32_t i = 0; i < paged->guest->n_mappers; i++)
		/* one that execs lives on, without the memory */
		if (!paged->guest->mappers[i].is_gone &&
		    pidfd_is_alive(paged->guest->mappers[i].pidfd))
			return false;
	return true;
}

/* Pages that are still to be filled; what only the dead mapped counts when all are dead. */
static uint64_t paged_n_absent(const struct ufd_pager_guest *paged)
{
	const struct guest *guest = paged->guest;
	uint64_t n = 0;

	for (uint32_t i = 0; i < guest->n_memories; i++)
		if (guest_view_has_memory(guest->view, guest->memories[i]) || paged_is_dead(paged))
			n += count_get(&guest->memories[i]->n_absent);
	return n;
}

EXPORT int ufd_pager_guest_finish(struct ufd_pager_guest *paged, uint64_t timeout_ns)
{
	struct command command = { .kind = COMMAND_FINISH };
	uint64_t until_ns = timeout_ns ? clock_add_ns(clock_now_ns(), timeout_ns) : UINT64_MAX;
	int r;

	if (!paged_demand(paged))
		return -EINVAL;
	r = paged_command(paged, &command);
	pthread_mutex_lock(&paged->pager->lock);
	while (r == 0 && paged_n_absent(paged)) {
		/* a look now and then covers a process that ends while it waits for nothing */
		uint64_t next_ns = min_u64(until_ns, clock_now_ns() + 100 * NSEC_PER_MSEC);

		if (!bulk_wait_change(paged->pager, next_ns) && next_ns == until_ns)
			r = -ETIMEDOUT;
		else if (paged_is_dead(paged))
			r = -ESRCH;
	}
	pthread_mutex_unlock(&paged->pager->lock);
	return r;
}
