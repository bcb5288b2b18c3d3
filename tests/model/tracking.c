/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Consumers of what was written. Each keeps account of how often every page had changed when it was
 * copied last: an epoch's pages are copied after its read has returned. When all is quiet, a page that
 * has changed since then is one that nobody was told of.
 *
 * What lib/pager does around lib/dirty is done here: registration, commands to the data plane, asking
 * again when the engine died over it.
 */
#include <errno.h>
#include <string.h>

#include "dirty/dirty-log.h"
#include "fault/command.h"
#include "guest/guest.h"
#include "guest/page-state.h"
#include "kernel/uffd.h"
#include "parties.h"

static struct dirty_log dirty_log; /* of the engine that runs */
static unsigned int n_builds;
static const char *const names[N_CONSUMERS] = { "first", "second", "third" };

/* ---- life ---- */

/* As lib/pager does. */
static void await_engine(void *userdata)
{
	if (!engine_is_asleep())
		midway_finish();
}

static int protect_all(struct guest *guest, bool is_protected)
{
	int r = 0;

	for (uint32_t i = 0; r == 0 && i < guest->view->n_mappings; i++) {
		struct mapping *mapping = guest->view->mappings[i];
		struct page_range pages = { mapping_page(mapping, mapping->range.start),
					    mapping->range.length_bytes /
						    mapping->memory->page_bytes };

		r = is_protected ? protect_existing(mapping) : protect_pages(mapping, pages, false);
		if (r == TRACKER_GONE)
			r = 0;
	}
	return r;
}

void tracking_build(struct guest *guest, bool is_new)
{
	n_builds++;
	dirty_log_init(&dirty_log, guest,
		       world.processes[0].is_wp_async ? &tracker_scan : &tracker_wp);
	dirty_log.settle = await_engine;
	if (is_new)
		return;
	if (dirty_log_adopt(&dirty_log))
		model_fail("the consumers of the ledger were refused");
	if (dirty_log_recover(&dirty_log))
		(void)protect_all(guest, false);
	dirty_log_drop_unfinished(&dirty_log);
}

bool tracking_is_on(void)
{
	return dirty_log_count(&dirty_log) > 0;
}

bool tracking_leave(struct area *area)
{
	if (!tracking_is_on())
		return true;
	/* a memory that is mapped nowhere is none any more; here it may come again */
	if (area->mapping->memory->n_mappings == 1)
		for (uint64_t page = 0; page < area->n_pages; page++)
			tracking_ignore(area_memory(area), area->first_page + page);
	dirty_log_leave(&dirty_log, area->mapping);
	if (!world.is_frozen)
		return true;
	engine_recover();
	return false;
}

/* Its process has died with what its page tables knew, or all have: it is over. */
static void give_up(void)
{
	trace("what was written cannot be told any more", 0, 0, 0, 0);
	for (unsigned int i = 0; i < N_CONSUMERS; i++)
		world.consumers[i].is_started = false;
	world.may_track = false;
}

/* ---- starting and stopping ---- */

static void register_all(void)
{
	for (unsigned int i = 0; i < N_AREAS; i++)
		if (world.areas[i].is_used && world.areas[i].is_shown && !world.areas[i].is_leaving)
			world.areas[i].is_armed = true;
}

/* Nothing of the engine may be used any more if it has died over a command. */
static bool tell(unsigned int kind)
{
	unsigned int n_before = n_builds;

	harvest_end();
	engine_command(kind, NULL, (struct page_range){}, false);
	return n_builds == n_before;
}

static int start_first(uint32_t slot)
{
	register_all();
	dirty_log_arm(&dirty_log, slot);
	if (!world.is_frozen && !tell(COMMAND_TRACK))
		return -EOWNERDEAD;
	harvest_begin();
	return protect_all(dirty_log.guest, true);
}

static int start_another(uint32_t slot)
{
	int r = dirty_log_harvest(&dirty_log);

	if (r)
		return r;
	dirty_log_arm(&dirty_log, slot);
	if (!world.is_frozen && !tell(COMMAND_TRACK))
		return -EOWNERDEAD;
	harvest_begin();
	return dirty_log_protect_pending(&dirty_log);
}

