/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The bulk thread of an engine: what may block on the kernel. It answers who maps a memory, watches
 * for mappers that come later, and unregisters what is complete. Nothing waits for it but that.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "kernel/thread.h"
#include "pager/track.h"

#define WATCH_MS   1000
#define MAX_PIDS   16
#define MAX_CHORES 8
#define BUSY_NS	   (5 * NSEC_PER_MSEC)

bool bulk_wait_change(struct ufd_pager *pager, uint64_t until_ns)
{
	struct timespec until = { (time_t)(until_ns / NSEC_PER_SEC),
				  (long)(until_ns % NSEC_PER_SEC) };

	return pthread_cond_timedwait(&pager->changed, &pager->lock, &until) == 0;
}

static void bulk_tell_change(struct ufd_pager *pager)
{
	pthread_mutex_lock(&pager->lock);
	pthread_cond_broadcast(&pager->changed);
	pthread_mutex_unlock(&pager->lock);
}

static void bulk_notice(struct ufd_pager_guest *paged, uint32_t kind, struct memory *memory,
			int64_t value)
{
	struct command command = {
		.kind = COMMAND_TELL,
		.memory = memory,
		.notice = { .kind = kind, .memory = memory, .value = value },
	};

	(void)paged_command(paged, &command);
}

/* ---- chores ---- */

/*
 * Whoever holds model_lock may do so for seconds, in which faults of other guests wait for this thread: what needs it is
 * tried again. Return: false if it is to be.
 */
static bool bulk_foreign(struct ufd_pager_guest *paged, struct memory *memory)
{
	pid_t pids[MAX_PIDS];
	struct others others = { .pids = pids, .n_pids = MAX_PIDS };
	struct command verdict = { .kind = COMMAND_VERDICT, .memory = memory };
	int r = -EAGAIN;

	/* /proc is not read for nothing, over and over */
	if (pthread_mutex_trylock(&paged->model_lock) == 0) {
		pthread_mutex_unlock(&paged->model_lock);
		r = mappers_try_find(paged, memory, true, &others);
	}
	if (r == -EAGAIN)
		return false;
	verdict.is_alone = r == 0 && others.n == 0;
	(void)paged_command(paged, &verdict);
	return true;
}

/*
 * Nothing is absent: registration costs the guest something and brings it nothing any more. But for
 * poisoned pages: a discard clears the marker, and only a registered page can be poisoned again.
 */
static void graduate(struct ufd_pager_guest *paged)
{
	struct guest *guest = paged->guest;
	bool is_complete;

	is_complete = !track_is_on(paged);
	for (uint32_t i = 0; i < guest->n_memories; i++)
		is_complete &= (count_get(&guest->memories[i]->n_absent) == 0 &&
				!count_get(
					&demand_counters(paged_demand(paged))->poisoned_pages)) ||
			       !guest_view_has_memory(guest->view, guest->memories[i]);
	for (uint32_t i = 0; is_complete && i < guest->n_memories; i++) {
		struct command command = { .kind = COMMAND_GRADUATE, .memory = guest->memories[i] };

		(void)paged_command(paged, &command);
	}
	for (uint32_t i = 0; is_complete && i < guest->view->n_mappings; i++)
		paged_unregister(guest->view->mappings[i]);
	/* with the lock, or a mapping that is added now would leave this undone or untold */
	if (is_complete && !atomic_exchange(&paged->is_graduated, true)) {
		(void)keep_guest(paged); /* as long as it was */
		bulk_notice(paged, UFD_EVENT_GRADUATED, NULL, 0);
	}
}

void bulk_graduate(struct ufd_pager_guest *paged)
{
	pthread_mutex_lock(&paged->model_lock);
	graduate(paged);
	pthread_mutex_unlock(&paged->model_lock);
}

static void bulk_try_graduate(struct ufd_pager_guest *paged)
{
	if (!paged->must_graduate || pthread_mutex_trylock(&paged->model_lock))
		return;
	paged->must_graduate = false;
	graduate(paged);
	pthread_mutex_unlock(&paged->model_lock);
}

/* One verdict answers for all touches of a memory that came before it. */
static void bulk_must_judge(struct ufd_pager_guest *paged, struct memory *memory)
{
	for (uint32_t i = 0; i < paged->n_must_judge; i++)
		if (paged->must_judge[i] == memory)
			return;
	/* of those that are forgotten nobody asks any more */
	if (paged->n_must_judge < MAX_MEMORIES)
		paged->must_judge[paged->n_must_judge++] = memory;
}

static void bulk_judge(struct ufd_pager_guest *paged)
{
	while (paged->n_must_judge &&
	       bulk_foreign(paged, paged->must_judge[paged->n_must_judge - 1]))
		paged->n_must_judge--;
}

static void bulk_chores(struct ufd_pager_guest *paged)
{
	unsigned int n_left = MAX_CHORES;
	struct chore chore;
	uint64_t one = 1;

	/* A guest whose verdicts make new touches without end does not hold up the others. */
	while (n_left && paged_demand(paged) && demand_take_chore(paged_demand(paged), &chore)) {
		n_left--;
		if (chore.kind == CHORE_COMPLETE)
			paged->must_graduate = true;
		if (chore.kind == CHORE_FOREIGN)
			bulk_must_judge(paged, chore.memory);
	}
	bulk_judge(paged);
	bulk_try_graduate(paged);
	if (!n_left)
		(void)!write(paged->pager->chore_fd, &one, sizeof(one));
	bulk_tell_change(paged->pager);
}

