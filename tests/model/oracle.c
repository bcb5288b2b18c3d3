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
#include "parties.h"

static uint64_t number_of(const struct model_memory *memory)
{
	return (uint64_t)(memory - world.memories);
}

static void expect(struct model_memory *memory, uint64_t page, uint64_t value)
{
	memory->expected[page].value = value;
	memory->expected[page].n_others = 0;
	trace("    expected of page %llu of memory %llu: %#llx", page, number_of(memory), value, 0);
}

static bool is_expected(const struct expected *expected, uint64_t token)
{
	bool is = token == expected->value;

	for (unsigned int i = 0; i < expected->n_others; i++)
		is |= token == expected->others[i];
	return is;
}

static void expect_also(struct model_memory *memory, uint64_t page, uint64_t other)
{
	struct expected *expected = &memory->expected[page];
	unsigned int n_most = sizeof(expected->others) / sizeof(expected->others[0]);

	if (is_expected(expected, other))
		return;
	if (expected->n_others == n_most)
		model_fail("too many right answers at page %llu", (unsigned long long)page);
	expected->others[expected->n_others++] = other;
	trace("    expected of page %llu of memory %llu: %#llx too", page, number_of(memory), other,
	      0);
}

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

/* The engine still has to fill it. */
static bool is_to_come(const struct model_memory *memory, uint64_t page)
{
	unsigned int state = engine_page_state(memory, page);

	return memory->source_kind != SOURCE_KIND_BACKING &&
	       (state == PAGE_ABSENT || state == PAGE_FILLING);
}

void oracle_read(struct model_memory *memory, uint64_t page, uint64_t token)
{
	struct expected *expected = &memory->expected[page];
	bool is_discarded = expected->n_discards && (token == oracle_discarded(memory, page) ||
						     memory->file.pages[page].is_foreign);

	if (!is_expected(expected, token) && !is_discarded)
		model_fail(
			"wrong page: page %llu of memory %llu reads %#llx, expected %#llx or %u others",
			(unsigned long long)page, (unsigned long long)number_of(memory),
			(unsigned long long)token, (unsigned long long)expected->value,
			expected->n_others);
	if (!expected->n_discards && expected->n_others)
		expect(memory, page, token);
}

void oracle_write(struct model_memory *memory, uint64_t page, uint64_t token)
{
	expect(memory, page, token);
	memory->expected[page].is_touched = true;
	memory->expected[page].is_strange = false;
	memory->expected[page].n_changes++;
}

void oracle_discard_begins(struct area *area, uint64_t page, bool is_remove)
{
	struct model_memory *memory = area_memory(area);
	uint64_t at = area->first_page + page;
	const struct file_page *cached = &memory->file.pages[at];

	memory->expected[at].n_discards++;
	memory->expected[at].is_touched = true;
	/* what is absent is zero as soon as the engine has heard; what is there, when it goes */
	if (is_remove || !memory_is_shared(memory))
		memory->expected[at].n_changes++;
	if (!is_remove && memory_is_shared(memory) &&
	    world.processes[area->process].has_remove_events &&
	    (!cached->is_cached || cached->is_foreign))
		expect_also(memory, at, cached->token);
	if (!is_remove && cached->is_foreign) /* while it is restored */
		expect_also(memory, at, TOKEN_TORN);
}

void oracle_discard_takes(struct area *area, uint64_t page)
{
	struct model_memory *memory = area_memory(area);
	uint64_t at = area->first_page + page;

	memory->expected[at].n_changes++;
	/*
	 * it was touched anew between the word of the discard and this: the guest does not know itself; or
	 * others had put it there, of which nobody was told either
	 */
	if (engine_page_state(memory, at) == PAGE_PRESENT || memory->expected[at].is_strange)
		tracking_ignore(memory, at);
	memory->expected[at].is_strange = false;
}

void oracle_discard_ends(struct area *area, uint64_t page, bool is_remove, bool has_happened)
{
	struct model_memory *memory = area_memory(area);
	uint64_t at = area->first_page + page;
	bool is_silent = !world.processes[area->process].has_remove_events;

	memory->expected[at].n_discards--;
	if (!has_happened) {
		/* the engine may have heard of it, or not */
		expect_also(memory, at, oracle_discarded(memory, at));
		if (is_remove || !memory_is_shared(memory))
			memory->expected[at].n_changes--;
		return;
	}
	if (!is_remove && memory_is_shared(memory))
		return;
	/* of what nobody said the tracker need not know, not even that it was written before */
	if (is_silent)
		tracking_ignore(memory, at);
	expect(memory, at, oracle_discarded(memory, at));
	/* What is absent may be filled after all: nobody told the engine. */
	if (is_silent && is_to_come(memory, at))
		expect_also(memory, at, memory->source_tokens[at]);
}

void oracle_punched(struct model_memory *memory, uint64_t page)
{
	memory->expected[page].is_touched = true;
	tracking_ignore(memory, page);
	if (!is_to_come(memory, page)) {
		expect(memory, page, 0);
		return;
	}
	expect(memory, page, memory->source_tokens[page]);
	expect_also(memory, page, 0);
}

void oracle_announced(struct model_memory *memory, uint64_t page)
{
	bool is_there = memory->file.pages[page].is_cached;

	for (unsigned int i = 0; i < N_AREAS && !memory_is_shared(memory); i++) {
		struct area *area = &world.areas[i];

		if (area->is_used && area_memory(area) == memory &&
		    page - area->first_page < area->n_pages)
			is_there |= area->ptes[page - area->first_page].kind != PTE_NONE;
	}
	if (!is_there) {
		expect(memory, page, oracle_discarded(memory, page));
		memory->expected[page].n_changes++;
	} else if (memory->file.pages[page].is_foreign) {
		expect(memory, page, memory->file.pages[page].token); /* others made the new page */
	}
	/* else the guest went on with it, and nothing takes it away */
}

void oracle_poked(struct model_memory *memory, uint64_t page, uint64_t token)
{
	const struct expected *expected = &memory->expected[page];

	/* An absent page belongs to the source, whatever lies in the file. */
	if (!is_to_come(memory, page)) {
		expect(memory, page, token);
		memory->expected[page].is_strange = true;
		return;
	}
	oracle_trouble(memory, page, 1);
	if (expected->n_discards ||
	    (expected->is_in_doubt && engine_page_state(memory, page) == PAGE_FILLING))
		expect_also(memory, page, token);
}

void oracle_recovered(struct model_memory *memory)
{
	for (uint64_t page = 0; page < memory->n_pages; page++) {
		struct expected *expected = &memory->expected[page];

		expected->is_in_doubt = engine_page_state(memory, page) == PAGE_FILLING &&
					engine_is_in_doubt(memory, page);
		if (expected->is_in_doubt && memory->file.pages[page].is_foreign)
			expect_also(memory, page, memory->file.pages[page].token);
	}
}

void oracle_trouble(struct model_memory *memory, uint64_t page, uint64_t n_pages)
{
	for (uint64_t i = page; i < page + n_pages && i < memory->n_pages; i++)
		memory->expected[i].had_trouble = true;
}
