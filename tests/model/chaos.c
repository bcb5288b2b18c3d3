/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What may happen to a guest, its engine and its machine; one thing at a time, by chance. */
#include "fault/command.h"
#include "guest/page-state.h"
#include "parties.h"

#define N_ANNOUNCEMENTS 16

/* Discards that nobody has told the engine yet. */
static struct {
	struct model_memory *memory;
	struct page_range pages;
} announcements[N_ANNOUNCEMENTS];
static unsigned int n_announcements;

void chaos_reset(void)
{
	n_announcements = 0;
}

static struct model_memory *any_memory(void)
{
	return &world.memories[chance_below(world.n_memories)];
}

static struct page_range any_pages(uint64_t n_pages, uint64_t n_most)
{
	uint64_t first = chance_below(chance_below(2) ? n_pages : min_u64(n_pages, 20));

	return (struct page_range){ first, min_u64(chance_below(n_most) + 1, n_pages - first) };
}

static struct thread *any_thread(void)
{
	return &world.threads[chance_below(world.n_threads)];
}

/* A mapped area of a living process, or NULL. */
static struct area *any_area(void)
{
	struct area *area = &world.areas[chance_below(N_AREAS)];

	return area->is_used && area->is_shown && world.processes[area->process].is_alive ? area
											  : NULL;
}

/* ---- the guest ---- */

static void act_run_thread(void)
{
	thread_run(any_thread());
}

/* By any thread of the process that has nothing else to do. */
static void discard(struct area *area, struct page_range pages, bool is_remove)
{
	struct thread *thread = any_thread();

	if (thread->state != THREAD_IDLE || thread->process != area->process)
		return;
	for (uint64_t i = pages.first; i < pages.first + pages.count; i++)
		if (!area->is_mapped[i])
			return;
	thread_discard(thread, area, pages, is_remove);
}

void chaos_discard(void)
{
	struct area *area = any_area();

	if (area)
		discard(area, any_pages(area->n_pages, chance_below(4) ? 4 : 40),
			memory_is_shared(area_memory(area)) && chance_below(2));
}

/* A signal: in user mode the access begins anew, in the kernel the message comes again and again. */
static void act_signal(void)
{
	struct thread *thread = any_thread();

	if (thread->state != THREAD_WAITS)
		return;
	if (chance_below(2)) {
		thread->state = THREAD_RUNNABLE;
		return;
	}
	thread->n_storm = (unsigned int)chance_below(chance_below(10) ? 50 : 3000);
	thread_queue(thread, thread->fault_flags);
}

static void act_swap_out(void)
{
	struct area *area = any_area();
	struct page_range pages;

	if (!area)
		return;
	pages = any_pages(area->n_pages, 16);
	for (uint64_t i = 0; i < pages.count; i++)
		memory_swap_out(area, pages.first + i);
}

static void announce_later(struct model_memory *memory, struct page_range pages)
{
	if (n_announcements == N_ANNOUNCEMENTS)
		return;
	announcements[n_announcements].memory = memory;
	announcements[n_announcements++].pages = pages;
}

static void act_announce(void)
{
	struct model_memory *memory;
	struct page_range pages;

	if (!n_announcements)
		return;
	memory = announcements[0].memory;
	pages = announcements[0].pages;
	for (unsigned int i = 1; i < n_announcements; i++)
		announcements[i - 1] = announcements[i];
	n_announcements--;
	for (uint64_t i = 0; i < pages.count; i++)
		oracle_announced(memory, pages.first + i);
	trace("the owner announces a discard of pages %llu+%llu", pages.first, pages.count, 0, 0);
	engine_command(COMMAND_DISCARD, memory, pages, false);
}

/* fallocate(): no event says so; the owner may. */
static void act_punch(void)
{
	struct model_memory *memory = any_memory();
	struct page_range pages = any_pages(memory->n_pages, 4);

	if (!memory_is_shared(memory))
		return;
	trace("a hole is punched at pages %llu+%llu of memory %llu", pages.first, pages.count,
	      (uint64_t)(memory - world.memories), 0);
	for (uint64_t i = 0; i < pages.count; i++) {
		memory_punch(memory, pages.first + i);
		oracle_punched(memory, pages.first + i);
	}
	if (chance_below(2))
		announce_later(memory, pages);
	if (chance_below(2))
		act_announce();
}

