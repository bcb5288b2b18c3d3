/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The fake kernel's userfaultfd: messages, fills, wakes. Behaves as docs/kernel.md says. */
#include "kernel/uffd.h"

#include <string.h>

#include "parties.h"

/* ---- fds and waiting threads ---- */

int fake_fd(enum fake_fd_kind kind, unsigned int process)
{
	return FAKE_FD_FIRST + (int)(process * 16 + kind);
}

static unsigned int process_of(int fd)
{
	if (fd < FAKE_FD_FIRST || (fd - FAKE_FD_FIRST) % 16 != FAKE_UFFD)
		model_fail("fd %d is no userfaultfd", fd);
	return (unsigned int)(fd - FAKE_FD_FIRST) / 16;
}

static bool is_queued(const struct thread *thread, unsigned int process)
{
	return thread->process == process && ((thread->state == THREAD_WAITS && !thread->is_read) ||
					      thread->state == THREAD_EVENT_UNREAD);
}

bool uffd_has_unread(unsigned int process)
{
	for (unsigned int i = 0; i < world.n_threads; i++)
		if (is_queued(&world.threads[i], process))
			return true;
	return false;
}

void uffd_wake_threads(unsigned int process, uint64_t start, uint64_t length_bytes)
{
	for (unsigned int i = 0; i < world.n_threads; i++) {
		struct thread *thread = &world.threads[i];

		if (thread->state == THREAD_WAITS && thread->process == process &&
		    area_address(thread->area, thread->page) - start < length_bytes)
			thread->state = THREAD_RUNNABLE;
	}
}

void uffd_end_process(unsigned int process)
{
	world.processes[process].is_alive = false;
	for (unsigned int i = 0; i < world.n_threads; i++)
		if (world.threads[i].process == process)
			thread_abort(&world.threads[i]);
	world.processes[process].n_changing = 0;
}

/* Every call begins here. Return: true if it is to have no effect. */
static bool enter(void)
{
	world.now_ns += 50;
	if (++world.n_kernel_calls > 20000)
		model_fail("the engine does not come to an end");
	return crash_point();
}

/* ---- fills ---- */

struct fill {
	unsigned int process;
	struct area *area;
	uint64_t page;
	unsigned int flags;
};

/* What stops a fill of @n_pages before its first page; 0 if nothing does. */
static int fill_check(int fd, struct hva to, uint64_t length_bytes, unsigned int flags,
		      struct fill *ret)
{
	uint64_t page_bytes, n_pages;

	*ret = (struct fill){ .process = process_of(fd), .flags = flags };
	if (!world.processes[ret->process].is_alive)
		return UFFD_GONE;
	if (world.processes[ret->process].n_changing || chance_one_in(150))
		return UFFD_CHANGING;
	ret->area = area_at(ret->process, to.v, &ret->page);
	if (!ret->area || !world.processes[ret->process].is_registered)
		return UFFD_UNMAPPED;
	page_bytes = area_memory(ret->area)->page_bytes;
	n_pages = length_bytes / page_bytes;
	if (!n_pages || to.v % page_bytes || length_bytes % page_bytes)
		model_fail("a fill of %#llx bytes at %#llx is not aligned",
			   (unsigned long long)length_bytes, (unsigned long long)to.v);
	if (ret->page + n_pages > ret->area->n_pages)
		return UFFD_UNMAPPED;
	for (uint64_t i = ret->page; i < ret->page + n_pages; i++)
		if (!ret->area->is_mapped[i] || ret->area->vma[i] != ret->area->vma[ret->page])
			return UFFD_UNMAPPED;
	if ((flags & UFFD_FILL_WP) && !ret->area->is_armed)
		model_fail("a protected fill where write-protection is not registered");
	return 0;
}

/* Each page of a fill, until one says more than 0. */
typedef int (*fill_page_fn)(const struct fill *fill, uint64_t page, const void *from);

