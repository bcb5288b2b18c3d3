/* SPDX-License-Identifier: MIT */
/*
 * Zeros for discarded bytes.
 *
 * Theory of operation
 *
 * A daemon that comes back without its memory of the guest is told that existing pages are present
 * and all others absent. That is right for every page but those that were discarded: they do not
 * exist and must not be fetched again. Telling the new daemon after Attach would be too late, since
 * it serves faults at once; so before Attach every discarded page that does not exist gets a zero
 * page, through the userfaultfd that this process kept. Nobody else fills meanwhile. A fill is
 * atomic and never replaces a page, so what the guest wrote after the discard stays.
 *
 * "Exists already" (EEXIST) is believed only when proved: a write-protect marker and an empty pool
 * of huge pages answer the same.
 *
 * While an event of the userfaultfd is unread, fills answer EAGAIN. The only event asked for is
 * REMOVE, a discard whose thread waits for a reader that has died: it is read here and joins the
 * list. Faults that are read along with it are raised anew by a WAKE.
 */
#include "client/zeroing.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kernel/pagemap.h"
#include "kernel/proc-maps.h"
#include "kernel/uffd.h"

#define STEP_BYTES	(64 * MIB)
#define COPY_BYTES	(2 * MIB)
#define MESSAGES_A_READ 16

static int is_registered(struct hva address, bool *ret)
{
	struct proc_map_flags flags;
	int r;

	r = proc_map_flags(getpid(), address, &flags);
	if (r < 0)
		return r;
	*ret = flags.is_uffd_missing || flags.is_uffd_minor;
	return 0;
}

/* A region that was to leave anyway says nothing of the memory. Has it left? */
static int find_gone(struct client_memory *memory)
{
	bool is_ours = false;
	int r = 0;

	for (size_t i = 0; i < memory->n_regions && r == 0; i++) {
		struct region *region = &memory->regions[i];

		if (!region->is_leaving)
			continue;
		r = is_registered(region->range.start, &is_ours);
		region->is_gone = r == 0 && !is_ours;
	}
	return r;
}

/* The one that a daemon unregisters first. NULL if none is sure to be registered. */
static const struct region *first_region(const struct client_memory *memory)
{
	const struct region *first = NULL;

	for (size_t i = 0; i < memory->n_regions; i++) {
		const struct region *region = &memory->regions[i];

		if (!region->is_leaving && (!first || region->range.start.v < first->range.start.v))
			first = region;
	}
	return first;
}

/*
 * A daemon unregisters what is complete, by address and in steps: it may have died in the middle, so one
 * free end of the first region is enough.
 */
static int find_complete(struct client_memory *memory)
{
	const struct region *region = first_region(memory);
	struct hva_range range;
	bool has_first, has_last;
	int r;

	if (!region)
		return 0;
	range = region->range;
	r = is_registered(range.start, &has_first);
	if (r < 0)
		return r;
	r = is_registered(hva_add(range.start, range.length_bytes - memory->page_bytes), &has_last);
	if (r < 0)
		return r;
	memory->is_complete = !has_first || !has_last;
	return 0;
}

int zeroing_find_complete(struct ufd_client *client)
{
	for (size_t i = 0; i < client->memories.n_list; i++) {
		struct client_memory *memory = client->memories.list[i];
		int r;

		if (!memory->is_handed_over)
			continue;
		r = find_gone(memory);
		if (r == 0 && !memory->is_complete)
			r = find_complete(memory);
		if (r < 0)
			return client_fail(client, r,
					   "cannot see in /proc/self/smaps how memory %s is "
					   "registered: %s",
					   memory->name, strerrordesc_np(-r));
	}
	return 0;
}