/* The owner writes by another way than a registered mapping, and says so. */
static void act_owner_writes(void)
{
	struct model_memory *memory = any_memory();
	struct page_range pages = any_pages(memory->n_pages, 4);
	uint64_t n;

	if (!memory_is_shared(memory))
		return;
	for (n = 0; n < pages.count; n++) {
		uint64_t token = ++world.next_token << 8 | 0x99;

		if (!memory_poke(memory, pages.first + n, token, true))
			break;
		memory->file.pages[pages.first + n].is_foreign = false;
		oracle_write(memory, pages.first + n, token);
	}
	pages.count = n;
	trace("the owner writes pages %llu+%llu of memory %llu", pages.first, pages.count,
	      (uint64_t)(memory - world.memories), 0);
	if (pages.count)
		engine_command(COMMAND_WRITTEN, memory, pages, false);
}

/* May the owner put something into this page that the engine has not filled? */
static bool is_unfilled(const struct area *area, uint64_t page, unsigned int state)
{
	const struct model_memory *memory = area_memory(area);
	uint64_t at = area->first_page + page;

	return engine_page_state(memory, at) == state && area->is_mapped[page] &&
	       area->ptes[page].kind == PTE_NONE && memory->source_kind != SOURCE_KIND_BACKING &&
	       !memory->file.pages[at].is_cached && !memory->expected[at].n_discards &&
	       at < memory->file.n_pages;
}

/* Any such page. Return: false if there is none. */
static bool find_unfilled(const struct area *area, uint64_t *ret_page)
{
	unsigned int state = chance_below(3) ? PAGE_FILLING : PAGE_ABSENT;
	uint64_t start = chance_below(area->n_pages);

	for (uint64_t i = 0; i < area->n_pages; i++) {
		*ret_page = (start + i) % area->n_pages;
		if (is_unfilled(area, *ret_page, state))
			return true;
	}
	return false;
}

/*
 * The owner fills a page by its own duplicate of the userfaultfd, protected, and a thread writes it
 * before the engine hears of it: a wp fault of an absent page, or one that is being filled.
 */
static void act_owner_fills(void)
{
	struct thread *thread = any_thread();
	struct area *area = any_area();
	uint64_t page, at, token = ++world.next_token << 8 | 0x55;
	struct model_memory *memory;

	if (!area || !area->is_armed || !area->is_open || thread->state != THREAD_IDLE ||
	    thread->process != area->process || world.processes[area->process].n_changing ||
	    world.processes[area->process].is_wp_async || !find_unfilled(area, &page))
		return;
	memory = area_memory(area);
	at = area->first_page + page;
	if (memory_is_shared(memory) && !memory_poke(memory, at, token, true))
		return;
	area->ptes[page] = (struct pte){ memory_is_shared(memory) ? PTE_FILE : PTE_OWN, true,
					 token };
	trace("the owner fills page %llu of memory %llu by itself", at, area->memory, 0, 0);
	oracle_write(memory, at, token);
	uffd_wake_threads(area->process, area_address(area, page), memory->page_bytes);
	thread_begin(thread, area, page, true);
	thread_run(thread);
	for (unsigned int i = 0; i < 3; i++)
		(void)engine_turn();
	engine_command(COMMAND_WRITTEN, memory, (struct page_range){ at, 1 }, false);
}

/* The owner fills an absent page of its own memory without a word, and wakes nobody. */
static void act_owner_prefills(void)
{
	struct area *area = any_area();
	uint64_t page, at, token = ++world.next_token << 8 | 0x33;

	if (!area || area->is_armed || !area->is_private ||
	    world.processes[area->process].n_changing || !find_unfilled(area, &page))
		return;
	at = area->first_page + page;
	trace("the owner fills page %llu of memory %llu in silence", at, area->memory, 0, 0);
	area->ptes[page] = (struct pte){ .kind = PTE_OWN, .token = token };
	oracle_write(area_memory(area), at, token);
	area_memory(area)->expected[at].is_unknown = true;
}

/* ---- others ---- */

