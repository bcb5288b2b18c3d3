/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Consumers and epochs. */
#include "dirty/dirty-log.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "dirty/discards.h"
#include "guest/guest.h"

/* In the ledger: where a consumer's maps lie, by memory; 0: it has none there. */
struct dirty_record {
	uint64_t area_offsets[MAX_MEMORIES];
};

void dirty_log_init(struct dirty_log *log, struct guest *guest, const struct tracker *tracker)
{
	*log = (struct dirty_log){ .guest = guest, .tracker = tracker };
}

uint32_t dirty_log_count(const struct dirty_log *log)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < MAX_CONSUMERS; i++)
		n += log->consumers[i].stage != CONSUMER_FREE;
	return n;
}

int dirty_log_find(const struct dirty_log *log, const char *name, uint32_t *ret_slot)
{
	for (uint32_t i = 0; i < MAX_CONSUMERS; i++)
		if (log->consumers[i].stage != CONSUMER_FREE &&
		    strncmp(log->consumers[i].name, name, NAME_BYTES) == 0) {
			*ret_slot = i;
			return 0;
		}
	return -ENOENT;
}

/* ---- records ---- */

static int put_consumer(struct dirty_log *log, uint32_t slot)
{
	return ledger_put_record(log->guest->ledger, LEDGER_CONSUMER, slot, &log->consumers[slot],
				 sizeof(log->consumers[slot]));
}

static int put_maps(struct dirty_log *log, uint32_t slot)
{
	struct dirty_record record = {};

	for (uint32_t i = 0; i < log->guest->n_memories; i++)
		record.area_offsets[i] = log->guest->memories[i]->dirty.maps[slot].area_offset;
	return ledger_put_record(log->guest->ledger, LEDGER_DIRTY, slot, &record, sizeof(record));
}

/* ---- who comes and goes ---- */

int dirty_log_add(struct dirty_log *log, const char *name, uint32_t *ret_slot)
{
	struct guest *guest = log->guest;
	struct consumer *consumer;
	uint32_t slot = 0;
	int r = 0;

	while (slot < MAX_CONSUMERS && log->consumers[slot].stage != CONSUMER_FREE)
		slot++;
	if (slot == MAX_CONSUMERS)
		return -ENOSPC;
	consumer = &log->consumers[slot];
	*consumer = (struct consumer){ .stage = CONSUMER_STARTING };
	strncpy(consumer->name, name, NAME_BYTES - 1);
	for (uint32_t i = 0; r == 0 && i < guest->n_memories; i++)
		if (!guest->memories[i]->is_forgotten)
			r = memory_add_maps(guest->memories[i], guest->ledger, slot);
	if (r == 0)
		r = put_maps(log, slot);
	if (r == 0)
		r = put_consumer(log, slot);
	if (r < 0) {
		dirty_log_drop(log, slot);
		return r;
	}
	*ret_slot = slot;
	return 0;
}

void dirty_log_arm(struct dirty_log *log, uint32_t slot)
{
	for (uint32_t i = 0; i < log->guest->n_memories; i++)
		if (log->guest->memories[i]->dirty.maps[slot].pending)
			dirty_maps_arm(&log->guest->memories[i]->dirty, slot);
}

int dirty_log_begin(struct dirty_log *log, uint32_t slot, uint64_t now_ns)
{
	struct consumer *consumer = &log->consumers[slot];
	int r = 0;

	for (uint32_t i = 0; r == 0 && i < log->guest->n_memories; i++) {
		struct memory *memory = log->guest->memories[i];
		uint64_t n_pages = 0;

		if (memory->dirty.maps[slot].pending)
			r = discards_begin(log->guest->view, memory, slot, &n_pages);
		consumer->pending_uncertain_bytes += n_pages * memory->page_bytes;
	}
	if (r < 0)
		return r;
	consumer->stage = CONSUMER_STARTED;
	consumer->begun_ns = now_ns;
	consumer->taken_ns = now_ns;
	(void)put_consumer(log, slot); /* as long as it was */
	return 0;
}