/* A REMOVE event's range, in every memory it lies in. */
static int note_removed(struct ufd_client *client, uint64_t start, uint64_t end)
{
	for (size_t i = 0; i < client->memories.n_list; i++) {
		struct client_memory *memory = client->memories.list[i];

		for (size_t j = 0; j < memory->n_regions; j++) {
			const struct region *region = &memory->regions[j];
			uint64_t first = region->range.start.v;
			uint64_t from = max_u64(start, first);
			uint64_t to = min_u64(end, first + region->range.length_bytes);

			if (from >= to)
				continue;
			if (discards_reserve(&memory->discards) < 0)
				return -ENOMEM;
			discards_add(&memory->discards, region->offset_bytes + from - first,
				     region->offset_bytes + to - first);
		}
	}
	return 0;
}

static void wake_all(struct ufd_client *client)
{
	for (size_t i = 0; i < client->memories.n_list; i++) {
		const struct client_memory *memory = client->memories.list[i];

		for (size_t j = 0; j < memory->n_regions; j++)
			uffd_wake(client->uffd, memory->regions[j].range);
	}
}

/* Read what nobody reads any more. */
static int drain(struct ufd_client *client)
{
	struct uffd_msg messages[MESSAGES_A_READ];
	unsigned int n = MESSAGES_A_READ;
	int r = 0;

	while (n == MESSAGES_A_READ && r == 0) {
		r = uffd_read(client->uffd, messages, MESSAGES_A_READ, &n);
		for (unsigned int i = 0; i < n && r == 0; i++)
			if (messages[i].event == UFFD_EVENT_REMOVE)
				r = note_removed(client, messages[i].arg.remove.start,
						 messages[i].arg.remove.end);
	}
	wake_all(client);
	return r;
}

/* The view of the memory that shows @offset. */
static const struct region *find_region(const struct client_memory *memory, uint64_t offset)
{
	for (size_t i = 0; i < memory->n_regions; i++) {
		const struct region *region = &memory->regions[i];

		if (!region->is_gone && region->offset_bytes <= offset &&
		    offset - region->offset_bytes < region->range.length_bytes)
			return region;
	}
	return NULL;
}

static int has_page(const struct ufd_client *client, const struct client_memory *memory,
		    struct hva address, uint64_t offset, bool *ret)
{
	struct hva_range page = { address, memory->page_bytes };
	struct hva first;

	if (memory->kind == BACKING_SHMEM || memory->kind == BACKING_HUGETLB)
		return backing_has_page(memory->backing, offset, ret);
	return pagemap_first_used(client->pagemap, page, ret, &first);
}

static int copy_zeros(const struct ufd_client *client, struct hva_range range, uint64_t piece_bytes,
		      uint64_t *ret_done)
{
	uint64_t done = 0;
	void *zeros;
	int r = 0;

	zeros = mmap(NULL, piece_bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
		     0);
	if (zeros == MAP_FAILED)
		return -errno;
	while (done < range.length_bytes && r == 0) {
		uint64_t n = 0;

		r = uffd_copy(client->uffd, hva_add(range.start, done), zeros,
			      min_u64(piece_bytes, range.length_bytes - done), 0, &n);
		done += n;
	}
	munmap(zeros, piece_bytes);
	*ret_done = done;
	return r;
}

/* Zeros at @range until all is done or an outcome of enum uffd_outcome stops it. */
static int fill_zeros(const struct ufd_client *client, const struct client_memory *memory,
		      struct hva_range range, uint64_t *ret_done)
{
	if (memory->kind == BACKING_ANON && memory->page_bytes == (uint64_t)sysconf(_SC_PAGESIZE))
		return uffd_zeropage(client->uffd, range, 0, ret_done);
	return copy_zeros(client, range, max_u64(COPY_BYTES, memory->page_bytes), ret_done);
}

/* The kernel says that the page at @address exists. Return: 0 if it does now, -errno. */
static int settle_present(const struct ufd_client *client, const struct client_memory *memory,
			  struct hva address, uint64_t offset)
{
	struct hva_range page = { address, memory->page_bytes };
	uint64_t done;
	bool has = false;
	int r;

	r = has_page(client, memory, address, offset, &has);
	if (r < 0 || has)
		return r;
	/* A marker: a copy, unlike a zero page, takes its place. */
	r = copy_zeros(client, page, memory->page_bytes, &done);
	if (r <= 0)
		return r;
	r = has_page(client, memory, address, offset, &has);
	if (r < 0)
		return r;
	return has ? 0 : -ENOSPC;
}

