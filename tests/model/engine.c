/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The data plane under test: built, driven a round at a time, thrown away, adopted by a new one. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "fault/engine.h"
#include "kernel/uapi.h"
#include "parties.h"

static struct guest *guest;
static struct demand *demand;
static struct demand_config config;
static int kept_fd = -EBADF; /* of the ledger: what the service manager holds */
static uint64_t sleep_ns;    /* 0: the next thing is a round, else it is to sleep */

/* ---- life ---- */

static void add_mappers(void)
{
	struct mapper *mapper;

	for (unsigned int i = 0; i < world.n_processes; i++)
		if (guest_add_mapper(guest, fake_fd(FAKE_UFFD, i), fake_fd(FAKE_PIDFD, i), -EBADF,
				     (pid_t)i + 1,
				     world.processes[i].is_wp_async ? UFFD_FEATURE_WP_ASYNC : 0,
				     &mapper))
			model_fail("a mapper was refused");
}

static void add_memory(struct model_memory *memory, bool is_new)
{
	const struct memory_config of = {
		.name = memory == world.memories ? "first" : "second",
		.kind = memory->kind,
		.page_bytes = memory->page_bytes,
		.length_bytes = memory->n_pages * memory->page_bytes,
		.backing = memory->file.fd,
		.source = memory->source,
		.source_offset = memory->source_offset,
		.is_backing_source = memory->source_kind == SOURCE_KIND_BACKING,
	};
	uint32_t id = (uint32_t)(memory - world.memories);
	int r;

	r = is_new ? memory_new(&memory->memory, id, &of, guest->ledger)
		   : memory_adopt(&memory->memory, id, &of, guest->ledger);
	if (r || guest_add_memory(guest, memory->memory))
		model_fail("memory %u was refused: %d", id, r);
	memory->file.fd_of_memory = memory->memory->backing;
}

/* Return: the view before, which the engine may still use. */
static struct guest_view *add_mapping(struct area *area)
{
	const struct mapping mapping = {
		.mapper = &guest->mappers[area->process],
		.memory = area_memory(area)->memory,
		.range = { area->start, area->n_pages * area_memory(area)->page_bytes },
		.offset_bytes = area->first_page * area_memory(area)->page_bytes,
		.is_open = area->is_open,
		.stage = area->is_leaving ? MAPPING_LEAVING : MAPPING_OPEN,
	};
	struct guest_view *old;

	if (guest_add_mapping(guest, &mapping, &old, &area->mapping))
		model_fail("a mapping was refused");
	return old;
}

static void build(bool is_new)
{
	struct ledger *ledger = NULL;

	if (is_new && guest_new(&guest, "model"))
		model_fail("no guest");
	if (!is_new && (ledger_adopt(&ledger, kept_fd) || guest_adopt(&guest, ledger)))
		model_fail("the ledger was refused");
	add_mappers();
	for (unsigned int i = 0; i < world.n_memories; i++)
		add_memory(&world.memories[i], is_new);
	for (unsigned int i = 0; i < N_AREAS; i++)
		if (world.areas[i].is_shown)
			free(add_mapping(&world.areas[i]));
	if (is_new) {
		kept_fd = fcntl(ledger_fd(guest->ledger), F_DUPFD_CLOEXEC, 3);
		crash_watch(kept_fd);
	}
	tracking_build(guest, is_new);
	if (demand_new(&demand, guest, &config))
		model_fail("no data plane");
	sleep_ns = 0;
}

static void demolish(void)
{
	demand = demand_free(demand);
	guest = guest_free(guest);
	model_source_forget();
}

void engine_boot(const struct demand_config *with)
{
	config = *with;
	build(true);
}

void engine_end(void)
{
	demolish();
	crash_watch(-EBADF);
	closep(&kept_fd);
	kept_fd = -EBADF;
}

void engine_recover(void)
{
	do {
		trace("the engine starts again", 0, 0, 0, 0);
		demolish();
		crash_restore();
		build(false);
	} while (world.is_frozen);
	for (unsigned int i = 0; i < world.n_memories; i++)
		oracle_recovered(&world.memories[i]);
	engine_check();
}

void engine_kill(void)
{
	crash_arm(1);
	(void)crash_point();
}

bool engine_has_ended(void)
{
	return demand->has_ended;
}

bool engine_is_asleep(void)
{
	return demand_is_asleep(demand);
}

/* ---- rounds ---- */

/* Nothing is absent of what a living process maps. */
static bool is_complete(void)
{
	for (uint32_t i = 0; i < guest->n_memories; i++)
		if (count_get(&guest->memories[i]->n_absent) &&
		    guest_view_has_memory(guest->view, guest->memories[i]))
			return false;
	return true;
}