void dirty_log_disarm(struct dirty_log *log, uint32_t slot)
{
	log->consumers[slot].stage = CONSUMER_STOPPING;
	(void)put_consumer(log, slot); /* as long as it was */
	for (uint32_t i = 0; i < log->guest->n_memories; i++)
		dirty_maps_disarm(&log->guest->memories[i]->dirty, slot);
}

void dirty_log_drop(struct dirty_log *log, uint32_t slot)
{
	struct guest *guest = log->guest;

	/* first who names them: an area that nobody knows of does no harm */
	ledger_drop_record(guest->ledger, LEDGER_CONSUMER, slot);
	ledger_drop_record(guest->ledger, LEDGER_DIRTY, slot);
	for (uint32_t i = 0; i < guest->n_memories; i++)
		memory_drop_maps(guest->memories[i], guest->ledger, slot);
	log->consumers[slot].stage = CONSUMER_FREE;
}

int dirty_log_add_memory(struct dirty_log *log, struct memory *memory)
{
	int r = 0;

	for (uint32_t slot = 0; r == 0 && slot < MAX_CONSUMERS; slot++) {
		if (log->consumers[slot].stage == CONSUMER_FREE)
			continue;
		r = memory_add_maps(memory, log->guest->ledger, slot);
		if (r == 0)
			r = put_maps(log, slot); /* as long as it was */
		if (r == 0)
			dirty_maps_arm(&memory->dirty, slot);
	}
	return r;
}

void dirty_log_drop_memory(struct dirty_log *log, struct memory *memory)
{
	for (uint32_t slot = 0; slot < MAX_CONSUMERS; slot++) {
		uint64_t area_offset = memory->dirty.maps[slot].area_offset;

		if (!memory->dirty.maps[slot].pending)
			continue;
		dirty_maps_disarm(&memory->dirty, slot);
		memory->dirty.maps[slot].area_offset = 0;
		(void)put_maps(log, slot); /* as long as it was */
		memory->dirty.maps[slot].area_offset = area_offset;
		memory_drop_maps(memory, log->guest->ledger, slot);
	}
	/* another memory may take the id */
	log->looks[memory->id] = (struct file_look){};
	log->settled_discards[memory->id] = 0;
	ledger_drop_record(log->guest->ledger, LEDGER_TRACKED, memory->id);
}

/* ---- harvest ---- */

/* All that exists of @pages: perhaps written. Return: how many bytes. */
static uint64_t mark_existing(struct memory *memory, struct page_range pages)
{
	uint64_t end = pages.first + pages.count, n = 0;

	for (uint64_t page = pages.first; page < end; page++) {
		if (page_states_get(&memory->states, page) == PAGE_ABSENT)
			continue;
		memory_mark_dirty(memory, (struct page_range){ page, 1 });
		n += memory->page_bytes;
	}
	return n;
}

static void count_uncertain(struct dirty_log *log, uint64_t bytes)
{
	for (uint32_t slot = 0; slot < MAX_CONSUMERS; slot++)
		log->consumers[slot].pending_uncertain_bytes += bytes;
	log->uncertain_bytes += bytes;
}

static bool has_file(const struct memory *memory)
{
	return !memory->is_forgotten &&
	       (memory->kind == BACKING_SHMEM || memory->kind == BACKING_HUGETLB);
}

int dirty_log_look(const struct dirty_log *log, const struct memory *memory,
		   struct file_look *ret_now, unsigned int *ret_changes)
{
	int r = 0;

	*ret_changes = 0;
	*ret_now = (struct file_look){};
	if (has_file(memory))
		r = file_look_take(memory, ret_now);
	if (r == 0 && has_file(memory))
		*ret_changes = file_look_compare(memory, &log->looks[memory->id], ret_now);
	return r;
}

