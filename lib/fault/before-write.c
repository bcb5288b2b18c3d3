/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copy before write: claims, the ring, and the demand thread's side. */
#include "fault/before-write.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fault/fill.h"
#include "kernel/backing.h"
#include "kernel/pidfd.h"
#include "kernel/proc-memory.h"

#define LEAST_PLACES 8

/* What lies in a place of the ring. */
struct place {
	uint32_t memory;
	uint64_t page;
};

struct before_write {
	uint32_t n_memories;
	uint64_t n_pages[MAX_MEMORIES];
	_Atomic uint64_t *claims[MAX_MEMORIES]; /* owned; a bit a page */
	_Atomic uint64_t *zeros[MAX_MEMORIES];	/* owned; likewise: bulk read zero */
	int memory_fds[MAX_MAPPERS];		/* owned, or -EBADF: /proc/PID/mem */

	/* the ring: demand adds, bulk removes */
	uint32_t n_places;
	uint64_t place_bytes;
	struct place *places; /* owned */
	unsigned char *bytes; /* owned mapping */
	_Atomic uint64_t n_added;
	_Atomic uint64_t n_removed;
	_Atomic bool is_waited;	   /* somebody is parked for a place */
	_Atomic bool is_listening; /* a discard may have been read that is not applied yet */
	int command_fd;		   /* borrowed while it is set: wakes the demand thread */

	_Atomic uint64_t n_copied, n_waits, n_lost;
	_Atomic int error;
};

/* ---- life ---- */

static int open_mappers(struct before_write *hook, const struct guest *guest)
{
	for (uint32_t i = 0; i < guest->view->n_mappings; i++) {
		const struct mapping *mapping = guest->view->mappings[i];
		const struct mapper *mapper = mapping->mapper;
		int r;

		if ((mapping->memory->kind != BACKING_ANON &&
		     mapping->memory->kind != BACKING_PRIVATE) ||
		    mapper->is_gone || hook->memory_fds[mapper->id] >= 0)
			continue;
		r = proc_memory_open(&hook->memory_fds[mapper->id], mapper->pid);
		/* the pid was its own if it still lives */
		if (r == 0 && !pidfd_is_alive(mapper->pidfd))
			r = -ESRCH;
		if (r < 0)
			return r;
	}
	return 0;
}

