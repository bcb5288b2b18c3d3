/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The fake kernel's page tables and page cache, and what an access to them does. */
#include <linux/userfaultfd.h>

#include "parties.h"

struct world world;

bool memory_is_shared(const struct model_memory *memory)
{
	return memory->kind == BACKING_SHMEM || memory->kind == BACKING_HUGETLB;
}

struct model_memory *area_memory(const struct area *area)
{
	return &world.memories[area->memory];
}

struct file_page *area_file_page(const struct area *area, uint64_t page)
{
	return &area_memory(area)->file.pages[area->first_page + page];
}

uint64_t area_address(const struct area *area, uint64_t page)
{
	return area->start.v + page * area_memory(area)->page_bytes;
}

struct area *area_at(unsigned int process, uint64_t address, uint64_t *ret_page)
{
	for (unsigned int i = 0; i < N_AREAS; i++) {
		struct area *area = &world.areas[i];
		uint64_t page_bytes = world.memories[area->memory].page_bytes;

		if (!area->is_used || area->process != process ||
		    address - area->start.v >= area->n_pages * page_bytes)
			continue;
		*ret_page = (address - area->start.v) / page_bytes;
		return area;
	}
	return NULL;
}

static bool is_past_end(const struct area *area, uint64_t page)
{
	return area_memory(area)->kind != BACKING_ANON &&
	       area->first_page + page >= area_memory(area)->file.n_pages;
}

/* A hole of the file gets a page of zeros. Return: false if there is none to be had. */
static bool file_allocate(struct model_memory *memory, uint64_t page, uint64_t token)
{
	struct file_page *cached = &memory->file.pages[page];

	if (memory->kind == BACKING_HUGETLB) {
		if (!world.pool_free)
			return false;
		world.pool_free--;
	}
	*cached = (struct file_page){ .is_cached = true, .is_data = true, .token = token };
	return true;
}

/* No entry: a message, or what the kernel does by itself where nobody is registered. */
static enum touch touch_none(struct area *area, uint64_t page, bool is_write, uint64_t *ret_flags)
{
	struct model_memory *memory = area_memory(area);
	struct pte *pte = &area->ptes[page];
	bool is_registered = world.processes[area->process].is_registered;
	bool has_file = memory->kind != BACKING_ANON;
	struct file_page *cached = area_file_page(area, page);

	if (is_registered) {
		*ret_flags = is_write ? UFFD_PAGEFAULT_FLAG_WRITE : 0;
		if (has_file && cached->is_cached)
			*ret_flags |= UFFD_PAGEFAULT_FLAG_MINOR;
		return TOUCH_WAITS;
	}
	if (has_file && cached->is_broken)
		return TOUCH_SIGNAL;
	if (has_file && !cached->is_cached && (!area->is_private || !is_write) &&
	    !file_allocate(memory, area->first_page + page, 0))
		return TOUCH_SIGNAL;
	if (!has_file)
		*pte = (struct pte){ .kind = PTE_ZERO, .is_wp = pte->is_wp };
	else if (area->is_private && is_write)
		*pte = (struct pte){ .kind = PTE_OWN,
				     .token = cached->is_cached ? cached->token : 0 };
	else
		pte->kind = PTE_FILE;
	return TOUCH_DONE;
}

/* The entry is there and may be used. */
static void touch_present(struct area *area, uint64_t page, bool is_write, uint64_t *token)
{
	struct pte *pte = &area->ptes[page];
	struct file_page *cached = area_file_page(area, page);

	if (pte->kind == PTE_SWAP)
		pte->kind = PTE_OWN;
	if (is_write) {
		if (pte->kind == PTE_FILE && !area->is_private) {
			cached->token = *token;
			cached->is_data = true;
			return;
		}
		pte->kind = PTE_OWN; /* copied on write, or ours already */
		pte->token = *token;
		return;
	}
	if (pte->kind == PTE_FILE)
		*token = cached->token;
	else
		*token = pte->kind == PTE_OWN ? pte->token : 0;
}

enum touch memory_touch(struct area *area, uint64_t page, bool is_write, uint64_t *token,
			uint64_t *ret_flags)
{
	struct pte *pte = &area->ptes[page];
	enum touch result;

	if (!area->is_mapped[page] || is_past_end(area, page) || pte->kind == PTE_POISON)
		return TOUCH_SIGNAL;
	if (pte->kind == PTE_NONE) {
		result = touch_none(area, page, is_write, ret_flags);
		if (result != TOUCH_DONE)
			return result;
	}
	if (is_write && pte->is_wp && world.processes[area->process].is_registered) {
		if (!world.processes[area->process].is_wp_async) {
			*ret_flags = UFFD_PAGEFAULT_FLAG_WP | UFFD_PAGEFAULT_FLAG_WRITE;
			return TOUCH_WAITS;
		}
		pte->is_wp = false;
	}
	touch_present(area, page, is_write, token);
	return TOUCH_DONE;
}

void memory_zap(struct area *area, uint64_t page)
{
	struct pte *pte = &area->ptes[page];

	/* A write-protect marker stays on whatever has a file. */
	*pte = (struct pte){
		.kind = PTE_NONE,
		.is_wp = pte->is_wp && area_memory(area)->kind != BACKING_ANON,
	};
}

static void unmap_file_page(struct model_memory *memory, uint64_t page)
{
	for (unsigned int i = 0; i < N_AREAS; i++) {
		struct area *area = &world.areas[i];

		if (!area->is_used || area_memory(area) != memory || page < area->first_page ||
		    page - area->first_page >= area->n_pages)
			continue;
		if (area->ptes[page - area->first_page].kind == PTE_FILE)
			memory_zap(area, page - area->first_page);
	}
}

void memory_punch(struct model_memory *memory, uint64_t page)
{
	if (!memory->file.pages[page].is_cached)
		return;
	unmap_file_page(memory, page);
	memory->file.pages[page] = (struct file_page){};
	world.pool_free += memory->kind == BACKING_HUGETLB;
}

void memory_swap_out(struct area *area, uint64_t page)
{
	struct pte *pte = &area->ptes[page];

	if (pte->kind == PTE_OWN)
		pte->kind = PTE_SWAP;
	else if (pte->kind == PTE_FILE && area_memory(area)->kind != BACKING_HUGETLB)
		unmap_file_page(area_memory(area), area->first_page + page);
}

bool memory_poke(struct model_memory *memory, uint64_t page, uint64_t token, bool is_data)
{
	struct file_page *cached = &memory->file.pages[page];

	if (page >= memory->file.n_pages)
		return false;
	if (!cached->is_cached && !file_allocate(memory, page, token))
		return false;
	cached->token = token;
	cached->is_foreign = false;
	cached->is_broken = false;
	cached->is_data = is_data || memory->kind == BACKING_HUGETLB;
	return true;
}

void area_arm(struct area *area)
{
	area->is_armed = true;
	for (uint64_t page = 0; page < area->n_pages; page++)
		if (area->is_mapped[page])
			area->ptes[page].is_wp = area->ptes[page].kind != PTE_POISON;
}
