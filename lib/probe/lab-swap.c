/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Getting pages of our own into swap, and proving that they are there. */
#include "probe/lab.h"

#include <poll.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "probe/lab-smaps.h"

#define N_SWAP_TRIES 50

/* Pages that are mapped, or in the page cache. */
static size_t count_resident(struct probe_run *run, uint8_t *at, size_t length_bytes,
			     bool is_mapped_only)
{
	size_t page_bytes = (size_t)sysconf(_SC_PAGESIZE), n = 0;

	for (size_t i = 0; i < length_bytes; i += page_bytes) {
		unsigned char is_cached = 0;

		probe_must(run, mincore(at + i, page_bytes, &is_cached) == 0, "mincore()");
		n += lab_is_present(run, at + i) || (!is_mapped_only && is_cached & 1);
	}
	return n;
}

/*
 * Is it gone from the page tables, and its bytes in swap, or (of a kernel that loses them) nowhere?
 * mincore() alone does not tell: it counts what is on its way to swap. smaps counts a page as soon as its
 * place is taken by an entry that names its slot.
 */
static bool is_out(struct probe_run *run, uint8_t *at, size_t length_bytes)
{
	if (count_resident(run, at, length_bytes, true))
		return false;
	return lab_smaps_bytes(run, at, length_bytes, "Swap") >= length_bytes ||
	       !count_resident(run, at, length_bytes, false);
}

/*
 * A page that another CPU still holds in a batch of its own, or that is being written, stays at the
 * first try; each try takes a moment of ours to let that end.
 */
void lab_swap_out(struct probe_run *run, void *at, size_t length_bytes)
{
	struct sysinfo host;

	probe_must(run, sysinfo(&host) == 0, "sysinfo()");
	if (host.freeswap == 0)
		probe_skip(run, host.totalswap ? "no swap is free" : "the host has no swap");
	for (int i = 0; i < N_SWAP_TRIES; i++) {
		if (madvise(at, length_bytes, MADV_PAGEOUT) < 0)
			probe_skip(run, "MADV_PAGEOUT is refused: %s", strerror(errno));
		if (is_out(run, at, length_bytes))
			return;
		poll(NULL, 0, 2);
	}
	probe_skip(run, "the kernel did not swap out the pages that it was to");
}