static void act_foreign_touch(void)
{
	struct model_memory *memory = any_memory();
	struct page_range pages = any_pages(memory->n_pages, 3);
	unsigned int way = (unsigned int)chance_below(3);

	if (!memory_is_shared(memory))
		return;
	for (uint64_t page = pages.first; page < pages.first + pages.count; page++) {
		uint64_t token = way == 0 ? ++world.next_token << 8 | 0xf0 : 0;
		unsigned int state = engine_page_state(memory, page);

		/* a write; a read of a hole; an allocation of a hole */
		if (way && memory->file.pages[page].is_cached)
			continue;
		if (!memory_poke(memory, page, token, way != 2))
			continue;
		trace("others touch page %llu of memory %llu (%llu): %#llx", page,
		      (uint64_t)(memory - world.memories), way, token);
		memory->file.pages[page].is_foreign = memory->source_kind != SOURCE_KIND_BACKING &&
						      (state == PAGE_ABSENT ||
						       state == PAGE_FILLING);
		oracle_poked(memory, page, token);
	}
}

/* A page of the file that nobody has mapped turns out to be broken. */
static void act_break(void)
{
	struct model_memory *memory = any_memory();
	uint64_t page = chance_below(memory->n_pages);

	if (!memory_is_shared(memory) || !memory->file.pages[page].is_cached || chance_below(8))
		return;
	for (unsigned int i = 0; i < N_AREAS; i++) {
		const struct area *area = &world.areas[i];

		if (area->is_used && area_memory(area) == memory &&
		    page - area->first_page < area->n_pages &&
		    area->ptes[page - area->first_page].kind == PTE_FILE)
			return;
	}
	trace("page %llu of memory %llu breaks", page, (uint64_t)(memory - world.memories), 0, 0);
	memory->file.pages[page].is_broken = true;
	oracle_trouble(memory, page, 1);
}

static void act_foreign_mapping(void)
{
	struct file *file = &any_memory()->file;

	file->has_foreign_mapping = !file->has_foreign_mapping;
}

/* ---- the address space ---- */

static void act_split(void)
{
	struct area *area = any_area();

	if (area)
		for (uint64_t i = chance_below(area->n_pages); i < area->n_pages; i++)
			area->vma[i]++;
}

static void act_unmap(void)
{
	struct area *area = any_area();
	struct page_range pages;

	if (!area || chance_below(4))
		return;
	pages = any_pages(area->n_pages, 4);
	trace("pages %llu+%llu of area %llu are unmapped", area->first_page + pages.first,
	      pages.count, (uint64_t)(area - world.areas), 0);
	for (uint64_t i = pages.first; i < pages.first + pages.count; i++) {
		/* without a word: what its page tables knew of writes goes with it */
		if (!area->ptes[i].is_wp)
			tracking_ignore(area_memory(area), area->first_page + i);
		area->is_mapped[i] = false;
		area->ptes[i] = (struct pte){};
	}
}

static void act_truncate(void)
{
	struct model_memory *memory = any_memory();
	uint64_t n_pages = chance_below(2) ? memory->n_pages : chance_below(memory->n_pages);

	if (!memory_is_shared(memory))
		return;
	trace("the file of memory %llu has %llu pages", (uint64_t)(memory - world.memories),
	      n_pages, 0, 0);
	for (uint64_t page = n_pages; page < memory->file.n_pages; page++) {
		memory_punch(memory, page);
		oracle_punched(memory, page);
	}
	memory->file.n_pages = n_pages;
}

void chaos_unplug(struct area *area)
{
	area->is_leaving = !engine_hide_area(area);
	if (!area->is_leaving)
		trace("area %llu is gone", (uint64_t)(area - world.areas), 0, 0, 0);
}

/* On behalf of others who show the memory: of a page that would be filled in time, if there is one. */
static void discard_last(struct area *area)
{
	uint64_t first = chance_below(area->n_pages), page = first;

	for (uint64_t i = 0; i < area->n_pages; i++) {
		page = (first + i) % area->n_pages;
		if (engine_page_state(area_memory(area), area->first_page + page) == PAGE_ABSENT)
			break;
	}
	discard(area, (struct page_range){ page, 1 }, true);
}