static void take_notices(void)
{
	struct notice notice;

	while (demand_take_notice(demand, &notice)) {
		if (notice.kind == UFD_EVENT_COMPLETED && !is_complete())
			model_fail("completion is told, and pages are absent");
		trace("  notice %llu about offset %#llx: %lld", notice.kind, notice.offset_bytes,
		      (uint64_t)notice.value, 0);
	}
}

/* Is there something that will answer a fault of this page, or say why not? */
static bool is_explained(const struct area *area, uint64_t page)
{
	struct model_memory *memory = area_memory(area);
	uint64_t address = area_address(area, page - area->first_page);

	if (!area->is_open || !area->is_shown || demand->park.has_overflowed ||
	    stall_knows(demand, memory->memory, page))
		return true;
	for (unsigned int i = 0; i < N_SLOTS; i++) {
		const struct slot *slot = &demand->slots.slots[i];

		if (slot->state != SLOT_FREE && slot->memory == memory->memory &&
		    page - slot->pages.first < slot->pages.count)
			return true;
	}
	for (unsigned int i = 0; i < demand->park.n; i++)
		if (demand->park.entries[i].mapper->id == area->process &&
		    address - demand->park.entries[i].range.start.v <
			    demand->park.entries[i].range.length_bytes)
			return true;
	return false;
}

/* About to sleep: whoever waits, and was heard, waits for something. */
static void check_waiters(void)
{
	for (unsigned int i = 0; i < world.n_threads; i++) {
		const struct thread *thread = &world.threads[i];

		if (thread->state == THREAD_WAITS && thread->is_read &&
		    !is_explained(thread->area, thread->area->first_page + thread->page))
			model_fail(
				"lost wake-up: thread %u waits for page %llu, the engine for nothing",
				i, (unsigned long long)(thread->area->first_page + thread->page));
	}
}

static int round_or_sleep(void)
{
	int r;

	world.n_kernel_calls = 0;
	if (!sleep_ns)
		return demand_step(demand, &sleep_ns);
	r = demand_sleep(demand, sleep_ns);
	sleep_ns = 0;
	return r;
}

void engine_round(void)
{
	int r = round_or_sleep();

	if (world.is_frozen)
		return;
	if (r < 0)
		model_fail("the engine gave up: %d", r);
	take_notices();
}

bool engine_turn(void)
{
	int r = round_or_sleep();

	if (world.is_frozen) {
		engine_recover();
		return false;
	}
	if (r < 0)
		model_fail("the engine gave up: %d", r);
	take_notices();
	engine_check();
	if (sleep_ns)
		check_waiters();
	return sleep_ns > 0;
}

/* ---- commands ---- */

static void free_mapping(struct area *area)
{
	struct guest_view *old;
	struct mapping *mapping;

	if (guest_remove_mapping(guest, &guest->mappers[area->process], area->mapping->range, &old,
				 &mapping))
		model_fail("a mapping is unknown");
	area->mapping = NULL;
	engine_command(COMMAND_SHOW_VIEW, NULL, (struct page_range){}, false);
	/* had the engine died, the new one would not know them either */
	free(old);
	free(mapping);
}

void engine_command(unsigned int kind, struct model_memory *memory, struct page_range pages,
		    bool is_alone)
{
	bool has_died;

	do {
		struct command command = {
			.kind = kind,
			.view = guest->view,
			.memory = memory ? memory->memory : NULL,
			.pages = pages,
			.is_alone = is_alone,
		};

		world.n_kernel_calls = 0;
		(void)demand_command(demand, &command);
		has_died = world.is_frozen;
		if (has_died)
			engine_recover();
		/* what was not acknowledged is said again */
	} while (has_died && (kind == COMMAND_DISCARD || kind == COMMAND_WRITTEN ||
			      kind == COMMAND_KEEP || kind == COMMAND_GRADUATE));
	engine_check();
}

void engine_show_area(struct area *area)
{
	struct guest_view *old;

	area->is_shown = true;
	old = add_mapping(area);
	engine_command(COMMAND_SHOW_VIEW, NULL, (struct page_range){}, false);
	free(old);
}

bool engine_hide_area(struct area *area)
{
	struct command command = { .kind = COMMAND_CLOSE, .mapping = area->mapping };

	area->is_open = false; /* for a successor, too */
	area->mapping->stage = MAPPING_LEAVING;
	world.n_kernel_calls = 0;
	(void)demand_command(demand, &command);
	if (world.is_frozen) {
		engine_recover();
		return false;
	}
	if (command.result == -EBUSY)
		return false;
	area->is_shown = false;
	free_mapping(area);
	return true;
}

void engine_open_area(struct area *area)
{
	struct command command = { .kind = COMMAND_OPEN, .mapping = area->mapping };

	area->is_open = true;
	(void)demand_command(demand, &command);
	if (world.is_frozen)
		engine_recover();
}

