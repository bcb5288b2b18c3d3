/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What was written: the calls of ufd/pager-dirty.h, and what tracking does to a guest. */
#include "ufd/pager-dirty.h"

#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "dirty/dirty-log.h"
#include "kernel/uffd.h"
#include "pager/track.h"

#define HOLES_BYTES (64 * MIB) /* that the demand thread looks at at once */

/* The demand thread has seen who is armed, and is in nobody's map that is not. */
static void tell_demand(struct ufd_pager_guest *paged)
{
	struct command track = { .kind = COMMAND_TRACK };

	(void)paged_command(paged, &track);
}

/*
 * The demand thread has finished all that it had begun: discards that it has read are marked, what it
 * has put into memory is present, what it has marked as written has lost its protection.
 */
static void await_demand(void *userdata)
{
	const struct demand *demand = paged_demand(userdata);

	if (demand && !demand_is_asleep(demand))
		tell_demand(userdata);
}

void track_init(struct ufd_pager_guest *paged)
{
	dirty_log_init(&paged->dirty, paged->guest,
		       paged->opts.track == UFD_TRACK_WP ? &tracker_wp : &tracker_scan);
	paged->dirty.settle = await_demand;
	paged->dirty.userdata = paged;
}

bool track_is_on(const struct ufd_pager_guest *paged)
{
	return dirty_log_count(&paged->dirty) > 0;
}

/* ---- registration and protection ---- */

unsigned int track_modes(const struct mapping *mapping)
{
	unsigned int modes = UFFD_MODE_MISSING;

	/* Minor mode tells of pages that others put into the file; anonymous memory has none. */
	if (mapping->memory->kind != BACKING_ANON)
		modes |= UFFD_MODE_MINOR;
	if (memory_is_tracked(mapping->memory))
		modes |= UFFD_MODE_WP;
	return modes;
}

static bool is_served(const struct mapping *mapping)
{
	return mapping->stage == MAPPING_OPEN && !mapping->mapper->is_gone;
}

/*
 * A guest that has graduated has all its pages: told of each that has no page table entry it would
 * only wait for us.
 */
static int register_all(struct ufd_pager_guest *paged)
{
	const struct guest_view *view = paged->guest->view;
	bool is_graduated = atomic_load(&paged->is_graduated);

	for (uint32_t i = 0; i < view->n_mappings; i++) {
		const struct mapping *mapping = view->mappings[i];
		unsigned int modes = track_modes(mapping) | UFFD_MODE_WP;
		int r;

		if (!is_served(mapping))
			continue;
		if (is_graduated)
			modes &= ~(unsigned int)UFFD_MODE_MINOR;
		r = uffd_register(mapping->mapper->uffd, mapping->range, modes, NULL);
		if (r < 0)
			return r;
		if (r && r != UFFD_GONE)
			return track_refuse(paged,
					    "memory `%s` of process %d cannot be write-protected",
					    mapping->memory->name, mapping->mapper->pid);
	}
	return 0;
}

/* Without the right to look, we rely on the promise that nobody ran before. */
static int keep_mapped(struct ufd_pager_guest *paged, struct mapping *mapping)
{
	int r = absence_keep_mapped(paged, mapping);

	if (r != -EACCES && r != -EPERM)
		return r;
	if (paged->opts.populated != UFD_POPULATED_KEEP)
		return 0;
	return track_refuse(paged,
			    "the page tables of process %d may not be read, and it may have mapped "
			    "pages of memory `%s` before it was attached",
			    mapping->mapper->pid, mapping->memory->name);
}

static int keep_all_mapped(struct ufd_pager_guest *paged)
{
	const struct guest_view *view = paged->guest->view;
	int r = 0;

	for (uint32_t i = 0; r == 0 && i < view->n_mappings; i++)
		if (is_served(view->mappings[i]))
			r = keep_mapped(paged, view->mappings[i]);
	return r == -ESRCH ? 0 : r;
}