int dirty_log_remember(struct dirty_log *log, const struct memory *memory,
		       const struct file_look *now)
{
	struct file_look *look = &log->looks[memory->id];

	if (!has_file(memory) || memcmp(look, now, sizeof(*now)) == 0)
		return 0;
	*look = *now;
	return ledger_put_record(log->guest->ledger, LEDGER_TRACKED, memory->id, look,
				 sizeof(*look));
}

void dirty_log_note_strange(struct dirty_log *log, struct memory *memory)
{
	struct page_range all = { 0, memory_n_pages(memory) };
	uint64_t n = memory->length_bytes;

	/* if its bytes are in the file, what nobody has touched was perhaps written there, too */
	if (memory->is_backing_source)
		memory_mark_dirty(memory, all);
	else
		n = mark_existing(memory, all);
	for (uint32_t slot = 0; slot < MAX_CONSUMERS; slot++)
		log->consumers[slot].pending_strange++;
	count_uncertain(log, n);
	log->n_strange++;
}

static void harvest_count(struct dirty_log *log, const struct dirty_counts *counts)
{
	log->n_scans += counts->n_scans;
	log->n_reported += counts->n_reported;
	log->unarmed_bytes += counts->unarmed_bytes;
	count_uncertain(log, counts->uncertain_bytes);
}

/*
 * A process that has ended took along what its page tables knew. Return: how many bytes it may have
 * written.
 */
static uint64_t harvest_gone(struct dirty_log *log, const struct mapping *mapping)
{
	if (log->tracker->is_sync) /* it was marked when it was written */
		return 0;
	return mark_existing(mapping->memory, mapping_pages(mapping));
}

void dirty_log_leave(struct dirty_log *log, struct mapping *mapping)
{
	if (dirty_log_count(log) && mapping->memory->n_mappings > 1)
		count_uncertain(log, harvest_gone(log, mapping));
}

static bool is_all_gone(const struct dirty_log *log)
{
	for (uint32_t i = 0; i < log->guest->n_mappers; i++)
		if (!(log->told_gone >> i & 1) && !log->guest->mappers[i].is_gone)
			return false;
	return log->guest->n_mappers > 0;
}

int dirty_log_harvest(struct dirty_log *log)
{
	const struct guest_view *view = log->guest->view;
	uint32_t gone = 0;
	struct dirty_counts counts = {};
	int r = 0;

	for (uint32_t i = 0; r == 0 && i < view->n_mappings; i++) {
		struct mapping *mapping = view->mappings[i];

		if (log->told_gone >> mapping->mapper->id & 1 || mapping->stage != MAPPING_OPEN)
			continue;
		r = log->tracker->collect(log->guest->ledger, mapping, &counts);
		if (r == TRACKER_GONE) {
			counts.uncertain_bytes += harvest_gone(log, mapping);
			gone |= UINT32_C(1) << mapping->mapper->id;
			r = 0;
		}
	}
	harvest_count(log, &counts);
	if (r < 0)
		return r;
	log->told_gone |= gone;
	return is_all_gone(log) ? DIRTY_GONE : 0;
}

/* ---- epochs ---- */

/* The epoch that was handed out last did not arrive. */
static void unacked_back(struct dirty_log *log, uint32_t slot)
{
	struct guest *guest = log->guest;
	struct consumer *consumer = &log->consumers[slot];

	for (uint32_t i = 0; i < guest->n_memories; i++) {
		struct dirty_map *map = &guest->memories[i]->dirty.maps[slot];
		uint64_t n_pages = memory_n_pages(guest->memories[i]);

		if (map->pending)
			dirty_map_move(map->unacked, map->pending, n_pages);
	}
	log->acknowledged &= ~(UINT32_C(1) << slot);
	consumer->pending_uncertain_bytes += consumer->unacked_uncertain_bytes;
	consumer->pending_strange += consumer->unacked_strange;
	consumer->unacked_uncertain_bytes = 0;
	consumer->unacked_strange = 0;
}