static int alloc_ring(struct before_write *hook, const struct guest *guest, uint64_t ring_bytes)
{
	void *bytes;

	hook->place_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
	for (uint32_t i = 0; i < guest->n_memories; i++)
		hook->place_bytes = max_u64(hook->place_bytes, guest->memories[i]->page_bytes);
	hook->n_places = (uint32_t)max_u64(ring_bytes / hook->place_bytes, LEAST_PLACES);
	hook->places = calloc(hook->n_places, sizeof(hook->places[0]));
	if (!hook->places)
		return -ENOMEM;
	bytes = mmap(NULL, hook->n_places * hook->place_bytes, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (bytes == MAP_FAILED)
		return -errno;
	hook->bytes = bytes;
	/* guest memory in no core dump; and as far as RLIMIT_MEMLOCK allows no fault of ours */
	(void)madvise(bytes, hook->n_places * hook->place_bytes, MADV_DONTDUMP);
	(void)mlock2(bytes, hook->n_places * hook->place_bytes, MLOCK_ONFAULT);
	return 0;
}

int before_write_new(struct before_write **ret, const struct guest *guest, uint64_t ring_bytes)
{
	_cleanup_(before_write_freep) struct before_write *hook = calloc(1, sizeof(*hook));
	int r;

	if (!hook)
		return -ENOMEM;
	for (unsigned int i = 0; i < MAX_MAPPERS; i++)
		hook->memory_fds[i] = -EBADF;
	hook->command_fd = -EBADF;
	r = alloc_ring(hook, guest, ring_bytes);
	if (r == 0)
		r = open_mappers(hook, guest);
	if (r < 0)
		return r;
	hook->n_memories = guest->n_memories;
	for (uint32_t i = 0; i < guest->n_memories; i++) {
		if (guest->memories[i]->is_forgotten)
			continue;
		hook->n_pages[i] = memory_n_pages(guest->memories[i]);
		hook->claims[i] = calloc(dirty_map_words(hook->n_pages[i]),
					 sizeof(hook->claims[i][0]));
		hook->zeros[i] = calloc(dirty_map_words(hook->n_pages[i]),
					sizeof(hook->zeros[i][0]));
		if (!hook->claims[i] || !hook->zeros[i])
			return -ENOMEM;
	}
	*ret = TAKE_PTR(hook);
	return 0;
}

struct before_write *before_write_free(struct before_write *hook)
{
	if (!hook)
		return NULL;
	for (uint32_t i = 0; i < MAX_MEMORIES; i++) {
		free((void *)hook->claims[i]);
		free((void *)hook->zeros[i]);
	}
	for (unsigned int i = 0; i < MAX_MAPPERS; i++)
		closep(&hook->memory_fds[i]);
	free(hook->places);
	if (hook->bytes)
		munmap(hook->bytes, hook->n_places * hook->place_bytes);
	free(hook);
	return NULL;
}

int before_write_set(struct demand *demand, struct before_write *hook)
{
	struct command command = { .kind = COMMAND_BEFORE_WRITE, .before_write = hook };

	return demand_command(demand, &command);
}

/* ---- claims ---- */

/* Of a memory that came later nothing is to be saved. */
static bool is_known(const struct before_write *hook, uint32_t memory, uint64_t page)
{
	return memory < hook->n_memories && page < hook->n_pages[memory];
}

static bool claim(struct before_write *hook, uint32_t memory, uint64_t page)
{
	uint64_t bit = UINT64_C(1) << page % 64;

	if (!is_known(hook, memory, page))
		return false;
	/* release: who finds it claimed by bulk may let the guest write */
	return !(atomic_fetch_or_explicit(&hook->claims[memory][page / 64], bit,
					  memory_order_acq_rel) &
		 bit);
}

bool before_write_claim(struct before_write *hook, uint32_t memory, uint64_t page)
{
	/*
	 * What was read may be the zeros behind a discard that the demand thread is just
	 * about to hear of. It then finds the page unclaimed; with what it hears from now
	 * on it is too late. Pairs with before_write_listen().
	 */
	while (atomic_load_explicit(&hook->is_listening, memory_order_seq_cst))
		sched_yield();
	return claim(hook, memory, page);
}

bool before_write_claim_zero(struct before_write *hook, uint32_t memory, uint64_t page)
{
	/* first: a discard that finds it claimed looks here. Pairs with before_write_lose() */
	if (is_known(hook, memory, page))
		atomic_fetch_or_explicit(&hook->zeros[memory][page / 64], UINT64_C(1) << page % 64,
					 memory_order_release);
	return before_write_claim(hook, memory, page);
}

void before_write_found_hole(struct before_write *hook)
{
	atomic_fetch_add_explicit(&hook->n_lost, 1, memory_order_relaxed);
}

bool before_write_is_claimed(const struct before_write *hook, uint32_t memory, uint64_t page)
{
	return !is_known(hook, memory, page) ||
	       atomic_load_explicit(&hook->claims[memory][page / 64], memory_order_acquire) >>
			       page % 64 &
		       1;
}

/* ---- the ring ---- */

static bool is_full(const struct before_write *hook)
{
	/* pairs with the release in before_write_release() */
	return atomic_load_explicit(&hook->n_added, memory_order_relaxed) -
		       atomic_load_explicit(&hook->n_removed, memory_order_seq_cst) ==
	       hook->n_places;
}

bool before_write_take(struct before_write *hook, struct saved_page *ret)
{
	uint64_t at = atomic_load_explicit(&hook->n_removed, memory_order_relaxed);
	const struct place *place = &hook->places[at % hook->n_places];

	/* pairs with the release in before_write_save() */
	if (atomic_load_explicit(&hook->n_added, memory_order_acquire) == at)
		return false;
	*ret = (struct saved_page){
		.memory = place->memory,
		.page = place->page,
		.bytes = hook->bytes + at % hook->n_places * hook->place_bytes,
	};
	return true;
}

void before_write_release(struct before_write *hook)
{
	uint64_t one = 1;

	/* the demand thread sets is_waited, then looks at n_removed: one of us sees the other */
	atomic_fetch_add_explicit(&hook->n_removed, 1, memory_order_seq_cst);
	if (atomic_exchange_explicit(&hook->is_waited, false, memory_order_seq_cst))
		(void)!write(hook->command_fd, &one, sizeof(one));
}

void before_write_stats(const struct before_write *hook, struct before_write_stats *ret)
{
	*ret = (struct before_write_stats){
		.n_copied = count_get(&hook->n_copied),
		.n_waits = count_get(&hook->n_waits),
		.n_lost = count_get(&hook->n_lost),
		.error = atomic_load_explicit(&hook->error, memory_order_relaxed),
	};
}

/* ---- the demand thread ---- */

int before_write_install(struct demand *demand, struct before_write *hook)
{
	if (hook && demand->before_write)
		return -EBUSY;
	if (hook)
		hook->command_fd = demand->command_fd;
	demand->before_write = hook;
	demand->park.wake_at_ns = min_u64(demand->park.wake_at_ns, demand->now_ns);
	return 0;
}

static int copy_page(const struct before_write *hook, const struct mapping *mapping, uint64_t page,
		     void *bytes)
{
	const struct memory *memory = mapping->memory;

	if (memory->kind == BACKING_SHMEM || memory->kind == BACKING_HUGETLB)
		return backing_read(memory->backing,
				    memory->backing_offset + page * memory->page_bytes, bytes,
				    memory->page_bytes);
	return proc_memory_peek(hook->memory_fds[mapping->mapper->id],
				mapping_address(mapping, page), bytes, memory->page_bytes);
}

/* No place: the write comes again when there is one. Return: true if there is one after all. */
static bool wait_for_place(struct demand *demand, struct mapping *mapping, uint64_t page)
{
	struct before_write *hook = demand->before_write;

	atomic_store_explicit(&hook->is_waited, true, memory_order_seq_cst);
	if (!is_full(hook))
		return true;
	count_add(&hook->n_waits, 1);
	park_add(demand, mapping->mapper, fill_range(mapping, (struct page_range){ page, 1 }));
	demand->is_before_write_full = true;
	return false;
}

bool before_write_save(struct demand *demand, struct mapping *mapping, uint64_t page)
{
	struct before_write *hook = demand->before_write;
	uint32_t id = mapping->memory->id;
	uint64_t at;
	int r;

	if (!hook || before_write_is_claimed(hook, id, page))
		return true;
	if (is_full(hook) && !wait_for_place(demand, mapping, page))
		return false;
	at = atomic_load_explicit(&hook->n_added, memory_order_relaxed);
	r = copy_page(hook, mapping, page, hook->bytes + at % hook->n_places * hook->place_bytes);
	if (r < 0) {
		/* said, and the guest goes on: it is the copy that is lost */
		atomic_store_explicit(&hook->error, -r, memory_order_relaxed);
		return true;
	}
	hook->places[at % hook->n_places] = (struct place){ id, page };
	/* claimed by the other side meanwhile: then its copy counts */
	if (!claim(hook, id, page))
		return true;
	count_add(&hook->n_copied, 1);
	/* pairs with the acquire in before_write_take() */
	atomic_store_explicit(&hook->n_added, at + 1, memory_order_release);
	return true;
}

void before_write_listen(struct demand *demand, bool is_listening)
{
	if (demand->before_write)
		atomic_store_explicit(&demand->before_write->is_listening, is_listening,
				      memory_order_seq_cst);
}

/* Nobody has saved it, or who has may have read the hole behind a discard. */
static bool is_in_doubt(const struct before_write *hook, uint32_t memory, uint64_t page)
{
	if (!before_write_is_claimed(hook, memory, page))
		return true;
	return is_known(hook, memory, page) &&
	       atomic_load_explicit(&hook->zeros[memory][page / 64], memory_order_acquire) >>
			       page % 64 &
		       1;
}

void before_write_lose(struct demand *demand, const struct memory *memory, struct page_range pages)
{
	struct before_write *hook = demand->before_write;

	if (!hook)
		return;
	for (uint64_t page = pages.first; page < pages.first + pages.count; page++)
		if (is_in_doubt(hook, memory->id, page) &&
		    page_states_get(&memory->states, page) != PAGE_REMOVED)
			atomic_fetch_add_explicit(&hook->n_lost, 1, memory_order_relaxed);
}

void before_write_run(struct demand *demand)
{
	if (!demand->is_before_write_full)
		return;
	if (demand->before_write && is_full(demand->before_write))
		return;
	demand->is_before_write_full = false;
	demand->park.wake_at_ns = min_u64(demand->park.wake_at_ns, demand->now_ns);
}