static int fill_pages(struct fill *fill, uint64_t length_bytes, const void *from,
		      fill_page_fn fill_page, uint64_t *ret_done_bytes)
{
	uint64_t page_bytes = area_memory(fill->area)->page_bytes;
	const unsigned char *bytes = from;
	uint64_t done = 0;
	int outcome = 0;

	midway_check_awake();
	for (; done < length_bytes; done += page_bytes) {
		/* a discard may begin between two pages */
		if (done && chance_one_in(100))
			outcome = UFFD_CHANGING;
		else
			outcome = fill_page(fill, fill->page + done / page_bytes,
					    bytes ? bytes + done : NULL);
		if (outcome)
			break;
		if (crash_point()) {
			done += page_bytes;
			break;
		}
	}
	if (!(fill->flags & UFFD_FILL_NO_WAKE))
		uffd_wake_threads(fill->process, area_address(fill->area, fill->page), done);
	(void)crash_point();
	(void)midway_stop(true);
	*ret_done_bytes = world.is_frozen ? length_bytes : done;
	return world.is_frozen ? 0 : outcome;
}

static bool is_past_end(const struct fill *fill, uint64_t page)
{
	const struct model_memory *memory = area_memory(fill->area);

	return memory->kind != BACKING_ANON &&
	       fill->area->first_page + page >= memory->file.n_pages;
}

static void check_protected(const struct fill *fill, uint64_t page)
{
	if (tracking_is_on() && fill->area->is_armed && !(fill->flags & UFFD_FILL_WP))
		model_fail("page %llu is filled without MODE_WP while a tracker is armed",
			   (unsigned long long)page);
}

static uint64_t token_of(const void *bytes, uint64_t page_bytes)
{
	uint64_t first, last;

	memcpy(&first, bytes, sizeof(first));
	memcpy(&last, (const unsigned char *)bytes + page_bytes - sizeof(last), sizeof(last));
	return first == last ? first : TOKEN_TORN;
}

static int put_page(const struct fill *fill, uint64_t page, uint64_t token)
{
	struct model_memory *memory = area_memory(fill->area);
	struct pte *pte = &fill->area->ptes[page];
	bool is_wp = fill->flags & UFFD_FILL_WP;

	if (is_past_end(fill, page))
		return UFFD_PAST_END;
	if (world.is_out_of_memory && chance_below(2)) {
		oracle_trouble(memory, fill->area->first_page + page, 1);
		return UFFD_NO_MEMORY;
	}
	if (pte->kind != PTE_NONE && pte->kind != PTE_POISON)
		return UFFD_PRESENT;
	if (memory_is_shared(memory)) {
		if (area_file_page(fill->area, page)->is_cached)
			return UFFD_PRESENT;
		if (!memory_poke(memory, fill->area->first_page + page, token, true)) {
			oracle_trouble(memory, fill->area->first_page + page, 1);
			return UFFD_PRESENT; /* an empty pool says so */
		}
		*pte = (struct pte){ .kind = PTE_FILE, .is_wp = is_wp };
	} else {
		*pte = (struct pte){ .kind = PTE_OWN, .token = token, .is_wp = is_wp };
	}
	check_protected(fill, page);
	return 0;
}

static int copy_page(const struct fill *fill, uint64_t page, const void *from)
{
	return put_page(fill, page, token_of(from, area_memory(fill->area)->page_bytes));
}

int uffd_copy(int fd, struct hva to, const void *from, uint64_t length_bytes, unsigned int flags,
	      uint64_t *ret_done_bytes)
{
	struct fill fill;
	int r;

	*ret_done_bytes = enter() ? length_bytes : 0;
	if (world.is_frozen)
		return 0;
	r = fill_check(fd, to, length_bytes, flags, &fill);
	if (r == 0)
		r = fill_pages(&fill, length_bytes, from, copy_page, ret_done_bytes);
	trace("  copy(%#llx, %llu bytes) done %llu: %llu", to.v, length_bytes, *ret_done_bytes,
	      (uint64_t)r);
	return r;
}

static int zero_page(const struct fill *fill, uint64_t page, const void *from)
{
	struct pte *pte = &fill->area->ptes[page];

	if (memory_is_shared(area_memory(fill->area)) ||
	    area_memory(fill->area)->kind == BACKING_PRIVATE)
		return pte->kind == PTE_POISON ? UFFD_PRESENT : put_page(fill, page, 0);
	if (world.is_out_of_memory && chance_below(2))
		return UFFD_NO_MEMORY;
	if (pte->kind != PTE_NONE || pte->is_wp)
		return UFFD_PRESENT;
	*pte = (struct pte){ .kind = PTE_ZERO };
	check_protected(fill, page);
	return 0;
}

