/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a file shows of writes that no page table knows of. */
#include "dirty/file-look.h"

#include <errno.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "guest/memory.h"

int file_look_take(const struct memory *memory, struct file_look *ret)
{
	uint64_t counts[PAGE_STATES];
	struct file_look look = {};
	struct stat stat;

	/* before the file: what happens meanwhile is seen at the next look */
	look.n_marked = atomic_load_explicit(&memory->n_marked, memory_order_acquire);
	look.n_discarded = atomic_load_explicit(&memory->n_discarded, memory_order_acquire);
	if (fstat(memory->backing, &stat) < 0)
		return -errno;
	look.changed_ns = (uint64_t)stat.st_mtim.tv_sec * NSEC_PER_SEC +
			  (uint64_t)stat.st_mtim.tv_nsec;
	page_states_count(&memory->states, (struct page_range){ 0, memory_n_pages(memory) },
			  counts);
	look.surplus_pages = (int64_t)((uint64_t)stat.st_blocks * 512 / memory->page_bytes) -
			     (int64_t)(counts[PAGE_PRESENT] + counts[PAGE_FILLING]);
	*ret = look;
	return 0;
}

/* Marks of the process before, which nobody has read yet. */
static bool has_marks(const struct memory *memory)
{
	for (uint32_t slot = 0; slot < MAX_CONSUMERS; slot++)
		if (memory->dirty.maps[slot].pending &&
		    dirty_map_count(memory->dirty.maps[slot].pending, memory_n_pages(memory)))
			return true;
	return false;
}

unsigned int file_look_compare(const struct memory *memory, const struct file_look *look,
			       const struct file_look *now)
{
	bool is_shmem = memory->kind == BACKING_SHMEM;
	bool has_moved = now->changed_ns != look->changed_ns;
	bool is_marked = look->is_adopted ? now->n_marked || has_marks(memory)
					  : now->n_marked != look->n_marked;
	unsigned int changes = 0;

	if (is_shmem && !has_moved)
		return 0;
	if (is_shmem && !is_marked)
		changes |= FILE_WAS_WRITTEN;
	if (now->surplus_pages != look->surplus_pages || now->n_discarded != look->n_discarded ||
	    look->is_adopted)
		changes |= FILE_MAY_HAVE_HOLES;
	return changes;
}