/* The kernel says that @address is not registered: then the memory was complete. Return: 0 or -errno. */
static int settle_unregistered(struct client_memory *memory, struct hva address)
{
	bool is_ours = true;
	int r;

	r = is_registered(address, &is_ours);
	if (r == 0 && is_ours)
		return -EIO;
	memory->is_complete = r == 0;
	return r;
}

/* Does the file end before @offset? The kernel says so, too, when it cannot read the zeros. */
static bool is_cut(const struct client_memory *memory, uint64_t offset)
{
	uint64_t length_bytes;

	return memory->kind != BACKING_ANON &&
	       backing_length(memory->backing, &length_bytes) == 0 && offset >= length_bytes;
}

/*
 * Zeros for the next part of [offset, offset + length), which lies in @region.
 * @ret_done: how far it got. Return: 0 or -errno (-EAGAIN: an event was read, go on later).
 */
static int zero_region(struct ufd_client *client, struct client_memory *memory,
		       const struct region *region, uint64_t offset, uint64_t length,
		       uint64_t *ret_done)
{
	struct hva start = hva_add(region->range.start, offset - region->offset_bytes);
	uint64_t done = 0;
	int r;

	r = fill_zeros(client, memory, (struct hva_range){ start, length }, &done);
	*ret_done = done;
	switch (r) {
	case UFFD_PRESENT:
		r = settle_present(client, memory, hva_add(start, done), offset + done);
		*ret_done = done + (r == 0 ? memory->page_bytes : 0);
		return r;
	case UFFD_CHANGING:
		r = drain(client);
		return r < 0 ? r : -EAGAIN;
	case UFFD_UNMAPPED:
		return settle_unregistered(memory, hva_add(start, done));
	case UFFD_PAST_END:
		if (!is_cut(memory, offset + done))
			return -EIO;
		*ret_done = length; /* there is no byte to be zero */
		return 0;
	case UFFD_NO_MEMORY:
		return -ENOMEM;
	default:
		return r > 0 ? -EIO : r;
	}
}

/* The last range of a memory's list, shortened from its front. Return: 0 or -errno. */
static int zero_last_range(struct ufd_client *client, struct client_memory *memory,
			   uint64_t *budget_bytes)
{
	struct discards *discards = &memory->discards;
	struct discard *last = &discards->ranges[discards->n_ranges - 1];
	const struct region *region = find_region(memory, last->start);
	uint64_t length, done = memory->page_bytes;
	int r = 0;

	if (region) { /* else nobody here can see this page */
		length = region->offset_bytes + region->range.length_bytes - last->start;
		length = min_u64(min_u64(length, last->end - last->start), *budget_bytes);
		r = zero_region(client, memory, region, last->start,
				max_u64(align_down(length, memory->page_bytes), memory->page_bytes),
				&done);
	}
	/* An event that was read may have moved the list. */
	if (r == -EAGAIN)
		return r;
	last->start += done;
	if (last->start >= last->end)
		discards->n_ranges--;
	*budget_bytes -= min_u64(*budget_bytes, max_u64(done, memory->page_bytes));
	return r;
}

int zeroing_step(struct ufd_client *client)
{
	uint64_t budget_bytes = STEP_BYTES;

	for (size_t i = 0; i < client->memories.n_list; i++) {
		struct client_memory *memory = client->memories.list[i];

		while (memory->discards.n_ranges > 0 && !memory->is_complete) {
			int r;

			if (budget_bytes == 0)
				return ZEROING_MORE;
			r = zero_last_range(client, memory, &budget_bytes);
			if (r == -EAGAIN)
				return ZEROING_MORE;
			if (r < 0)
				return client_fail(client, r,
						   "cannot give discarded bytes of memory %s zero "
						   "pages: %s",
						   memory->name, strerrordesc_np(-r));
		}
	}
	return 0;
}
