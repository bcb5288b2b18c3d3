/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the demand thread is told. */
#include <errno.h>

#include "fault/engine.h"
#include "fault/fill.h"
#include "kernel/uffd.h"

/* A new view: mappers and memories may have come, none goes. */
static int command_show_view(struct demand *demand, struct command *command)
{
	uint64_t page_bytes = 0;
	int r;

	for (uint32_t i = 0; i < demand->guest->n_memories; i++)
		page_bytes = max_u64(page_bytes, demand->guest->memories[i]->page_bytes);
	r = slots_grow(&demand->slots, page_bytes);
	demand->view = command->view;
	demand->n_mappers = demand->guest->n_mappers;
	demand->n_memories = demand->guest->n_memories;
	demand->is_complete_told = false;
	background_restart(demand);
	return r;
}

static void command_open(struct demand *demand, struct command *command)
{
	struct mapping *mapping = command->mapping;

	mapping->is_open = true;
	fill_wake(demand, mapping, mapping_pages(mapping));
}

/*
 * A discard through a mapping counts in all mappings of its memory. It is translated with our view, so
 * the mapping must not leave it before the last message of it was read.
 */
static int command_close(struct demand *demand, struct command *command)
{
	struct mapper *mapper = command->mapping->mapper;

	command->mapping->is_open = false;
	if (mapper->is_gone || !uffd_is_changing(mapper->uffd))
		return 0;
	demand->readers[mapper->id].is_ready = true;
	return -EBUSY;
}

/* Who waits for these pages was answered by no fill: he faults again. */
static void command_wake(struct demand *demand, const struct command *command)
{
	for (uint32_t i = 0; i < demand->view->n_mappings; i++) {
		struct mapping *mapping = demand->view->mappings[i];
		struct page_range shown = {};

		if (mapping->memory == command->memory)
			shown = mapping_clip(mapping, command->pages);
		if (shown.count)
			fill_wake(demand, mapping, shown);
	}
}

static void command_discard(struct demand *demand, struct command *command)
{
	(void)discard_pages(demand, command->memory, command->pages);
	command_wake(demand, command);
}

/* Pages that exist by no doing of ours: at attach, or written by their owner. */
static uint64_t command_keep(struct demand *demand, struct command *command)
{
	struct memory *memory = command->memory;
	uint64_t n;

	(void)page_states_move_all(&memory->states, command->pages, PAGE_ABSENT, PAGE_FILLING);
	n = page_states_move_all(&memory->states, command->pages, PAGE_FILLING, PAGE_PRESENT);
	(void)page_states_move_all(&memory->states, command->pages, PAGE_REMOVED, PAGE_PRESENT);
	demand_settled(demand, memory, n);
	stall_forget(demand, memory, command->pages);
	if (n)
		command_wake(demand, command);
	return n;
}

/* Nothing of this thread points at the memory afterwards, but for notices and chores under way. */
static int memory_forget(struct demand *demand, struct memory *memory)
{
	struct page_range all = { 0, memory_n_pages(memory) };

	/* first what would begin new reads, so that -EBUSY comes to an end */
	window_forget(&demand->window, memory);
	background_forget(&demand->background, memory);
	for (unsigned int i = 0; i < N_SLOTS; i++) {
		struct slot *slot = &demand->slots.slots[i];

		if (slot->state == SLOT_FREE || slot->memory != memory)
			continue;
		if (slot->state == SLOT_READING)
			return -EBUSY;
		fill_give_back(demand, slot, PAGE_ABSENT);
	}
	stall_forget(demand, memory, all);
	memory->is_forgotten = true;
	atomic_store(&memory->n_absent, 0);
	return 0;
}

static void command_graduate(struct demand *demand, struct command *command)
{
	struct memory *memory = command->memory;

	demand->is_graduated[memory->id] = true;
	demand_note(demand, FLIGHT_GRADUATED, memory, 0, 0);
	/* Without a registration the kernel fills holes: from now on the memory itself is the
	 * truth. */
	(void)page_states_move_all(&memory->states,
				   (struct page_range){ 0, memory_n_pages(memory) }, PAGE_REMOVED,
				   PAGE_PRESENT);
	slots_trim(&demand->slots);
}

static void command_do(struct demand *demand, struct command *command)
{
	/* its states may be another's by now */
	if (command->memory && command->memory->is_forgotten) {
		command->result = -EINVAL;
		return;
	}
	command->result = 0;
	switch (command->kind) {
	case COMMAND_SHOW_VIEW:
		command->result = command_show_view(demand, command);
		break;
	case COMMAND_OPEN:
		command_open(demand, command);
		break;
	case COMMAND_CLOSE:
		command->result = command_close(demand, command);
		break;
	case COMMAND_PREFETCH:
		if (!background_prefetch(demand, command->memory, command->pages))
			command->result = -EBUSY;
		break;
	case COMMAND_DISCARD:
		command_discard(demand, command);
		break;
	case COMMAND_WRITTEN:
		before_write_lose(demand, command->memory, command->pages);
		(void)command_keep(demand, command);
		memory_mark_dirty(command->memory, command->pages);
		break;
	case COMMAND_KEEP:
		(void)command_keep(demand, command);
		/* it came while its memory was tracked: the baseline had nothing there */
		memory_mark_dirty(command->memory, command->pages);
		break;
	case COMMAND_FINISH:
		demand->background.is_forced = true;
		background_restart(demand);
		break;
	case COMMAND_VERDICT:
		foreign_verdict(demand, command->memory, command->is_alone);
		break;
	case COMMAND_GRADUATE:
		command_graduate(demand, command);
		break;
	case COMMAND_FORGET:
		command->result = memory_forget(demand, command->memory);
		break;
	case COMMAND_REPLACE:
		demand->guest->memories[command->memory->id] = command->memory;
		demand->is_graduated[command->memory->id] = false;
		demand->is_verdict_asked[command->memory->id] = false;
		demand->data_runs[command->memory->id] = (struct data_run){};
		break;
	case COMMAND_TELL:
		demand_tell(demand, command->notice.kind, command->memory, command->pages.first,
			    command->notice.value);
		break;
	case COMMAND_TRACK:
		if (command->memory)
			demand->is_graduated[command->memory->id] = false;
		break;
	case COMMAND_HOLES:
		command->result = track_holes(demand, command);
		break;
	case COMMAND_BEFORE_WRITE:
		command->result = before_write_install(demand, command->before_write);
		break;
	case COMMAND_WAKE_ALL:
		park_wake_all(demand);
		break;
	case COMMAND_STOP:
		demand->must_stop = true;
		break;
	}
}

void commands_take(struct demand *demand)
{
	struct command *command;

	while (ring_remove(&demand->commands, &command)) {
		command_do(demand, command);
		sem_post(&command->done);
	}
}

int demand_command(struct demand *demand, struct command *command)
{
	uint64_t one = 1;
	bool was_added;

	if (!demand_is_running(demand)) {
		command_do(demand, command);
		return command->result;
	}

	sem_init(&command->done, 0, 0);
	do {
		pthread_mutex_lock(&demand->command_lock);
		was_added = ring_add(&demand->commands, &command);
		pthread_mutex_unlock(&demand->command_lock);
		(void)!write(demand->command_fd, &one, sizeof(one));
		/* 16 callers at once: the thread is taking them out right now */
	} while (!was_added);
	while (sem_wait(&command->done) < 0)
		;
	sem_destroy(&command->done);
	return command->result;
}
