/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What each page must read: the source's bytes until the guest writes, what a discard leaves, and
 * the last write otherwise.
 *
 * Where the right answer is not one, both are kept until the first read decides:
 * - a discard under way: what was there, or what it leaves;
 * - MADV_DONTNEED of a shared page that is absent: the kernel reports it as it reports MADV_REMOVE,
 *   so the engine takes it for a discard, but the bytes may be filled from the source as well;
 * - a hole punched by nobody knows whom into a page that is absent: the engine cannot know.
 */
#include "guest/page-state.h"
#include "world.h"

void oracle_init(struct model_memory *memory)
{
	for (uint64_t page = 0; page < memory->n_pages; page++)
		memory->expected[page] = (struct expected){
			.value = memory->source_tokens[page],
			.had_trouble = memory->source_kind == SOURCE_KIND_FILE, /* at any time */
		};
}

/* What a discard leaves: zeros, or in a private mapping what the file holds. */
uint64_t oracle_discarded(const struct model_memory *memory, uint64_t page)
{
	const struct file_page *cached = &memory->file.pages[page];

	return memory->kind == BACKING_PRIVATE && cached->is_cached ? cached->token : 0;
}

void oracle_read(struct model_memory *memory, uint64_t page, uint64_t token)
{
	struct expected *expected = &memory->expected[page];
	bool is_value = token == expected->value;
	bool is_other = expected->has_other && token == expected->other;
	bool is_discarded = expected->n_discards && (token == oracle_discarded(memory, page) ||
						     memory->file.pages[page].is_foreign);

	if (!is_value && !is_other && !is_discarded)
		model_fail("wrong page: page %llu of memory %u reads %#llx, expected %#llx%s%s",
			   (unsigned long long)page, (unsigned int)(memory - world.memories),
			   (unsigned long long)token, (unsigned long long)expected->value,
			   expected->has_other ? " or " : "",
			   expected->has_other ? (expected->other ? "other" : "zeros") : "");
	if (expected->n_discards)
		return;
	expected->value = token;
	expected->has_other = false;
}

void oracle_write(struct model_memory *memory, uint64_t page, uint64_t token)
{
	struct expected *expected = &memory->expected[page];

	expected->value = token;
	expected->has_other = false;
	expected->is_changed |= memory->is_tracked;
}

void oracle_discard_begins(struct area *area, uint64_t page, bool is_remove)
{
	struct model_memory *memory = area_memory(area);
	uint64_t at = area->first_page + page;
	struct expected *expected = &memory->expected[at];

	expected->n_discards++;
	if (!is_remove && memory_is_shared(memory) &&
	    (!memory->file.pages[at].is_cached || memory->file.pages[at].is_foreign)) {
		expected->other = memory->file.pages[at].token;
		expected->has_other = true;
	}
}

void oracle_discard_ends(struct area *area, uint64_t page, bool is_remove, bool has_happened)
{
	struct model_memory *memory = area_memory(area);
	uint64_t at = area->first_page + page;
	struct expected *expected = &memory->expected[at];

	expected->n_discards--;
	if (!has_happened) {
		/* the engine may have heard of it, or not */
		expected->other = oracle_discarded(memory, at);
		expected->has_other = true;
		return;
	}
	if (!is_remove && memory_is_shared(memory))
		return;
	expected->value = oracle_discarded(memory, at);
	expected->has_other = false;
	expected->is_changed |= memory->is_tracked &&
				world.processes[area->process].has_remove_events;
}

void oracle_punched(struct model_memory *memory, uint64_t page)
{
	struct expected *expected = &memory->expected[page];
	unsigned int state = engine_page_state(memory, page);

	if (memory->kind == BACKING_PRIVATE)
		return;
	if (memory->source_kind == SOURCE_KIND_BACKING || state == PAGE_PRESENT ||
	    state == PAGE_REMOVED) {
		expected->value = 0;
		expected->has_other = false;
		return;
	}
	expected->value = memory->source_tokens[page];
	expected->other = 0;
	expected->has_other = true;
}

void oracle_announced(struct model_memory *memory, uint64_t page)
{
	struct expected *expected = &memory->expected[page];
	bool is_there = memory->file.pages[page].is_cached;

	for (unsigned int i = 0; i < N_AREAS && !memory_is_shared(memory); i++) {
		struct area *area = &world.areas[i];

		if (area->is_used && area_memory(area) == memory &&
		    page - area->first_page < area->n_pages)
			is_there |= area->ptes[page - area->first_page].kind != PTE_NONE;
	}
	if (is_there && memory->file.pages[page].is_foreign)
		expected->value = memory->file.pages[page].token; /* others made the new page */
	if (is_there)
		return; /* the guest went on with it, and nothing takes it away */
	expected->value = oracle_discarded(memory, page);
	expected->has_other = false;
}

void oracle_poked(struct model_memory *memory, uint64_t page, uint64_t token)
{
	struct expected *expected = &memory->expected[page];
	unsigned int state = engine_page_state(memory, page);

	/* An absent page belongs to the source, whatever lies in the file. */
	if (memory->source_kind != SOURCE_KIND_BACKING &&
	    (state == PAGE_ABSENT || state == PAGE_FILLING)) {
		oracle_trouble(memory, page, 1);
		if (expected->n_discards || memory->source_tokens[page] == 0 || (expected->is_in_doubt && state == PAGE_FILLING)) {
			expected->other = token;
			expected->has_other = true;
		}
		return;
	}
	expected->value = token;
	expected->has_other = false;
}

void oracle_recovered(struct model_memory *memory)
{
	for (uint64_t page = 0; page < memory->n_pages; page++) {
		struct expected *expected = &memory->expected[page];

		expected->is_in_doubt = engine_page_state(memory, page) == PAGE_FILLING;
		if (!expected->is_in_doubt || !memory->file.pages[page].is_foreign)
			continue;
		expected->other = memory->file.pages[page].token;
		expected->has_other = true;
	}
}

void oracle_trouble(struct model_memory *memory, uint64_t page, uint64_t n_pages)
{
	for (uint64_t i = page; i < page + n_pages && i < memory->n_pages; i++)
		memory->expected[i].had_trouble = true;
}