int dirty_log_acknowledge(struct dirty_log *log, uint32_t slot, uint64_t epoch)
{
	struct consumer *consumer = &log->consumers[slot];

	if (epoch != consumer->epoch && epoch + 1 != consumer->epoch)
		return DIRTY_UNKNOWN;
	if (epoch == consumer->epoch)
		consumer->begun_ns = consumer->taken_ns;
	if (epoch == consumer->epoch)
		log->acknowledged |= UINT32_C(1) << slot;
	else
		unacked_back(log, slot);
	/* however often a reply is lost, the next one has the same number */
	consumer->epoch = epoch;
	return 0;
}

/* Protect again what one map of consumer @slot holds, wherever it is mapped. */
static int protect_map(struct dirty_log *log, uint32_t slot, bool is_pending)
{
	const struct guest_view *view = log->guest->view;
	int r = 0;

	for (uint32_t i = 0; r == 0 && i < view->n_mappings; i++) {
		struct mapping *mapping = view->mappings[i];
		struct dirty_map *map = &mapping->memory->dirty.maps[slot];
		struct page_range left = mapping_pages(mapping), run;
		uint64_t end = left.first + left.count;

		if (!map->pending || mapping->stage != MAPPING_OPEN ||
		    log->told_gone >> mapping->mapper->id & 1)
			continue;
		while (r == 0 &&
		       dirty_map_find(is_pending ? map->pending : map->unacked, left, &run)) {
			r = log->tracker->protect_again(mapping, run);
			left.first = run.first + run.count;
			left.count = end - left.first;
		}
		if (r == TRACKER_GONE)
			r = 0; /* the next harvest says so */
	}
	return r;
}

int dirty_log_protect_pending(struct dirty_log *log)
{
	int r = 0;

	for (uint32_t slot = 0; r == 0 && log->tracker->protect_again && slot < MAX_CONSUMERS;
	     slot++)
		if (log->consumers[slot].stage == CONSUMER_STARTED)
			r = protect_map(log, slot, true);
	return r;
}

void dirty_log_take_back(struct dirty_log *log, uint32_t slot)
{
	struct consumer *consumer = &log->consumers[slot];

	unacked_back(log, slot);
	consumer->epoch--;
	consumer->stage = CONSUMER_STARTED;
	(void)put_consumer(log, slot); /* as long as it was */
}

/*
 * Pages that a scan met while they were being filled, and that are not there yet: nobody can have
 * written them, and who copied them now would have something else. They are told when they are
 * there. (If their bytes are in the memory's own file, they always are.)
 */
static void defer_unfilled(struct memory *memory, uint32_t slot, uint64_t *kept_bytes)
{
	const struct dirty_map *map = &memory->dirty.maps[slot];
	struct page_range left = { 0, memory_n_pages(memory) }, run;

	/* pairs with the release of who fills */
	if (memory->is_backing_source ||
	    atomic_load_explicit(&memory->n_absent, memory_order_acquire) == 0)
		return;
	for (; dirty_map_find(map->unacked, left, &run);
	     left.count -= run.first + run.count - left.first, left.first = run.first + run.count)
		for (uint64_t page = run.first; page < run.first + run.count; page++) {
			enum page_state state = page_states_get(&memory->states, page);

			if (state == PAGE_PRESENT || state == PAGE_REMOVED)
				continue;
			dirty_map_set(map->pending, (struct page_range){ page, 1 });
			dirty_map_unset(map->unacked, (struct page_range){ page, 1 });
			*kept_bytes += memory->page_bytes;
		}
}

/* @n_discarded: of the memory, before the maps were taken. */
static int keep_discards(struct dirty_log *log, uint32_t slot, struct memory *memory,
			 uint64_t n_discarded, uint64_t *kept_bytes)
{
	uint64_t n_pages = 0;
	int r;

	/* was all seen to have happened? The count is odd before there is a mark to be taken */
	if (log->settled_discards[memory->id] ==
	    atomic_load_explicit(&memory->n_discarded, memory_order_acquire))
		return 0;
	r = discards_keep(log->guest->view, memory, slot, &n_pages);
	/* all but the one whose marks were perhaps not there yet when the maps were taken */
	if (r == 0 && n_pages == 0)
		log->settled_discards[memory->id] = n_discarded & ~UINT64_C(1);
	*kept_bytes += n_pages * memory->page_bytes;
	return r;
}

