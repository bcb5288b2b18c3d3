/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who waits, and where. The kernel shows that a thread is in handle_userfault(), but not at which
 * address: that stands in the fault message, which goes to whoever reads the userfaultfd. So it is
 * looked for in the flight recorder, then in the system call's arguments, then by exclusion.
 */
#include <string.h>

#include "why.h"

#define TID_BITS 24 /* of the flight recorder's value */

static uint64_t total_of(const struct process *process, uint64_t inode)
{
	for (size_t i = 0; i < process->n_uffds; i++)
		if (process->uffds[i].inode == inode)
			return process->uffds[i].n_total;
	return 0;
}

/* The faults that userfaultfds of ours, and of others, have not resolved for a process. */
static void count_totals(const struct why *why, const struct process *process, uint64_t *ret_ours,
			 uint64_t *ret_others)
{
	*ret_ours = 0;
	*ret_others = 0;
	for (size_t i = 0; i < process->n_uffds; i++) {
		uint64_t inode = process->uffds[i].inode;

		if (why->view && why_is_our_uffd(why, process, inode))
			*ret_ours += total_of(process, inode);
		else
			*ret_others += total_of(process, inode);
	}
}

bool why_is_our_uffd(const struct why *why, const struct process *process, uint64_t inode)
{
	if (why->pager)
		return why_holds(why, why->pager->pid, inode);
	/* the pager is gone: ours is the one that nobody serves */
	for (size_t i = 0; i < why->n_holders; i++)
		if (why->holders[i].inode == inode && why->holders[i].pid != process->pid)
			return false;
	return true;
}

/* ---- where ----------------------------------------------------------------------------------- */

/* The newest fault of this thread in the flight recorder. */
static bool find_fault(const struct why *why, pid_t inner_tid, struct flight_event *ret)
{
	struct flight_event event;
	struct flight_cursor cursor = {};
	bool is_found = false;

	while (flight_next(why->view->flight, &cursor, &event)) {
		if (event.kind != FLIGHT_FAULT || !event.value ||
		    event.value != (inner_tid & ((1 << TID_BITS) - 1)))
			continue;
		*ret = event;
		is_found = true;
	}
	return is_found;
}

/* In a message that was read, and looked at by nobody. */
static bool find_message(const struct why *why, uint32_t mapper, pid_t inner_tid,
			 uint64_t *ret_address)
{
	const struct ledger_messages *messages = why->view->messages;

	if (!messages->is_reading || messages->mapper != mapper)
		return false;
	for (unsigned int i = 0; i < LEDGER_N_MESSAGES; i++) {
		const struct uffd_msg *message = &messages->messages[i];

		if (message->event != UFFD_EVENT_PAGEFAULT ||
		    (pid_t)message->arg.pagefault.feat.ptid != inner_tid)
			continue;
		*ret_address = message->arg.pagefault.address;
		return true;
	}
	return false;
}

static bool take_fault(struct why *why, struct why_thread *waiter, bool may_be_newer)
{
	const struct why_process *process = &why->processes[waiter->process];
	struct flight_event event;
	struct why_page *page;
	enum page_state state;

	if (!find_fault(why, waiter->thread->inner_tid, &event))
		return false;
	state = ledger_view_state(why->view, event.memory, event.page);
	/* it has been served, and another fault of this thread was not read yet */
	if (state == PAGE_PRESENT && may_be_newer)
		return false;
	page = why_page_get(why, event.memory, event.page);
	if (!page || !ledger_view_address(why->view, process->mapper, event.memory, event.page,
					  &waiter->address))
		return false;
	waiter->page = (int)(page - why->pages);
	waiter->origin = ADDRESS_OF_FAULT;
	waiter->since_us = event.time_us;
	waiter->is_ours = WHY_SURE;
	if (!page->since_us || page->since_us > event.time_us)
		page->since_us = event.time_us;
	return true;
}

static void take_address(struct why *why, struct why_thread *waiter, uint64_t address,
			 enum address_origin origin)
{
	struct why_page *page;
	uint64_t number;
	uint32_t memory;