/* Hot-unplug, and plugging in again. */
static void act_plug(void)
{
	struct area *area = &world.areas[chance_below(N_AREAS)];

	if (!area->is_used || !memory_is_shared(area_memory(area)) ||
	    !world.processes[area->process].is_alive ||
	    !world.processes[area->process].is_registered)
		return;
	if (area->is_leaving) {
		chaos_unplug(area);
		return;
	}
	if (area->is_shown && chance_below(2))
		discard_last(area);
	trace(area->is_shown ? "area %llu goes" : "area %llu comes", (uint64_t)(area - world.areas),
	      0, 0, 0);
	if (area->is_shown && !tracking_leave(area))
		return;
	for (uint64_t i = 0; i < area->n_pages; i++) {
		area->is_mapped[i] = !area->is_shown;
		area->ptes[i] = (struct pte){};
		area->vma[i] = 0;
	}
	if (area->is_shown) {
		/* others may be in the middle of a discard there: it goes on, by the file */
		area->is_leaving = true;
		uffd_wake_threads(area->process, area->start.v,
				  area->n_pages * area_memory(area)->page_bytes);
		chaos_unplug(area);
		return;
	}
	area->is_open = false;
	area->is_armed = false;
	if (tracking_is_on())
		area_arm(area);
	engine_show_area(area);
}

static void act_open(void)
{
	struct area *area = any_area();

	if (area && !area->is_open && !area->is_leaving)
		engine_open_area(area);
}

/* ---- the machine ---- */

static void act_machine(void)
{
	switch (chance_below(6)) {
	case 0:
		world.pool_free = chance_below(2) ? chance_below(4) : 100000;
		break;
	case 1:
		world.is_out_of_memory = !world.is_out_of_memory && chance_below(2);
		break;
	case 2:
		world.is_source_bad = !world.is_source_bad && chance_below(2);
		break;
	case 3:
		world.now_ns += chance_below(chance_below(2) ? NSEC_PER_MSEC : NSEC_PER_SEC);
		break;
	case 4:
		if (chance_below(50) == 0)
			model_source_change(any_memory());
		break;
	case 5:
		if (chance_below(200) == 0) {
			unsigned int process = (unsigned int)chance_below(world.n_processes);

			trace("process %llu ends", process, 0, 0, 0);
			uffd_end_process(process);
		}
		break;
	}
}

static void act_crash(void)
{
	if (chance_below(24) >= world.crash_weight)
		return;
	crash_arm(chance_below(chance_below(4) ? 12 : 200) + 1);
}

static void act_engine(void)
{
	(void)engine_turn();
}

static void act_source(void)
{
	for (uint64_t n = chance_below(6); n; n--)
		(void)model_source_complete();
}

static void act_chore(void)
{
	(void)engine_answer_chore();
}

static void act_command(void)
{
	struct model_memory *memory = any_memory();

	switch (chance_below(6)) {
	case 0:
		engine_command(COMMAND_FINISH, NULL, (struct page_range){}, false);
		break;
	case 1:
		engine_command(COMMAND_WAKE_ALL, NULL, (struct page_range){}, false);
		break;
	default:
		engine_command(COMMAND_PREFETCH, memory, any_pages(memory->n_pages, 40), false);
		break;
	}
}

static const struct {
	void (*act)(void);
	unsigned int weight;
} acts[] = {
	{ act_engine, 320 },
	{ act_run_thread, 330 },
	{ act_source, 70 },
	{ act_chore, 40 },
	{ chaos_discard, 30 },
	{ act_swap_out, 30 },
	{ act_signal, 15 },
	{ act_punch, 12 },
	{ act_announce, 8 },
	{ act_foreign_touch, 20 },
	{ act_foreign_mapping, 4 },
	{ act_break, 6 },
	{ act_owner_writes, 14 },
	{ act_owner_fills, 150 },
	{ act_owner_prefills, 20 },
	{ act_split, 4 },
	{ act_unmap, 3 },
	{ act_truncate, 3 },
	{ act_plug, 4 },
	{ act_open, 6 },
	{ act_machine, 12 },
	{ act_crash, 24 },
	{ act_command, 8 },
	{ tracking_act, 16 },
};

void chaos_step(void)
{
	unsigned int total = 0, pick;

	for (unsigned int i = 0; i < sizeof(acts) / sizeof(acts[0]); i++)
		total += acts[i].weight;
	pick = (unsigned int)chance_below(total);
	for (unsigned int i = 0; i < sizeof(acts) / sizeof(acts[0]); i++) {
		if (pick < acts[i].weight) {
			acts[i].act();
			return;
		}
		pick -= acts[i].weight;
	}
}