/* What one read takes. */
struct taken {
	uint64_t n_discarded[MAX_MEMORIES]; /* of each memory, before its maps were taken */
	uint64_t n_pages[MAX_MEMORIES];
	uint64_t dirty_bytes; /* that are told */
	uint64_t kept_bytes;  /* that are told again, or later */
};

static void take_maps(struct dirty_log *log, uint32_t slot, struct taken *taken)
{
	bool is_acknowledged = log->acknowledged >> slot & 1;

	for (uint32_t i = 0; i < log->guest->n_memories; i++) {
		struct memory *memory = log->guest->memories[i];
		struct dirty_map *map = &memory->dirty.maps[slot];

		if (!map->pending)
			continue;
		/* pairs with the release behind the marks of a discard */
		taken->n_discarded[i] = atomic_load_explicit(&memory->n_discarded,
							     memory_order_acquire);
		taken->n_pages[i] = dirty_map_take(map->pending, map->unacked,
						   memory_n_pages(memory), is_acknowledged);
	}
	log->acknowledged &= ~(UINT32_C(1) << slot);
}

/*
 * What was taken is protected again before anybody is told of it, but not before the thread that
 * marked it has taken the protection off.
 */
static int protect_taken(struct dirty_log *log, uint32_t slot)
{
	if (!log->tracker->protect_again)
		return 0;
	if (log->settle)
		log->settle(log->userdata);
	return protect_map(log, slot, false);
}

/* What is not there yet, or is about to go, is not told, or told once more. */
static int keep_what_will_change(struct dirty_log *log, uint32_t slot, struct taken *taken)
{
	int r = 0;

	for (uint32_t i = 0; r == 0 && i < log->guest->n_memories; i++) {
		struct memory *memory = log->guest->memories[i];
		uint64_t deferred_bytes = 0;

		if (!memory->dirty.maps[slot].pending)
			continue;
		defer_unfilled(memory, slot, &deferred_bytes);
		taken->kept_bytes += deferred_bytes;
		r = keep_discards(log, slot, memory, taken->n_discarded[i], &taken->kept_bytes);
		taken->dirty_bytes += taken->n_pages[i] * memory->page_bytes - deferred_bytes;
	}
	return r;
}

int dirty_log_take(struct dirty_log *log, uint32_t slot, uint64_t now_ns, struct dirty_epoch *ret)
{
	struct consumer *consumer = &log->consumers[slot];
	struct taken taken = {};
	int r;

	consumer->stage = CONSUMER_READING;
	consumer->epoch++;
	(void)put_consumer(log, slot); /* as long as it was */
	take_maps(log, slot, &taken);
	r = protect_taken(log, slot);
	if (r == 0)
		r = keep_what_will_change(log, slot, &taken);
	if (r < 0) {
		dirty_log_take_back(log, slot);
		return r;
	}
	consumer->unacked_uncertain_bytes = consumer->pending_uncertain_bytes;
	consumer->unacked_strange = consumer->pending_strange;
	consumer->pending_uncertain_bytes = taken.kept_bytes;
	consumer->pending_strange = 0;
	consumer->taken_ns = now_ns;
	consumer->stage = CONSUMER_STARTED;
	(void)put_consumer(log, slot); /* as long as it was */
	log->n_reads++;
	*ret = (struct dirty_epoch){
		.epoch = consumer->epoch,
		.begun_ns = consumer->begun_ns,
		.taken_ns = now_ns,
		.dirty_bytes = taken.dirty_bytes,
		.uncertain_bytes = min_u64(consumer->unacked_uncertain_bytes, taken.dirty_bytes),
		.n_strange = consumer->unacked_strange,
	};
	return 0;
}
