/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Ledgers, looked at. */
#include "ledger-view.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pager/kept.h"
#include "source/file-spec.h"

static bool has_memory(const struct ledger_view *view, uint32_t id)
{
	return id < MAX_MEMORIES && view->memories[id].name[0];
}

/* ---- reading --------------------------------------------------------------------------------- */

/* Only those parts that were ever written: a terabyte that is absent costs nothing to count. */
static void count_states(struct view_memory *memory, const struct ledger *ledger, uint64_t start)
{
	uint64_t pages_per_byte = PAGES_PER_WORD / sizeof(uint64_t), at = start, length;
	uint64_t end = start + page_states_bytes(memory->n_pages);

	memory->counts[PAGE_ABSENT] = memory->n_pages;
	for (; ledger_next_data(ledger, at, end, &at, &length); at += length) {
		struct page_range range = { (at - start) * pages_per_byte, 0 };
		uint64_t counts[PAGE_STATES];

		range.count = min_u64(length * pages_per_byte, memory->n_pages - range.first);
		page_states_count(&memory->states, range, counts);
		for (int state = PAGE_FILLING; state < PAGE_STATES; state++) {
			memory->counts[state] += counts[state];
			memory->counts[PAGE_ABSENT] -= counts[state];
		}
	}
}

static void read_poisoned(struct view_memory *memory, const struct ledger *ledger, uint32_t id)
{
	size_t n_bytes = 0;

	if (ledger_copy_record(ledger, LEDGER_POISON, id, memory->poisoned,
			       sizeof(memory->poisoned), &n_bytes) == 0)
		memory->n_poisoned = (uint32_t)(min_u64(n_bytes, sizeof(memory->poisoned)) /
						sizeof(uint64_t));
}

/* The number behind `offset=` in a SPEC. */
static uint64_t offset_of_spec(const char *spec)
{
	const char *key = ",offset=";
	char path[PATH_MAX];
	const char *option = file_spec_path(spec, path);
	uint64_t number = 0;

	if (option && !strncmp(option, key, strlen(key)))
		(void)file_spec_number(option + strlen(key), &number);
	return number;
}

static void read_source(struct view_memory *memory, const struct ledger *ledger, uint32_t id)
{
	struct kept_source kept;

	if (kept_source_get(ledger, id, &kept))
		return;
	snprintf(memory->spec, sizeof(memory->spec), "%s", kept.spec);
	memory->spec_offset = offset_of_spec(memory->spec);
	memory->has_file = kept.is_file;
	memory->file = kept.identity;
	kept_source_done(&kept);
}

static void read_settings(struct ledger_view *view, const struct ledger *ledger)
{
	struct kept_guest kept;

	if (kept_guest_get(ledger, &kept))
		return;
	view->settings = (struct view_settings){
		.is_known = true,
		.is_graduated = kept.is_graduated,
		.policy = kept.opts.policy,
		.deadline_ns = kept.opts.deadline_ns,
		.has_background = !kept.opts.no_background,
		.background_rate = kept.opts.background_rate,
	};
}

static void read_memory(struct ledger_view *view, struct ledger *ledger, uint32_t id)
{
	struct view_memory *memory = &view->memories[id];
	struct memory_config config;
	uint64_t start;

	if (memory_recorded(ledger, id, &config) != 0)
		return;
	*memory = (struct view_memory){
		.kind = config.kind,
		.page_bytes = config.page_bytes,
		.n_pages = config.length_bytes / config.page_bytes,
		.source_offset = config.source_offset,
		.is_backing_source = config.is_backing_source,
	};
	snprintf(memory->name, sizeof(memory->name), "%s", config.name);
	if (memory_recorded_states(ledger, id, &memory->states, &start) == 0)
		count_states(memory, ledger, start);
	else
		memory->states.words = NULL;
	read_poisoned(memory, ledger, id);
	read_source(memory, ledger, id);
}

