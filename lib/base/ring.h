/* SPDX-License-Identifier: MIT */
/* A ring of fixed-size entries between one producer and one consumer thread, without locks. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Embedded; fields are private to the module. */
struct ring {
	size_t entry_bytes;
	uint32_t n_entries;	    /* a power of two */
	_Atomic uint32_t n_added;   /* written by the producer */
	_Atomic uint32_t n_removed; /* written by the consumer */
	unsigned char *entries;	    /* owned */
};

/**
 * ring_init() - an empty ring of @n_entries (a power of two) entries
 *
 * Context: Any thread; allocates.
 * Return:  0 or -ENOMEM.
 */
int ring_init(struct ring *ring, uint32_t n_entries, size_t entry_bytes);
void ring_done(struct ring *ring);

/**
 * ring_add() - copy an entry in
 *
 * Context: The producer thread; does not block or allocate.
 * Return:  false if the ring is full, and then nothing happened.
 */
bool ring_add(struct ring *ring, const void *entry);

/**
 * ring_remove() - copy the oldest entry out
 *
 * Context: The consumer thread; does not block or allocate.
 * Return:  false if the ring is empty, with @ret_entry untouched.
 */
bool ring_remove(struct ring *ring, void *ret_entry);
