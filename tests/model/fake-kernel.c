/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The fake kernel's files, page maps, processes and clock. */
#include <errno.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "kernel/backing.h"
#include "kernel/closing.h"
#include "kernel/pagemap.h"
#include "kernel/proc-memory.h"
#include "kernel/pidfd.h"
#include "parties.h"

uint64_t clock_now_ns(void)
{
	return world.now_ns += 20;
}

/* ---- files ---- */

static struct model_memory *memory_of(int fd)
{
	for (unsigned int i = 0; i < world.n_memories; i++)
		if (world.memories[i].file.fd_of_memory == fd)
			return &world.memories[i];
	model_fail("fd %d is no file of a memory", fd);
}

int backing_find_data(int fd, uint64_t offset, uint64_t end, uint64_t *ret_offset,
		      uint64_t *ret_length_bytes)
{
	struct model_memory *memory = memory_of(fd);
	uint64_t page_bytes = memory->page_bytes;
	uint64_t n_pages = memory->file.n_pages;
	uint64_t first = offset / page_bytes;
	uint64_t last = min_u64((end + page_bytes - 1) / page_bytes, n_pages);
	uint64_t page, stop;

	*ret_length_bytes = 0;
	if (crash_point())
		return 0;
	for (page = first; page < last && !memory->file.pages[page].is_data; page++)
		;
	if (page >= last)
		return 0;
	for (stop = page; stop < last && memory->file.pages[stop].is_data; stop++)
		;
	*ret_offset = max_u64(page * page_bytes, offset);
	*ret_length_bytes = min_u64(stop * page_bytes, end) - *ret_offset;
	return 0;
}

int backing_hole_end(int fd, uint64_t offset, uint64_t end, uint64_t *ret_end)
{
	uint64_t length = 0;
	int r = backing_find_data(fd, offset, end, ret_end, &length);

	if (!length)
		*ret_end = end;
	return r;
}

int backing_length(int fd, uint64_t *ret_length_bytes)
{
	const struct model_memory *memory = memory_of(fd);

	*ret_length_bytes = memory->file.n_pages * memory->page_bytes;
	return 0;
}

int backing_has_page(int fd, uint64_t offset, bool *ret_has)
{
	uint64_t found, length = 0;
	int r = backing_find_data(fd, offset, offset + 1, &found, &length);

	*ret_has = length > 0;
	return r;
}

int backing_write(int fd, uint64_t offset, const void *bytes, uint64_t length_bytes)
{
	struct model_memory *memory = memory_of(fd);
	uint64_t page = offset / memory->page_bytes;
	uint64_t token = *(const uint64_t *)bytes;

	if (length_bytes != memory->page_bytes || offset % memory->page_bytes)
		model_fail("only whole pages are restored");
	if (crash_point())
		return 0;
	if (chance_one_in(10))
		return -ENOSPC;
	if (page >= memory->file.n_pages)
		return -EINVAL;
	trace("  backing_write(page %llu) of %#llx", page, token, 0, 0);
	if (!memory_poke(memory, page, TOKEN_TORN, true))
		return -ENOSPC;
	memory->file.pages[page].is_foreign = true;
	if (crash_point())
		return 0;
	memory_poke(memory, page, token, true);
	(void)crash_point();
	return 0;
}

/* Nobody saves pages before they are written here. */
int backing_read(int fd, uint64_t offset, void *bytes, uint64_t length_bytes)
{
	model_fail("a page was copied");
}

int proc_memory_open(int *ret_fd, pid_t pid)
{
	model_fail("a process was opened");
}

int proc_memory_peek(int fd, struct hva start, void *buffer, uint64_t length_bytes)
{
	model_fail("a page was copied");
}

/* ---- page maps ---- */

int pagemap_open(int *ret_fd, pid_t pid)
{
	*ret_fd = fake_fd(FAKE_PAGEMAP, (unsigned int)pid - 1);
	return 0;
}

int pagemap_read(int fd, struct hva start, uint64_t *ret_words, uint64_t n_words)
{
	unsigned int process = (unsigned int)(fd - FAKE_FD_FIRST) / 16;
	struct area *area;
	uint64_t page = 0;

	if (n_words != 1)
		model_fail("page maps are read a word at a time");
	if (!world.processes[process].is_alive)
		return -ESRCH;
	*ret_words = 0;
	area = area_at(process, start.v, &page);
	if (!area)
		return 0;
	switch (area->ptes[page].kind) {
	case PTE_NONE: /* a marker looks like a swap entry */
		*ret_words = area->ptes[page].is_wp ? PAGEMAP_SWAPPED : 0;
		break;
	case PTE_FILE:
	case PTE_OWN:
	case PTE_ZERO:
		*ret_words = PAGEMAP_PRESENT;
		break;
	case PTE_SWAP:
	case PTE_POISON:
		*ret_words = PAGEMAP_SWAPPED;
		break;
	}
	if (area->ptes[page].is_wp)
		*ret_words |= PAGEMAP_UFFD_WP;
	return 0;
}

int pagemap_first_used(int fd, struct hva_range range, bool *ret_is_used, struct hva *ret_first)
{
	unsigned int process = (unsigned int)(fd - FAKE_FD_FIRST) / 16;
	uint64_t end = range.start.v + range.length_bytes, page = 0;

	*ret_is_used = false;
	for (uint64_t at = range.start.v; at < end; at += 4096) {
		struct area *area = area_at(process, at, &page);

		if (!area || area->ptes[page].kind == PTE_NONE)
			continue;
		*ret_is_used = true;
		*ret_first = (struct hva){ at };
		break;
	}
	return 0;
}

bool pagemap_is_used(uint64_t word)
{
	return word & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED);
}

/* ---- processes ---- */

void closing_close(int fd)
{
	closep(&fd);
}

int pidfd_kill(int pidfd, int signal)
{
	unsigned int process = (unsigned int)(pidfd - FAKE_FD_FIRST) / 16;

	if (!crash_point() && world.processes[process].is_alive) {
		trace("  kill(%llu, %llu)", process, (uint64_t)signal, 0, 0);
		uffd_end_process(process);
	}
	return 0;
}