static void graduate(void)
{
	for (unsigned int i = 0; i < world.n_memories; i++)
		/* poison needs the registration: a discard clears its mark */
		if (world.memories[i].memory->n_poisoned)
			return;
	if (tracking_is_on())
		return;
	trace("the guest graduates", 0, 0, 0, 0);
	for (unsigned int i = 0; i < world.n_memories; i++)
		engine_command(COMMAND_GRADUATE, &world.memories[i], (struct page_range){}, false);
	for (unsigned int i = 0; i < world.n_processes; i++) {
		world.processes[i].is_registered = false;
		uffd_wake_threads(i, 0, UINT64_MAX);
	}
}

bool engine_answer_chore(void)
{
	struct model_memory *memory;
	struct chore chore;

	if (!demand_take_chore(demand, &chore))
		return false;
	if (chore.kind == CHORE_COMPLETE) {
		if (world.may_graduate && is_complete())
			graduate();
		return true;
	}
	memory = &world.memories[chore.memory->id];
	trace("verdict on memory %llu: alone %llu", chore.memory->id,
	      !memory->file.has_foreign_mapping, 0, 0);
	engine_command(COMMAND_VERDICT, memory, (struct page_range){},
		       !memory->file.has_foreign_mapping);
	return true;
}

/* ---- looking inside ---- */

unsigned int engine_page_state(const struct model_memory *memory, uint64_t page)
{
	return page_states_get(&memory->memory->states, page);
}

bool engine_is_in_doubt(const struct model_memory *memory, uint64_t page)
{
	return put_is_in_doubt(demand, memory->memory, page);
}

/* Every page that is filling belongs to exactly one slot. */
static void check_claims(const struct model_memory *memory)
{
	struct page_range all = { 0, memory->n_pages }, run;
	unsigned char n_owners[N_PAGES] = {};

	if (demand->is_recovering ||
	    !page_states_find(&memory->memory->states, all, PAGE_FILLING, &run))
		return;
	for (unsigned int i = 0; i < N_SLOTS; i++) {
		const struct slot *slot = &demand->slots.slots[i];

		if (slot->state == SLOT_FREE || slot->memory != memory->memory)
			continue;
		for (uint64_t j = 0; j < slot->pages.count; j++)
			n_owners[slot->pages.first + j]++;
	}
	for (uint64_t page = 0; page < memory->n_pages; page++)
		if (n_owners[page] != 1 && engine_page_state(memory, page) == PAGE_FILLING)
			model_fail("page %llu is filling, claimed by %u slots",
				   (unsigned long long)page, n_owners[page]);
}

static void check_slots(void)
{
	const struct slots *slots = &demand->slots;
	unsigned int n_free = 0, n_waiting = 0, n_background = 0;

	for (unsigned int i = 0; i < N_SLOTS; i++) {
		const struct slot *slot = &slots->slots[i];

		n_free += slot->state == SLOT_FREE;
		n_waiting += slot->state == SLOT_WAITING;
		n_background += slot->state != SLOT_FREE && slot->cause != CAUSE_DEMAND;
	}
	if (n_free != slots->n_free || n_waiting != slots->n_waiting ||
	    n_background != slots->n_background)
		model_fail("slots: %u/%u free, %u/%u waiting, %u/%u background", n_free,
			   slots->n_free, n_waiting, slots->n_waiting, n_background,
			   slots->n_background);
}

void engine_check(void)
{
	if (world.is_frozen)
		return;
	for (unsigned int i = 0; i < world.n_memories; i++) {
		const struct model_memory *memory = &world.memories[i];
		struct page_range all = { 0, memory->n_pages };
		uint64_t counts[PAGE_STATES];

		page_states_count(&memory->memory->states, all, counts);
		if (count_get(&memory->memory->n_absent) !=
		    counts[PAGE_ABSENT] + counts[PAGE_FILLING])
			model_fail(
				"n_absent is %llu, the states say %llu",
				(unsigned long long)count_get(&memory->memory->n_absent),
				(unsigned long long)(counts[PAGE_ABSENT] + counts[PAGE_FILLING]));
		check_claims(memory);
	}
	check_slots();
}

bool engine_is_idle(void)
{
	for (unsigned int i = 0; i < N_SLOTS; i++)
		if (demand->slots.slots[i].state == SLOT_READING)
			return false;
	return true;
}

void engine_check_rest(void)
{
	if (demand->slots.n_free != N_SLOTS)
		model_fail("%u slots leak", N_SLOTS - demand->slots.n_free);
	if (demand->park.n || demand->park.wake_at_ns != UINT64_MAX)
		model_fail("%u faults stay parked", demand->park.n);
	for (unsigned int i = 0; i < demand->stalls.n; i++)
		if (engine_page_state(&world.memories[demand->stalls.entries[i].memory->id],
				      demand->stalls.entries[i].page) != PAGE_ABSENT)
			model_fail("page %llu is not absent, but stalled",
				   (unsigned long long)demand->stalls.entries[i].page);
}