static int protect_all(struct ufd_pager_guest *paged)
{
	const struct guest_view *view = paged->guest->view;
	int r = 0;

	for (uint32_t i = 0; r == 0 && i < view->n_mappings; i++)
		if (is_served(view->mappings[i]))
			r = protect_existing(view->mappings[i]);
	return r == TRACKER_GONE ? 0 : r;
}

static void unprotect_all(struct ufd_pager_guest *paged)
{
	const struct guest_view *view = paged->guest->view;

	for (uint32_t i = 0; i < view->n_mappings; i++) {
		struct mapping *mapping = view->mappings[i];

		if (is_served(mapping))
			(void)protect_pages(mapping, mapping_pages(mapping), false);
	}
}

static int tell_holes(struct ufd_pager_guest *paged, struct memory *memory, struct page_range pages,
		      bool is_written)
{
	uint64_t step = max_u64(HOLES_BYTES / memory->page_bytes, 1);
	int r = 0;

	for (uint64_t at = 0; r == 0 && at < pages.count; at += step) {
		struct command command = {
			.kind = COMMAND_HOLES,
			.memory = memory,
			.pages = { pages.first + at, min_u64(step, pages.count - at) },
			.is_written = is_written,
		};

		r = paged_command(paged, &command);
	}
	return r;
}

/*
 * Most holes of a file are pages that never came: nothing is to be told of them, unless they would have
 * come from that file. Of a page in any other state that may be long over: it is put into memory before
 * it is called present.
 */
static bool never_came(const struct memory *memory, struct page_range pages)
{
	struct page_range run;

	return !memory->is_backing_source &&
	       page_states_find(&memory->states, pages, PAGE_ABSENT, &run) &&
	       run.first == pages.first && run.count == pages.count;
}

/*
 * The walk over the file is ours; the demand thread looks at what we found to be holes where pages had
 * come, and at no more.
 */
static int find_holes(struct ufd_pager_guest *paged, struct memory *memory, bool is_written)
{
	uint64_t page_bytes = memory->page_bytes, base = memory->backing_offset, found, length;
	uint64_t at = base, end = base + memory->length_bytes;
	struct page_range holes;
	int r = 0;

	if (memory->kind == BACKING_ANON)
		return tell_holes(paged, memory, (struct page_range){ 0, memory_n_pages(memory) },
				  is_written);
	while (r == 0 && at < end) {
		r = backing_find_data(memory->backing, at, end, &found, &length);
		if (r < 0)
			return r;
		if (!length)
			found = end;
		holes = (struct page_range){ (at - base) / page_bytes, (found - at) / page_bytes };
		if (holes.count && !never_came(memory, holes))
			r = tell_holes(paged, memory, holes, is_written);
		at = found + length;
	}
	return r;
}

/* Of a memory whose bytes are in its file: which holes are the baseline's, and not punched later. */
static int settle_own_holes(struct ufd_pager_guest *paged, struct memory *memory)
{
	if (!memory->is_backing_source || memory->is_forgotten)
		return 0;
	return find_holes(paged, memory, false);
}

/*
 * Registered again after it has graduated: a hole is a missing fault from now on, to be answered
 * with zeros, so the states must know of it.
 */
static int return_from_graduation(struct ufd_pager_guest *paged)
{
	for (uint32_t i = 0; i < paged->guest->n_memories; i++) {
		struct command track = { .kind = COMMAND_TRACK,
					 .memory = paged->guest->memories[i] };
		int r;

		/*
		 * of a private mapping the file shows where a page is missing: no hole says
		 * anything
		 */
		if (track.memory->is_forgotten || track.memory->kind == BACKING_PRIVATE)
			continue;
		r = find_holes(paged, track.memory, false);
		if (r < 0)
			return r;
		(void)paged_command(paged, &track);
	}
	return 0;
}

/* ---- files ---- */

