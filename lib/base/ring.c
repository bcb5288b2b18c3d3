/* SPDX-License-Identifier: MIT */
/* A ring between one producer and one consumer. */
#include "base/ring.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

int ring_init(struct ring *ring, uint32_t n_entries, size_t entry_bytes)
{
	assert(n_entries && (n_entries & (n_entries - 1)) == 0);

	*ring = (struct ring){ .entry_bytes = entry_bytes, .n_entries = n_entries };
	ring->entries = calloc(n_entries, entry_bytes);
	return ring->entries ? 0 : -ENOMEM;
}

void ring_done(struct ring *ring)
{
	free(ring->entries);
	ring->entries = NULL;
}

static void *ring_slot(struct ring *ring, uint32_t index)
{
	return ring->entries + (size_t)(index & (ring->n_entries - 1)) * ring->entry_bytes;
}

bool ring_add(struct ring *ring, const void *entry)
{
	uint32_t n_added = atomic_load_explicit(&ring->n_added, memory_order_relaxed);
	/* pairs with release in ring_remove() */
	uint32_t n_removed = atomic_load_explicit(&ring->n_removed, memory_order_acquire);

	if (n_added - n_removed == ring->n_entries)
		return false;

	memcpy(ring_slot(ring, n_added), entry, ring->entry_bytes);
	/* pairs with acquire in ring_remove() */
	atomic_store_explicit(&ring->n_added, n_added + 1, memory_order_release);
	return true;
}

bool ring_remove(struct ring *ring, void *ret_entry)
{
	uint32_t n_removed = atomic_load_explicit(&ring->n_removed, memory_order_relaxed);
	/* pairs with release in ring_add() */
	uint32_t n_added = atomic_load_explicit(&ring->n_added, memory_order_acquire);

	if (n_added == n_removed)
		return false;

	memcpy(ret_entry, ring_slot(ring, n_removed), ring->entry_bytes);
	/* pairs with acquire in ring_add() */
	atomic_store_explicit(&ring->n_removed, n_removed + 1, memory_order_release);
	return true;
}
