/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Threads of the guest: they read, write and discard, and wait where the kernel makes them wait. */
#include <linux/userfaultfd.h>

#include "guest/memory.h"
#include "parties.h"

static uint64_t number_of(const struct thread *thread)
{
	return (uint64_t)(thread - world.threads);
}

void thread_queue(struct thread *thread, uint64_t flags)
{
	if (thread->state != THREAD_WAITS)
		thread->waits_since_ns = world.now_ns;
	thread->state = THREAD_WAITS;
	thread->is_read = false;
	thread->fault_flags = flags;
	thread->queued_at = ++world.next_message;
}

void thread_begin(struct thread *thread, struct area *area, uint64_t page, bool is_write)
{
	thread->state = THREAD_RUNNABLE;
	thread->area = area;
	thread->page = page;
	thread->is_write = is_write;
	thread->token = is_write ? ++world.next_token << 8 | 0x77 : 0;
	thread->n_storm = 0;
}

/* The bit must be there before the guest goes on. */
static void check_dirty(const struct area *area, uint64_t page)
{
	if (area->is_armed)
		tracking_check_write(area_memory(area), area->first_page + page);
}

static void check_poison(const struct area *area, uint64_t page)
{
	struct model_memory *memory = area_memory(area);

	if (area->ptes[page].kind == PTE_POISON &&
	    !memory->expected[area->first_page + page].had_trouble)
		model_fail("page %llu is poisoned, and nothing was wrong with it",
			   (unsigned long long)(area->first_page + page));
}

static void thread_access(struct thread *thread)
{
	struct area *area = thread->area;
	struct model_memory *memory = area_memory(area);
	uint64_t at = area->first_page + thread->page;
	uint64_t flags = 0;

	switch (memory_touch(area, thread->page, thread->is_write, &thread->token, &flags)) {
	case TOUCH_WAITS:
		thread_queue(thread, flags);
		trace("thread %llu waits for page %llu of area %llu, flags %llu", number_of(thread),
		      at, (uint64_t)(area - world.areas), flags);
		return;
	case TOUCH_SIGNAL:
		check_poison(area, thread->page);
		trace("thread %llu got a signal at page %llu", number_of(thread), at, 0, 0);
		break;
	case TOUCH_DONE:
		trace(thread->is_write ? "thread %llu wrote page %llu of memory %llu: %#llx"
				       : "thread %llu read page %llu of memory %llu: %#llx",
		      number_of(thread), at, area->memory, thread->token);
		if (thread->is_write) {
			oracle_write(memory, at, thread->token);
			check_dirty(area, thread->page);
		} else {
			oracle_read(memory, at, thread->token);
		}
		break;
	}
	thread->state = THREAD_IDLE;
	thread->n_storm = 0;
}

void thread_discard(struct thread *thread, struct area *area, struct page_range pages,
		    bool is_remove)
{
	struct process *process = &world.processes[area->process];

	thread->area = area;
	thread->page = pages.first;
	thread->n_pages = pages.count;
	thread->is_remove = is_remove;
	for (uint64_t i = 0; i < pages.count; i++)
		oracle_discard_begins(area, pages.first + i, is_remove);
	trace(is_remove ? "thread %llu removes pages %llu+%llu of area %llu"
			: "thread %llu does not need pages %llu+%llu of area %llu",
	      number_of(thread), area->first_page + pages.first, pages.count,
	      (uint64_t)(area - world.areas));
	if (!process->is_registered || !process->has_remove_events) {
		thread->state = THREAD_ZAPS;
		return;
	}
	thread->state = THREAD_EVENT_UNREAD;
	thread->queued_at = ++world.next_message;
	process->n_changing++;
}

/* What it takes is no loss if that is what is left. */
static bool takes_bytes(const struct area *area, uint64_t page, bool is_remove)
{
	const struct model_memory *memory = area_memory(area);
	uint64_t at = area->first_page + page;
	const struct pte *pte = &area->ptes[page];

	if (memory_is_shared(memory))
		return is_remove && memory->file.pages[at].token != 0;
	return (pte->kind == PTE_OWN || pte->kind == PTE_SWAP) &&
	       pte->token != oracle_discarded(memory, at);
}

static void thread_zap(struct thread *thread)
{
	struct model_memory *memory = area_memory(thread->area);

	for (uint64_t i = thread->page; i < thread->page + thread->n_pages; i++) {
		uint64_t at = thread->area->first_page + i;

		if (takes_bytes(thread->area, i, thread->is_remove))
			oracle_discard_takes(thread->area, i);
		/* a huge page that was written between the word of it and this: no scan tells */
		if (memory->kind == BACKING_HUGETLB && !thread->area->ptes[i].is_wp)
			tracking_ignore(memory, at);
		if (thread->is_remove)
			memory_punch(memory, at);
		else
			memory_zap(thread->area, i);
		oracle_discard_ends(thread->area, i, thread->is_remove, true);
	}
	trace("thread %llu zapped pages %llu+%llu", number_of(thread),
	      thread->area->first_page + thread->page, thread->n_pages, 0);
	thread->state = THREAD_IDLE;
}

void thread_abort(struct thread *thread)
{
	bool is_discarding = thread->state == THREAD_EVENT_UNREAD ||
			     thread->state == THREAD_EVENT_READ || thread->state == THREAD_ZAPS;

	for (uint64_t i = 0; is_discarding && i < thread->n_pages; i++)
		oracle_discard_ends(thread->area, thread->page + i, thread->is_remove, false);
	thread->state = THREAD_IDLE;
}

/* A page of any area of the thread's process; the same few more often than others. */
static bool pick_page(const struct thread *thread, struct area **ret_area, uint64_t *ret_page)
{
	struct area *area = &world.areas[chance_below(N_AREAS)];

	if (!area->is_used || area->process != thread->process)
		return false;
	*ret_area = area;
	*ret_page = chance_below(chance_below(2) ? area->n_pages : min_u64(area->n_pages, 20));
	return true;
}

void thread_run(struct thread *thread)
{
	struct area *area;
	uint64_t page;

	if (!world.processes[thread->process].is_alive)
		return;
	switch (thread->state) {
	case THREAD_IDLE:
		if (!pick_page(thread, &area, &page))
			return;
		/* sequential readers exist, too */
		if (thread->area == area && chance_below(4) == 0 &&
		    thread->page + 1 < area->n_pages)
			page = thread->page + 1;
		thread_begin(thread, area, page, chance_below(3) == 0);
		thread_access(thread);
		break;
	case THREAD_RUNNABLE:
		thread_access(thread);
		break;
	case THREAD_EVENT_READ:
		world.processes[thread->process].n_changing--;
		thread->state = THREAD_ZAPS;
		break;
	case THREAD_ZAPS:
		thread_zap(thread);
		break;
	case THREAD_WAITS:
	case THREAD_EVENT_UNREAD:
		break;
	}
}