/* Present pages of @memory may be holes, or it was written by another way than its mappings. */
static int look_at_file(struct ufd_pager_guest *paged, struct memory *memory)
{
	struct file_look now;
	unsigned int changes;
	int r = dirty_log_look(&paged->dirty, memory, &now, &changes);

	if (r == 0 && changes & FILE_MAY_HAVE_HOLES) {
		r = find_holes(paged, memory, true);
		if (r == 0)
			r = dirty_log_look(&paged->dirty, memory, &now, &changes);
	}
	if (r < 0)
		return r;
	if (changes & FILE_WAS_WRITTEN) {
		struct command tell = { .kind = COMMAND_TELL,
					.memory = memory,
					.notice = { .kind = UFD_EVENT_FOREIGN_WRITE } };

		dirty_log_note_strange(&paged->dirty, memory);
		(void)paged_command(paged, &tell);
	}
	return dirty_log_remember(&paged->dirty, memory, &now);
}

/* What it looks like now is the baseline. */
static int remember_file(struct ufd_pager_guest *paged, struct memory *memory)
{
	struct file_look now;
	unsigned int ignored;
	int r = dirty_log_look(&paged->dirty, memory, &now, &ignored);

	return r < 0 ? r : dirty_log_remember(&paged->dirty, memory, &now);
}

static int look_at_files(struct ufd_pager_guest *paged)
{
	int r = 0;

	for (uint32_t i = 0; r == 0 && i < paged->guest->n_memories; i++)
		if (!paged->guest->memories[i]->is_forgotten)
			r = look_at_file(paged, paged->guest->memories[i]);
	return r;
}

/* ---- consumers ---- */

static void unregister_all(struct ufd_pager_guest *paged)
{
	for (uint32_t i = 0; i < paged->guest->view->n_mappings; i++)
		if (is_served(paged->guest->view->mappings[i]))
			paged_unregister(paged->guest->view->mappings[i]);
}

static void stop_consumer(struct ufd_pager_guest *paged, uint32_t slot)
{
	dirty_log_disarm(&paged->dirty, slot);
	tell_demand(paged);
	if (dirty_log_count(&paged->dirty) == 1)
		unprotect_all(paged);
	dirty_log_drop(&paged->dirty, slot);
}

static int start_first(struct ufd_pager_guest *paged, uint32_t slot)
{
	int r = register_all(paged);

	if (r == 0)
		r = keep_all_mapped(paged);
	if (r < 0)
		return r;
	dirty_log_arm(&paged->dirty, slot);
	tell_demand(paged);
	if (atomic_load(&paged->is_graduated))
		r = return_from_graduation(paged);
	for (uint32_t i = 0; r == 0 && i < paged->guest->n_memories; i++)
		r = settle_own_holes(paged, paged->guest->memories[i]);
	if (r == 0)
		r = protect_all(paged);
	for (uint32_t i = 0; r == 0 && i < paged->guest->n_memories; i++)
		r = remember_file(paged, paged->guest->memories[i]);
	if (r == 0 && atomic_exchange(&paged->is_graduated, false))
		(void)keep_guest(paged); /* as long as it was */
	return r;
}

/* Others are tracked already: what was written until now is theirs alone. */
static int start_another(struct ufd_pager_guest *paged, uint32_t slot)
{
	int r;

	await_demand(paged);
	r = dirty_log_harvest(&paged->dirty);
	if (r == 0)
		r = look_at_files(paged);
	if (r)
		return r;
	dirty_log_arm(&paged->dirty, slot);
	tell_demand(paged);
	return dirty_log_protect_pending(&paged->dirty);
}

static int start_consumer(struct ufd_pager_guest *paged, const char *name)
{
	bool is_first = !track_is_on(paged);
	uint32_t slot;
	int r;

	r = dirty_log_add(&paged->dirty, name, &slot);
	if (r < 0)
		return r;
	r = is_first ? start_first(paged, slot) : start_another(paged, slot);
	if (r == 0)
		r = dirty_log_begin(&paged->dirty, slot, clock_now_ns());
	if (r) {
		stop_consumer(paged, slot);
		if (is_first && atomic_load(&paged->is_graduated))
			unregister_all(paged);
		return r == DIRTY_GONE ? -ESRCH : r;
	}
	return 0;
}