	if (!ledger_view_find(why->view, why->processes[waiter->process].mapper, address, &memory,
			      &number))
		return;
	page = why_page_get(why, memory, number);
	waiter->page = page ? (int)(page - why->pages) : -1;
	waiter->address = address;
	waiter->origin = origin;
	waiter->is_ours = origin == ADDRESS_OF_FAULT ? WHY_SURE : WHY_LIKELY;
}

/* An argument that points into memory of ours, where a page is missing. */
static void take_syscall(struct why *why, struct why_thread *waiter)
{
	const struct thread *thread = waiter->thread;

	if (!thread->has_syscall || thread->syscall < 0)
		return;
	for (int i = 0; i < 6 && waiter->origin == ADDRESS_UNKNOWN; i++) {
		uint64_t page;
		uint32_t memory;

		if (ledger_view_find(why->view, why->processes[waiter->process].mapper,
				     thread->arguments[i], &memory, &page) &&
		    ledger_view_state(why->view, memory, page) != PAGE_PRESENT)
			take_address(why, waiter, thread->arguments[i], ADDRESS_OF_SYSCALL);
	}
}

static void find_address(struct why *why, struct why_thread *waiter)
{
	const struct why_process *entry = &why->processes[waiter->process];
	uint64_t ours, others, n_pending = 0, address;

	waiter->page = -1;
	count_totals(why, entry->process, &ours, &others);
	if (!why->view) {
		waiter->is_ours = WHY_UNKNOWN;
		return;
	}
	for (size_t i = 0; i < entry->process->n_uffds; i++)
		n_pending += entry->process->uffds[i].n_pending;
	if (find_message(why, entry->mapper, waiter->thread->inner_tid, &address)) {
		take_address(why, waiter, address, ADDRESS_OF_FAULT);
		return;
	}
	/* nothing of ours is unresolved as the kernel counts: what the recorder has is history */
	if (entry->process->n_uffds && !ours && others)
		return;
	if (take_fault(why, waiter, n_pending > 0 || others > 0))
		return;
	take_syscall(why, waiter);
	if (waiter->origin == ADDRESS_UNKNOWN && ours)
		waiter->is_ours = others ? WHY_UNKNOWN : WHY_LIKELY;
}

/* Nobody told, but there is one thread and one page. */
static void exclude_others(struct why *why)
{
	struct why_thread *waiter = &why->threads[0];
	const struct why_page *page = &why->pages[0];

	if (why->n_threads != 1 || why->n_pages != 1 || waiter->page >= 0 ||
	    waiter->is_ours == WHY_UNKNOWN || page->state == PAGE_PRESENT)
		return;
	if (!ledger_view_address(why->view, why->processes[waiter->process].mapper, page->memory,
				 page->page, &waiter->address))
		return;
	waiter->page = 0;
	waiter->origin = ADDRESS_OF_BOARD;
	waiter->since_us = page->since_us;
}

/* ---- who ------------------------------------------------------------------------------------- */

void why_find_threads(struct why *why)
{
	for (uint32_t i = 0; i < why->n_processes; i++) {
		const struct process *process = why->processes[i].process;

		for (size_t j = 0; process && j < process->n_threads; j++) {
			struct why_thread *waiter = &why->threads[why->n_threads];

			if (process->threads[j].wait != THREAD_USERFAULT ||
			    why->n_threads == WHY_MAX_THREADS)
				continue;
			*waiter = (struct why_thread){ .process = i,
						       .thread = &process->threads[j] };
			find_address(why, waiter);
			why->n_threads++;
		}
	}
	if (why->view)
		exclude_others(why);
}

const char *why_origin_name(enum address_origin origin)
{
	switch (origin) {
	case ADDRESS_OF_FAULT:
		return "fault";
	case ADDRESS_OF_SYSCALL:
		return "syscall";
	case ADDRESS_OF_BOARD:
		return "exclusion";
	default:
		return "unknown";
	}
}