int uffd_zeropage(int fd, struct hva_range range, unsigned int flags, uint64_t *ret_done_bytes)
{
	struct fill fill;
	int r;

	*ret_done_bytes = enter() ? range.length_bytes : 0;
	if (world.is_frozen)
		return 0;
	if (flags & UFFD_FILL_WP)
		model_fail("there is no protected zero page");
	r = fill_check(fd, range.start, range.length_bytes, flags, &fill);
	if (r == 0 && area_memory(fill.area)->kind == BACKING_HUGETLB)
		model_fail("no zero page on hugetlb");
	if (r == 0)
		r = fill_pages(&fill, range.length_bytes, NULL, zero_page, ret_done_bytes);
	trace("  zeropage(%#llx, %llu bytes) done %llu: %llu", range.start.v, range.length_bytes,
	      *ret_done_bytes, (uint64_t)r);
	return r;
}

static int continue_page(const struct fill *fill, uint64_t page, const void *from)
{
	struct pte *pte = &fill->area->ptes[page];
	struct file_page *cached = area_file_page(fill->area, page);

	if (is_past_end(fill, page))
		return UFFD_PAST_END;
	if (!cached->is_cached)
		return UFFD_NO_PAGE;
	if (pte->kind != PTE_NONE)
		return UFFD_PRESENT;
	if (cached->is_broken)
		return UFFD_POISONED;
	cached->is_data = true;
	*pte = (struct pte){ .kind = PTE_FILE, .is_wp = fill->flags & UFFD_FILL_WP };
	if (!world.is_continue_open)
		check_protected(fill, page);
	return 0;
}

int uffd_continue(int fd, struct hva_range range, unsigned int flags, uint64_t *ret_done_bytes)
{
	struct fill fill;
	int r;

	*ret_done_bytes = enter() ? range.length_bytes : 0;
	if (world.is_frozen)
		return 0;
	r = fill_check(fd, range.start, range.length_bytes, flags, &fill);
	if (r == 0 && area_memory(fill.area)->kind == BACKING_ANON)
		model_fail("CONTINUE on anonymous memory");
	if (r == 0 && world.is_continue_open && flags & UFFD_FILL_WP)
		model_fail("this kernel's CONTINUE protects nothing");
	if (r == 0)
		r = fill_pages(&fill, range.length_bytes, NULL, continue_page, ret_done_bytes);
	trace("  continue(%#llx, %llu bytes) done %llu: %llu", range.start.v, range.length_bytes,
	      *ret_done_bytes, (uint64_t)r);
	return r;
}

static int poison_page(const struct fill *fill, uint64_t page, const void *from)
{
	struct pte *pte = &fill->area->ptes[page];

	if (is_past_end(fill, page))
		return UFFD_PAST_END;
	if (pte->kind != PTE_NONE || pte->is_wp)
		return UFFD_PRESENT;
	*pte = (struct pte){ .kind = PTE_POISON };
	return 0;
}

int uffd_poison(int fd, struct hva_range range, uint64_t *ret_done_bytes)
{
	struct fill fill;
	int r;

	*ret_done_bytes = enter() ? range.length_bytes : 0;
	if (world.is_frozen)
		return 0;
	r = fill_check(fd, range.start, range.length_bytes, 0, &fill);
	if (r == 0)
		r = fill_pages(&fill, range.length_bytes, NULL, poison_page, ret_done_bytes);
	trace("  poison(%#llx): %llu", range.start.v, (uint64_t)r, 0, 0);
	return r;
}

/* ---- the rest ---- */

