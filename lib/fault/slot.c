/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Slots: fills under way. */
#include "fault/slot.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

static uint64_t slots_map_bytes(uint64_t buffer_bytes)
{
	return (buffer_bytes + SOURCE_SPARE_BYTES) * N_SLOTS;
}

/* Buffers, and behind them what sources unpack in. */
static int slots_map(struct slots *slots, uint64_t page_bytes)
{
	uint64_t buffer_bytes = max_u64(SLOT_BYTES, page_bytes);
	uint64_t length = slots_map_bytes(buffer_bytes);
	unsigned char *buffers;

	buffers = mmap(NULL, length, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (buffers == MAP_FAILED)
		return -errno;
	/* Guest bytes are not for core dumps; the rest is best effort (RLIMIT_MEMLOCK). */
	(void)madvise(buffers, length, MADV_DONTDUMP);
	(void)mlock2(buffers, length, MLOCK_ONFAULT);

	slots->buffers = buffers;
	slots->buffer_bytes = buffer_bytes;
	for (unsigned int i = 0; i < N_SLOTS; i++) {
		slots->slots[i].buffer = buffers + i * buffer_bytes;
		slots->slots[i].spare = buffers + N_SLOTS * buffer_bytes + i * SOURCE_SPARE_BYTES;
	}
	return 0;
}

int slots_init(struct slots *slots, uint64_t page_bytes)
{
	memset(slots, 0, sizeof(*slots));
	for (unsigned int i = 0; i < N_SLOTS; i++)
		slots->free[i] = (uint8_t)(N_SLOTS - 1 - i);
	slots->n_free = N_SLOTS;
	return slots_map(slots, page_bytes);
}

void slots_done(struct slots *slots)
{
	if (slots->buffers)
		munmap(slots->buffers, slots_map_bytes(slots->buffer_bytes));
	slots->buffers = NULL;
}

int slots_grow(struct slots *slots, uint64_t page_bytes)
{
	void *old = slots->buffers;
	uint64_t old_bytes = slots->buffer_bytes;
	int r;

	if (page_bytes <= slots->buffer_bytes)
		return 0;
	if (slots->n_free != N_SLOTS)
		return -EBUSY;
	r = slots_map(slots, page_bytes);
	if (r < 0)
		return r;
	munmap(old, slots_map_bytes(old_bytes));
	return 0;
}

void slots_trim(struct slots *slots)
{
	uint64_t length = slots_map_bytes(slots->buffer_bytes);

	if (slots->n_free != N_SLOTS || !slots->is_used)
		return;
	slots->is_used = false;
	/* Locked pages cannot be given back; lock anew what is touched later. */
	(void)munlock(slots->buffers, length);
	(void)madvise(slots->buffers, length, MADV_DONTNEED);
	(void)mlock2(slots->buffers, length, MLOCK_ONFAULT);
}

struct slot *slot_take(struct slots *slots, enum slot_cause cause)
{
	struct slot *slot;
	void *buffer, *spare;

	if (slots->n_free == 0)
		return NULL;
	if (cause != CAUSE_DEMAND && slots->n_background == N_SLOTS_BACKGROUND)
		return NULL;

	slot = &slots->slots[slots->free[--slots->n_free]];
	buffer = slot->buffer;
	spare = slot->spare;
	*slot = (struct slot){
		.cause = cause, .buffer = buffer, .spare = spare, .state = SLOT_READING
	};
	slots->n_background += cause != CAUSE_DEMAND;
	slots->is_used = true;
	return slot;
}

struct slot *slot_take_index(struct slots *slots, unsigned int index)
{
	unsigned int i = 0;

	while (slots->free[i] != index)
		i++;
	assert(i < slots->n_free);
	slots->free[i] = slots->free[slots->n_free - 1];
	slots->free[slots->n_free - 1] = (uint8_t)index;
	return slot_take(slots, CAUSE_DEMAND);
}

void slot_release(struct slots *slots, struct slot *slot)
{
	assert(slot->state != SLOT_FREE);
	slots->n_waiting -= slot->state == SLOT_WAITING;
	slots->n_background -= slot->cause != CAUSE_DEMAND;
	slot->state = SLOT_FREE;
	slots->free[slots->n_free++] = (uint8_t)(slot - slots->slots);
}

void slot_wait(struct slots *slots, struct slot *slot, uint64_t retry_at_ns)
{
	slots->n_waiting += slot->state != SLOT_WAITING;
	slot->state = SLOT_WAITING;
	slot->retry_at_ns = retry_at_ns;
}