/* ---- the watch for mappers that come later ---- */

static void bulk_announce(struct ufd_pager_guest *paged, struct memory *memory, pid_t pid)
{
	for (unsigned int i = 0; i < paged->n_told_pids; i++)
		if (paged->told_pids[i] == pid)
			return;
	if (paged->n_told_pids < N_TOLD_PIDS)
		paged->told_pids[paged->n_told_pids++] = pid;
	bulk_notice(paged, UFD_EVENT_FOREIGN_MAPPER, memory, pid);
}

static void bulk_watch(struct ufd_pager_guest *paged)
{
	struct memory *memories[MAX_MEMORIES];
	uint32_t n_memories;

	if (!paged_demand(paged) || paged->opts.other_mappers == UFD_OTHERS_EAGER)
		return;
	/* Memories only ever grow in number; reading /proc takes too long for the lock, which may be held for long, too. */
	if (pthread_mutex_trylock(&paged->model_lock))
		return; /* the next time */
	n_memories = paged->guest->n_memories;
	memcpy(memories, paged->guest->memories, sizeof(memories));
	pthread_mutex_unlock(&paged->model_lock);
	for (uint32_t i = 0; i < n_memories; i++) {
		struct memory *memory = memories[i];
		pid_t pids[MAX_PIDS];
		struct others others = { .pids = pids, .n_pids = MAX_PIDS };

		if (!count_get(&memory->n_absent) || memory->kind == BACKING_ANON ||
		    mappers_try_find(paged, memory, false, &others) < 0)
			continue;
		for (size_t k = 0; k < others.n && k < MAX_PIDS; k++)
			bulk_announce(paged, memory, pids[k]);
	}
}

/* ---- the thread ---- */

/*
 * The next guest of the list after @before, held. Guests may come and go between the calls: a walk
 * that stands at one that is leaving has lost its place, and begins anew.
 */
static struct ufd_pager_guest *bulk_next(struct ufd_pager *pager, struct ufd_pager_guest *before)
{
	struct ufd_pager_guest *next;

	pthread_mutex_lock(&pager->lock);
	next = before && !before->is_leaving ? before->next : pager->guests;
	if (next)
		next->n_users++;
	if (before && --before->n_users == 0)
		pthread_cond_broadcast(&pager->changed);
	pthread_mutex_unlock(&pager->lock);
	return next;
}

void bulk_let_go(struct ufd_pager_guest *paged)
{
	pthread_mutex_lock(&paged->pager->lock);
	while (paged->n_users)
		pthread_cond_wait(&paged->pager->changed, &paged->pager->lock);
	pthread_mutex_unlock(&paged->pager->lock);
}

static void *bulk_main(void *userdata)
{
	struct ufd_pager *pager = userdata;
	uint64_t watched_ns = clock_now_ns(), look_at_ns = 0;

	(void)thread_set_nice(THREAD_BULK_NICE);
	(void)pthread_setname_np(pthread_self(), "ufd-bulk");
	while (!atomic_load(&pager->must_stop)) {
		struct pollfd wait = { .fd = pager->chore_fd, .events = POLLIN };
		uint64_t n, now_ns = clock_now_ns();
		bool is_watch;

		(void)poll(
			&wait, 1,
			look_at_ns > now_ns
				? (int)min_u64((look_at_ns - now_ns) / NSEC_PER_MSEC + 1, WATCH_MS)
				: 0);
		(void)!read(pager->chore_fd, &n, sizeof(n));
		is_watch = clock_now_ns() - watched_ns >= WATCH_MS * NSEC_PER_MSEC;
		if (is_watch)
			watched_ns = clock_now_ns();
		look_at_ns = UINT64_MAX;
		for (struct ufd_pager_guest *paged = bulk_next(pager, NULL); paged;
		     paged = bulk_next(pager, paged)) {
			bulk_chores(paged);
			if (paged->n_must_judge || paged->must_graduate)
				look_at_ns = min_u64(look_at_ns, clock_now_ns() + BUSY_NS);
			limits_look(paged);
			if (paged_demand(paged))
				look_at_ns = min_u64(look_at_ns, paged->look_at_ns);
			if (is_watch)
				bulk_watch(paged);
		}
	}
	return NULL;
}

int bulk_start(struct ufd_pager *pager)
{
	pthread_attr_t attributes;
	int r;

	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, 512 * KIB);
	r = pthread_create(&pager->bulk, &attributes, bulk_main, pager);
	pthread_attr_destroy(&attributes);
	pager->has_bulk = r == 0;
	return -r;
}

void bulk_stop(struct ufd_pager *pager)
{
	uint64_t one = 1;

	if (!pager->has_bulk)
		return;
	atomic_store(&pager->must_stop, true);
	(void)!write(pager->chore_fd, &one, sizeof(one));
	pthread_join(pager->bulk, NULL);
	pager->has_bulk = false;
}