int ledger_view_new(struct ledger_view **ret, struct ledger *ledger)
{
	_cleanup_(ledger_view_freep) struct ledger_view *view = NULL;
	uint32_t cursor = 0, tag, id;
	const void *data;
	size_t at = 0, n_bytes;

	view = calloc(1, sizeof(*view));
	if (!view)
		return -ENOMEM;
	view->name = ledger_guest_name(ledger);
	view->board = ledger_board(ledger);
	view->flight = ledger_flight(ledger);
	view->messages = ledger_messages(ledger);
	while (view->n_mappers < MAX_MAPPERS &&
	       roster_get_mapper(ledger, view->n_mappers, &view->mappers[view->n_mappers]) == 0)
		view->n_mappers++;
	for (uint32_t i = 0; i < MAX_MEMORIES; i++)
		read_memory(view, ledger, i);
	while (view->n_mappings < MAX_MAPPINGS &&
	       roster_next(ledger, &cursor, &view->mappings[view->n_mappings]) == 0)
		view->n_mappings++;
	read_settings(view, ledger);
	(void)ledger_next_record(ledger, &at, &tag, &id, &data, &n_bytes, &view->n_damaged);
	*ret = TAKE_PTR(view);
	return 0;
}

struct ledger_view *ledger_view_free(struct ledger_view *view)
{
	free(view);
	return NULL;
}

/* ---- asking ---------------------------------------------------------------------------------- */

bool ledger_has_pid(const struct ledger *ledger, pid_t pid)
{
	struct recorded_mapper mapper;

	for (uint32_t i = 0; i < MAX_MAPPERS; i++)
		if (roster_get_mapper(ledger, i, &mapper) == 0 && mapper.pid == pid)
			return true;
	return false;
}

bool ledger_view_find(const struct ledger_view *view, uint32_t mapper, uint64_t address,
		      uint32_t *ret_memory, uint64_t *ret_page)
{
	for (uint32_t i = 0; i < view->n_mappings; i++) {
		const struct recorded_mapping *mapping = &view->mappings[i];
		uint64_t offset = address - mapping->range.start.v;

		if (mapping->mapper != mapper || offset >= mapping->range.length_bytes ||
		    !has_memory(view, mapping->memory))
			continue;
		*ret_memory = mapping->memory;
		*ret_page = (mapping->offset_bytes + offset) /
			    view->memories[mapping->memory].page_bytes;
		return true;
	}
	return false;
}

bool ledger_view_address(const struct ledger_view *view, uint32_t mapper, uint32_t memory,
			 uint64_t page, uint64_t *ret_address)
{
	if (!has_memory(view, memory))
		return false;
	for (uint32_t i = 0; i < view->n_mappings; i++) {
		const struct recorded_mapping *mapping = &view->mappings[i];
		uint64_t offset = page * view->memories[memory].page_bytes - mapping->offset_bytes;

		if (mapping->mapper != mapper || mapping->memory != memory ||
		    offset >= mapping->range.length_bytes)
			continue;
		*ret_address = mapping->range.start.v + offset;
		return true;
	}
	return false;
}

enum page_state ledger_view_state(const struct ledger_view *view, uint32_t memory, uint64_t page)
{
	if (!has_memory(view, memory) || !view->memories[memory].states.words ||
	    page >= view->memories[memory].n_pages)
		return PAGE_ABSENT;
	return page_states_get(&view->memories[memory].states, page);
}

bool ledger_view_is_poisoned(const struct ledger_view *view, uint32_t memory, uint64_t page)
{
	if (!has_memory(view, memory))
		return false;
	for (uint32_t i = 0; i < view->memories[memory].n_poisoned; i++)
		if (view->memories[memory].poisoned[i] == page)
			return true;
	return false;
}

bool ledger_view_is_complete(const struct ledger_view *view)
{
	for (uint32_t i = 0; i < MAX_MEMORIES; i++)
		if (has_memory(view, i) &&
		    view->memories[i].counts[PAGE_ABSENT] + view->memories[i].counts[PAGE_FILLING])
			return false;
	return true;
}