EXPORT int ufd_pager_guest_dirty_start(struct ufd_pager_guest *paged, const char *name)
{
	uint32_t slot;
	int r;

	if (!name || !name[0] || strlen(name) >= UFD_NAME_BYTES)
		return -EINVAL;
	pthread_mutex_lock(&paged->model_lock);
	paged->refusal[0] = '\0';
	r = dirty_log_find(&paged->dirty, name, &slot) == 0 ? -EEXIST : track_check(paged);
	if (r == 0)
		r = start_consumer(paged, name);
	pthread_mutex_unlock(&paged->model_lock);
	return r;
}

EXPORT const char *ufd_pager_guest_dirty_refusal(const struct ufd_pager_guest *paged)
{
	return paged->refusal;
}

EXPORT int ufd_pager_guest_dirty_stop(struct ufd_pager_guest *paged, const char *name)
{
	bool is_last;
	uint32_t slot;
	int r;

	pthread_mutex_lock(&paged->model_lock);
	r = dirty_log_find(&paged->dirty, name, &slot);
	if (r == 0)
		stop_consumer(paged, slot);
	is_last = !track_is_on(paged);
	pthread_mutex_unlock(&paged->model_lock);
	if (r == 0 && is_last && paged_demand(paged))
		bulk_graduate(paged);
	return r;
}

/* ---- epochs ---- */

static int read_epoch(struct ufd_pager_guest *paged, uint32_t slot, uint64_t acknowledge,
		      struct dirty_epoch *ret)
{
	struct dirty_log *log = &paged->dirty;
	int r;

	if (acknowledge == UFD_DIRTY_LAST)
		acknowledge = log->consumers[slot].epoch;
	r = dirty_log_acknowledge(log, slot, acknowledge);
	if (r)
		return -ESTALE;
	await_demand(paged);
	r = dirty_log_harvest(log);
	if (r == 0)
		r = look_at_files(paged);
	if (r == 0)
		r = dirty_log_take(log, slot, clock_now_ns(), ret);
	return r == DIRTY_GONE ? -ESRCH : r;
}

EXPORT int ufd_pager_guest_dirty_read(struct ufd_pager_guest *paged, const char *name,
				      uint64_t acknowledge, struct ufd_dirty_epoch *ret)
{
	struct dirty_epoch epoch = {};
	struct ufd_dirty_epoch told = { .size = sizeof(told) };
	uint32_t slot;
	int r;

	pthread_mutex_lock(&paged->model_lock);
	r = dirty_log_find(&paged->dirty, name, &slot);
	if (r == 0)
		r = read_epoch(paged, slot, acknowledge, &epoch);
	pthread_mutex_unlock(&paged->model_lock);
	if (r < 0)
		return r;
	told.epoch = epoch.epoch;
	told.dirty_bytes = epoch.dirty_bytes;
	told.begun_ns = epoch.begun_ns;
	told.taken_ns = epoch.taken_ns;
	told.n_strange_writes = epoch.n_strange;
	told.uncertain_bytes = epoch.uncertain_bytes;
	return stats_hand_over(ret, &told, sizeof(told));
}

/* 64 bits from @page on; what lies behind the end is 0. */
static uint64_t bits_from(const _Atomic uint64_t *words, uint64_t n_pages, uint64_t page)
{
	uint64_t n_words = dirty_map_words(n_pages), at = page / 64, bits;

	if (at >= n_words)
		return 0;
	bits = atomic_load_explicit(&words[at], memory_order_acquire) >> page % 64;
	if (page % 64 && at + 1 < n_words)
		bits |= atomic_load_explicit(&words[at + 1], memory_order_acquire)
			<< (64 - page % 64);
	return bits;
}