static void stop_slot(uint32_t slot)
{
	dirty_log_disarm(&dirty_log, slot);
	if (!world.is_frozen && !tell(COMMAND_TRACK))
		return;
	if (dirty_log_count(&dirty_log) == 1)
		(void)protect_all(dirty_log.guest, false);
	dirty_log_drop(&dirty_log, slot);
}

/* Return: false if it is to be tried again. */
static bool start_once(unsigned int number)
{
	bool is_first = !tracking_is_on();
	uint32_t slot;
	int r;

	if (dirty_log_find(&dirty_log, names[number], &slot) == 0)
		return true; /* the engine that died had done it */
	if (dirty_log_add(&dirty_log, names[number], &slot) && !world.is_frozen)
		model_fail("a consumer was refused");
	harvest_begin();
	r = is_first ? start_first(slot) : start_another(slot);
	harvest_end();
	if (r == -EOWNERDEAD)
		return false;
	if (r == 0)
		r = dirty_log_begin(&dirty_log, slot, world.now_ns);
	if (world.is_frozen) {
		engine_recover();
		return false;
	}
	if (r) {
		stop_slot(slot);
		give_up();
	}
	return true;
}

void tracking_start(unsigned int number)
{
	struct model_consumer *consumer = &world.consumers[number];

	if (consumer->is_started || !world.may_track)
		return;
	trace("consumer %llu starts", number, 0, 0, 0);
	while (!start_once(number))
		;
	if (!world.may_track)
		return;
	*consumer = (struct model_consumer){ .is_started = true };
	for (unsigned int i = 0; i < world.n_memories; i++)
		for (uint64_t page = 0; page < world.memories[i].n_pages; page++)
			consumer->seen[i][page] = world.memories[i].expected[page].n_changes;
}

static void stop(unsigned int number)
{
	uint32_t slot;

	trace("consumer %llu stops", number, 0, 0, 0);
	world.consumers[number].is_started = false;
	if (dirty_log_find(&dirty_log, names[number], &slot))
		model_fail("consumer %u is forgotten", number);
	/* what was not answered is asked again */
	do {
		stop_slot(slot);
		if (world.is_frozen)
			engine_recover();
	} while (dirty_log_find(&dirty_log, names[number], &slot) == 0);
}

/* ---- reading ---- */

enum answer { ANSWER_EPOCH, ANSWER_AGAIN, ANSWER_NONE };

/* The guest does what it can while the engine does something, and is paused. */
static void stand_still(void)
{
	for (unsigned int i = 0; i < 8 && !world.is_frozen && !engine_has_ended(); i++) {
		midway_go_on();
		for (unsigned int j = 0; j < world.n_threads; j++)
			thread_run(&world.threads[j]);
	}
	world.is_still = true;
}

/* Between the harvest and the taking of the maps. */
static void discard_between(void)
{
	if (world.is_calm || world.is_frozen || engine_has_ended() || chance_below(2))
		return;
	if (!world.is_still)
		chaos_discard();
	midway_go_on();
	midway_go_on();
}

/* @is_still: the guest is paused before, whatever the engine is doing. */
static enum answer read_once(unsigned int number, bool is_still, struct dirty_epoch *ret)
{
	uint32_t slot;
	int r;

	if (dirty_log_find(&dirty_log, names[number], &slot))
		model_fail("consumer %u is forgotten", number);
	harvest_begin();
	if (is_still)
		stand_still();
	await_engine(NULL);
	r = dirty_log_acknowledge(&dirty_log, slot, world.consumers[number].epoch);
	if (r && !world.is_frozen)
		model_fail("consumer %u has epoch %llu, which is unknown", number,
			   (unsigned long long)world.consumers[number].epoch);
	if (r == 0)
		r = dirty_log_harvest(&dirty_log);
	discard_between();
	if (r == 0)
		r = dirty_log_take(&dirty_log, slot, world.now_ns, ret);
	harvest_end();
	world.is_still = false;
	if (world.is_frozen) {
		engine_recover();
		return ANSWER_AGAIN;
	}
	if (r == DIRTY_GONE)
		give_up();
	return r ? ANSWER_NONE : ANSWER_EPOCH;
}

static const struct dirty_map *map_of(unsigned int number, unsigned int memory)
{
	uint32_t slot;

	if (dirty_log_find(&dirty_log, names[number], &slot))
		model_fail("consumer %u is forgotten", number);
	return &world.memories[memory].memory->dirty.maps[slot];
}