/* Several mappings are as good as one, and holes between them are left out. */
static int protect_check(int fd, struct hva_range range, struct fill *ret, uint64_t *ret_n_pages)
{
	uint64_t n_mapped = 0;

	*ret_n_pages = 0;
	*ret = (struct fill){ .process = process_of(fd) };
	if (!world.processes[ret->process].is_alive)
		return UFFD_GONE;
	if (world.processes[ret->process].n_changing || chance_one_in(150))
		return UFFD_CHANGING;
	ret->area = area_at(ret->process, range.start.v, &ret->page);
	if (!ret->area || !world.processes[ret->process].is_registered || !ret->area->is_armed)
		return UFFD_UNMAPPED;
	*ret_n_pages = range.length_bytes / area_memory(ret->area)->page_bytes;
	if (range.length_bytes % area_memory(ret->area)->page_bytes ||
	    ret->page + *ret_n_pages > ret->area->n_pages)
		model_fail("a protection of %#llx bytes at %#llx is not whole pages",
			   (unsigned long long)range.length_bytes,
			   (unsigned long long)range.start.v);
	for (uint64_t i = ret->page; i < ret->page + *ret_n_pages; i++)
		n_mapped += ret->area->is_mapped[i];
	return n_mapped ? 0 : UFFD_UNMAPPED;
}

int uffd_write_protect(int fd, struct hva_range range, bool protect)
{
	struct fill fill;
	int r;

	uint64_t n_pages;

	harvest_others();
	if (enter())
		return 0;
	r = protect_check(fd, range, &fill, &n_pages);
	trace("  write_protect(%#llx, %llu pages, %llu): %llu", range.start.v, n_pages, protect,
	      (uint64_t)r);
	if (r)
		return r;
	for (uint64_t i = fill.page; i < fill.page + n_pages; i++)
		if (fill.area->is_mapped[i])
			fill.area->ptes[i].is_wp = protect;
	if (!protect)
		uffd_wake_threads(fill.process, range.start.v, range.length_bytes);
	(void)crash_point();
	harvest_others();
	return 0;
}

int uffd_wake(int fd, struct hva_range range)
{
	if (enter())
		return 0;
	uffd_wake_threads(process_of(fd), range.start.v, range.length_bytes);
	trace("  wake(%llu: %#llx, %llu bytes)", process_of(fd), range.start.v, range.length_bytes,
	      0);
	(void)crash_point();
	return 0;
}

/* The oldest message; faults go before events. NULL if there is none. */
static struct thread *next_message(unsigned int process)
{
	struct thread *best = NULL;

	for (unsigned int i = 0; i < world.n_threads; i++) {
		struct thread *thread = &world.threads[i];

		if (!is_queued(thread, process))
			continue;
		if (!best || (thread->state == THREAD_WAITS && best->state != THREAD_WAITS) ||
		    (thread->state == best->state && thread->queued_at < best->queued_at))
			best = thread;
	}
	return best;
}

static void take_message(struct thread *thread, struct uffd_msg *ret)
{
	uint64_t address = area_address(thread->area, thread->page);

	memset(ret, 0, sizeof(*ret));
	if (thread->state == THREAD_WAITS) {
		ret->event = UFFD_EVENT_PAGEFAULT;
		ret->arg.pagefault.flags = thread->fault_flags;
		ret->arg.pagefault.address = address;
		thread->is_read = true;
		if (thread->n_storm) {
			/* the signal is still pending: the thread faults again at once */
			thread->n_storm--;
			thread_queue(thread, thread->fault_flags);
		}
		return;
	}
	ret->event = UFFD_EVENT_REMOVE;
	ret->arg.remove.start = address;
	ret->arg.remove.end = area_address(thread->area, thread->page + thread->n_pages);
	thread->state = THREAD_EVENT_READ;
}

int uffd_read(int fd, struct uffd_msg *buffer, unsigned int n_buffer, unsigned int *ret_n)
{
	unsigned int process = process_of(fd);
	struct thread *thread;

	*ret_n = 0;
	if (enter() || !world.processes[process].is_alive)
		return 0;
	while (*ret_n < n_buffer && (thread = next_message(process))) {
		take_message(thread, &buffer[*ret_n]);
		trace("  read(%llu): event %#llx at %#llx flags %llu", process,
		      buffer[*ret_n].event, area_address(thread->area, thread->page),
		      thread->fault_flags);
		++*ret_n;
	}
	(void)crash_point();
	return 0;
}

bool uffd_is_changing(int fd)
{
	if (enter())
		return false;
	return world.processes[process_of(fd)].n_changing || chance_one_in(50);
}

int uffd_make_nonblocking(int fd)
{
	return 0;
}