EXPORT int ufd_pager_guest_dirty_bitmap(struct ufd_pager_guest *paged, const char *name,
					uint32_t id, uint64_t first_page, uint64_t *words,
					size_t n_words)
{
	const struct memory *memory;
	const _Atomic uint64_t *unacked;
	uint32_t slot;

	if (dirty_log_find(&paged->dirty, name, &slot) || id >= paged->guest->n_memories)
		return -ENOENT;
	memory = paged->guest->memories[id];
	/* once: it may be stopped meanwhile, and its area stays where it is */
	unacked = *(_Atomic uint64_t *const volatile *)&memory->dirty.maps[slot].unacked;
	if (memory->is_forgotten || !unacked)
		return -ENOENT;
	for (size_t i = 0; i < n_words; i++)
		words[i] = bits_from(unacked, memory_n_pages(memory), first_page + i * 64);
	return 0;
}

EXPORT int ufd_pager_consumer_info(struct ufd_pager_guest *paged, uint32_t index,
				   struct ufd_consumer_info *ret)
{
	struct ufd_consumer_info info = { .size = sizeof(info) };
	const struct consumer *consumer;
	uint32_t slot = 0, n = 0;

	pthread_mutex_lock(&paged->model_lock);
	for (; slot < MAX_CONSUMERS; slot++)
		if (paged->dirty.consumers[slot].stage != CONSUMER_FREE && n++ == index)
			break;
	if (slot == MAX_CONSUMERS) {
		pthread_mutex_unlock(&paged->model_lock);
		return -ENOENT;
	}
	consumer = &paged->dirty.consumers[slot];
	memcpy(info.name, consumer->name, sizeof(info.name));
	info.epoch = consumer->epoch;
	info.begun_ns = consumer->taken_ns;
	for (uint32_t i = 0; i < paged->guest->n_memories; i++) {
		const struct memory *memory = paged->guest->memories[i];

		if (memory->dirty.maps[slot].pending)
			info.unread_bytes += dirty_map_count(memory->dirty.maps[slot].pending,
							     memory_n_pages(memory)) *
					     memory->page_bytes;
	}
	pthread_mutex_unlock(&paged->model_lock);
	return stats_hand_over(ret, &info, sizeof(info));
}

/* ---- what comes and goes ---- */

int track_memory(struct ufd_pager_guest *paged, struct memory *memory)
{
	int r = track_is_on(paged) ? track_check_memory(paged, memory) : 0;

	if (r == 0)
		r = dirty_log_add_memory(&paged->dirty, memory);
	if (r == 0 && track_is_on(paged))
		r = settle_own_holes(paged, memory);
	if (r == 0 && track_is_on(paged))
		r = remember_file(paged, memory);
	return r;
}

void track_forget_memory(struct ufd_pager_guest *paged, struct memory *memory)
{
	dirty_log_drop_memory(&paged->dirty, memory);
}

int track_mapping(struct ufd_pager_guest *paged, struct mapping *mapping)
{
	int r;

	if (!memory_is_tracked(mapping->memory))
		return 0;
	r = track_check_mapper(paged, mapping->mapper);
	if (r == 0)
		r = keep_mapped(paged, mapping);
	if (r == 0)
		r = protect_existing(mapping);
	return r == TRACKER_GONE ? -ESRCH : r;
}

void track_leave(struct ufd_pager_guest *paged, struct mapping *mapping)
{
	dirty_log_leave(&paged->dirty, mapping);
}

/* ---- after a former process ---- */

int track_adopt(struct ufd_pager_guest *paged)
{
	track_init(paged);
	return dirty_log_adopt(&paged->dirty);
}

void track_recover(struct ufd_pager_guest *paged)
{
	if (dirty_log_recover(&paged->dirty)) {
		unprotect_all(paged);
		/* it died on its way back from there */
		if (atomic_load(&paged->is_graduated))
			unregister_all(paged);
	}
	dirty_log_drop_unfinished(&paged->dirty);
}