static bool is_set(const _Atomic uint64_t *words, uint64_t page)
{
	return words[page / 64] >> page % 64 & 1;
}

/* Return: how many pages it was told of. */
static uint64_t copy(unsigned int number, const struct dirty_epoch *epoch)
{
	struct model_consumer *consumer = &world.consumers[number];
	uint64_t n = 0;

	for (unsigned int i = 0; i < world.n_memories; i++) {
		const struct model_memory *memory = &world.memories[i];
		const struct dirty_map *map = map_of(number, i);

		for (uint64_t page = 0; page < memory->n_pages; page++) {
			if (!is_set(map->unacked, page))
				continue;
			if (!memory->expected[page].is_touched &&
			    engine_page_state(memory, page) == PAGE_ABSENT)
				model_fail("page %llu of memory %u is absent, and told as written",
					   (unsigned long long)page, i);
			consumer->seen[i][page] = memory->expected[page].n_changes;
			n++;
		}
	}
	trace("consumer %llu has read epoch %llu: %llu pages, %llu bytes uncertain", number,
	      epoch->epoch, n, epoch->uncertain_bytes);
	consumer->epoch = epoch->epoch;
	return n;
}

static enum answer take(unsigned int number, bool is_still, struct dirty_epoch *ret)
{
	enum answer answer;

	do
		answer = read_once(number, is_still, ret);
	while (answer == ANSWER_AGAIN);
	return answer;
}

/* What is about to go, or was put in by an engine that died, is told later. */
static bool is_settled(const struct expected *expected)
{
	return !expected->is_unknown && !expected->n_discards && !expected->is_in_doubt;
}

static void compare(unsigned int number)
{
	for (unsigned int i = 0; i < world.n_memories; i++)
		for (uint64_t page = 0; page < world.memories[i].n_pages; page++)
			if (is_settled(&world.memories[i].expected[page]) &&
			    world.consumers[number].seen[i][page] <
				    world.memories[i].expected[page].n_changes)
				model_fail(
					"page %llu of memory %u changed, and consumer %u was not told",
					(unsigned long long)page, i, number);
}

void tracking_act(void)
{
	unsigned int number = (unsigned int)chance_below(N_CONSUMERS);
	bool is_still = chance_below(3) == 0;
	struct dirty_epoch epoch;

	if (!world.consumers[number].is_started) {
		if (chance_below(3) == 0)
			tracking_start(number);
		return;
	}
	if (chance_below(40) == 0) {
		stop(number);
		return;
	}
	if (chance_below(2))
		chaos_discard();
	if (take(number, is_still, &epoch) != ANSWER_EPOCH)
		return;
	if (chance_below(6) == 0) {
		trace("consumer %llu does not get epoch %llu", number, epoch.epoch, 0, 0);
		return;
	}
	(void)copy(number, &epoch);
	if (is_still)
		compare(number);
}

/* ---- what must hold ---- */

void tracking_check_write(const struct model_memory *memory, uint64_t page)
{
	unsigned int index = (unsigned int)(memory - world.memories);

	if (world.is_frozen || world.processes[0].is_wp_async || memory->expected[page].is_unknown)
		return;
	for (unsigned int i = 0; i < N_CONSUMERS; i++)
		if (world.consumers[i].is_started && !is_set(map_of(i, index)->pending, page) &&
		    !is_set(map_of(i, index)->unacked, page))
			model_fail("page %llu was written, and consumer %u is not to be told of it",
				   (unsigned long long)page, i);
}

void tracking_ignore(const struct model_memory *memory, uint64_t page)
{
	for (unsigned int i = 0; i < N_CONSUMERS; i++)
		world.consumers[i].seen[memory - world.memories][page] =
			memory->expected[page].n_changes;
}

void tracking_check(void)
{
	struct dirty_epoch epoch;

	for (unsigned int i = 0; i < N_CONSUMERS && !engine_has_ended(); i++) {
		if (!world.consumers[i].is_started || take(i, false, &epoch) != ANSWER_EPOCH)
			continue;
		(void)copy(i, &epoch);
		compare(i);
		if (take(i, false, &epoch) == ANSWER_EPOCH && copy(i, &epoch) &&
		    !epoch.uncertain_bytes)
			model_fail("consumer %u is told of pages while nothing happens", i);
	}
}
