/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Tagged records in shared memory, whole at every instruction. */
#include "guest/records.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <xxhash.h>

#include "base/units.h"

/* Words that say what a record is; anything else is damage. */
#define STATE_ALIVE   UINT32_C(0x45564c41)
#define STATE_DROPPED UINT32_C(0x504f5244)

#define HALF_SEED     UINT64_C(0x68616c76)

struct half_head {
	uint64_t generation;
	_Atomic uint64_t checksum; /* of the generation; 0 while the half is being written */
};

struct record_head {
	_Atomic uint64_t checksum; /* from @tag to the end of the data; 0: the records end here */
	_Atomic uint32_t state;	   /* STATE_; not in the checksum, since it changes later */
	uint32_t reserved;
	uint32_t tag;
	uint32_t id;
	uint32_t n_bytes; /* of data, which follows */
	uint32_t reserved2;
};
#define SUMMED_BYTES (sizeof(struct record_head) - offsetof(struct record_head, tag))

/* What one look at a place in a half found. */
struct found {
	uint32_t tag, id, n_bytes;
	uint32_t next; /* offset of the following record */
	const unsigned char *data;
	bool is_alive;
	bool is_damaged; /* skip it; @next is as good as its length */
};

static unsigned char *half_at(const struct records *records, uint32_t half)
{
	return records->area + (size_t)half * records->half_bytes;
}

static uint64_t room_of(size_t n_bytes)
{
	return sizeof(struct record_head) + align_up(n_bytes, 8);
}

/* 0 means "not yet", so no sum is 0. */
static uint64_t sum_of(const void *bytes, size_t n_bytes, uint64_t seed)
{
	uint64_t sum = XXH3_64bits_withSeed(bytes, n_bytes, seed);

	return sum ? sum : 1;
}

/* False where the records end: nothing was ever committed here, or a length cannot be true. */
static bool look(const struct records *records, uint32_t offset, struct found *ret)
{
	struct record_head *head = (void *)(half_at(records, records->active) + offset);
	uint64_t checksum;
	uint32_t state;

	*ret = (struct found){};
	if (records->half_bytes - offset < sizeof(*head))
		return false;
	/* pairs with the release in append(), of this process or one that died */
	checksum = atomic_load_explicit(&head->checksum, memory_order_acquire);
	if (!checksum)
		return false;

	ret->tag = head->tag;
	ret->id = head->id;
	ret->n_bytes = *(volatile uint32_t *)&head->n_bytes;
	ret->data = (unsigned char *)(head + 1);
	if (ret->n_bytes > records->half_bytes - offset - sizeof(*head)) {
		ret->is_damaged = true;
		return false;
	}
	ret->next = offset + (uint32_t)room_of(ret->n_bytes);
	if (ret->next > records->half_bytes)
		ret->next = records->half_bytes;

	state = atomic_load_explicit(&head->state, memory_order_relaxed);
	ret->is_damaged = (state != STATE_ALIVE && state != STATE_DROPPED) ||
			  checksum != sum_of(&head->tag, SUMMED_BYTES + ret->n_bytes, 0);
	ret->is_alive = state == STATE_ALIVE && !ret->is_damaged;
	return true;
}

static bool is_all_zero(const unsigned char *bytes, size_t n_bytes)
{
	for (size_t i = 0; i < n_bytes; i++)
		if (bytes[i])
			return false;
	return true;
}

/* Writes a record into zeroed bytes; it exists from the last store on. */
static void append(unsigned char *to, uint32_t tag, uint32_t id, const void *data, size_t n_bytes)
{
	struct record_head *head = (void *)to;

	if (n_bytes)
		memcpy(head + 1, data, n_bytes);
	head->tag = tag;
	head->id = id;
	head->n_bytes = n_bytes;
	atomic_store_explicit(&head->state, STATE_ALIVE, memory_order_relaxed);
	/* pairs with the acquire in look(): all of the above is there before it */
	atomic_store_explicit(&head->checksum, sum_of(&head->tag, SUMMED_BYTES + n_bytes, 0),
			      memory_order_release);
}

/* Is there a later record alive with the tag and id of @found? Only after a crash between two
 * steps. */
static bool is_shadowed(const struct records *records, const struct found *found)
{
	struct found later;

	for (uint32_t offset = found->next; look(records, offset, &later); offset = later.next)
		if (later.is_alive && later.tag == found->tag && later.id == found->id)
			return true;
	return false;
}

bool records_next(const struct records *records, size_t *cursor, uint32_t *ret_tag,
		  uint32_t *ret_id, const void **ret_data, size_t *ret_n_bytes)
{
	uint32_t offset = *cursor ? *cursor : sizeof(struct half_head);
	struct found found;

	for (; look(records, offset, &found); offset = found.next) {
		if (!found.is_alive || (records->is_untidy && is_shadowed(records, &found)))
			continue;
		*cursor = found.next;
		*ret_tag = found.tag;
		*ret_id = found.id;
		*ret_data = found.data;
		*ret_n_bytes = found.n_bytes;
		return true;
	}
	return false;
}

int records_get(const struct records *records, uint32_t tag, uint32_t id, const void **ret_data,
		size_t *ret_n_bytes)
{
	size_t cursor = 0, n_bytes;
	uint32_t found_tag, found_id;
	const void *data;

	while (records_next(records, &cursor, &found_tag, &found_id, &data, &n_bytes))
		if (found_tag == tag && found_id == id) {
			*ret_data = data;
			*ret_n_bytes = n_bytes;
			return 0;
		}
	return -ENOENT;
}

/* The half counts from the last store on. */
static void half_commit(struct half_head *head, uint64_t generation)
{
	head->generation = generation;
	atomic_store_explicit(&head->checksum,
			      sum_of(&head->generation, sizeof(head->generation), HALF_SEED),
			      memory_order_release);
}

static bool half_is_whole(struct half_head *head, uint64_t *ret_generation)
{
	uint64_t checksum = atomic_load_explicit(&head->checksum, memory_order_acquire);
	uint64_t generation = head->generation;

	*ret_generation = generation;
	return checksum == sum_of(&generation, sizeof(generation), HALF_SEED);
}

void records_format(struct records *records, void *area, uint32_t half_bytes)
{
	*records = (struct records){
		.area = area,
		.half_bytes = half_bytes,
		.end_bytes = sizeof(struct half_head),
		.generation = 1,
	};
	half_commit(area, 1);
}

int records_open(struct records *records, void *area, uint32_t half_bytes)
{
	uint64_t generations[2] = {};
	bool are_whole[2];
	struct found found;
	uint32_t offset = sizeof(struct half_head);

	*records = (struct records){ .area = area, .half_bytes = half_bytes };
	for (uint32_t half = 0; half < 2; half++)
		are_whole[half] = half_is_whole((void *)half_at(records, half), &generations[half]);
	if (!are_whole[0] && !are_whole[1])
		return RECORDS_DAMAGED;

	records->active = are_whole[1] && (!are_whole[0] || generations[1] > generations[0]);
	records->generation = generations[records->active];
	for (; look(records, offset, &found); offset = found.next) {
		records->n_damaged += found.is_damaged;
		records->is_untidy |= found.is_alive && is_shadowed(records, &found);
	}
	records->n_damaged += found.is_damaged;
	records->end_bytes = offset;
	/* what a torn append left would be taken for records once a shorter one lies before it */
	records->is_untidy |= records->n_damaged ||
			      !is_all_zero(half_at(records, records->active) + offset,
					   half_bytes - offset);
	return 0;
}

/* Bytes that all living records but (@tag, @id) need. */
static uint64_t bytes_alive(const struct records *records, uint32_t tag, uint32_t id)
{
	uint32_t found_tag, found_id;
	uint64_t sum = 0;
	size_t cursor = 0, n_bytes;
	const void *data;

	while (records_next(records, &cursor, &found_tag, &found_id, &data, &n_bytes))
		if (found_tag != tag || found_id != id)
			sum += room_of(n_bytes);
	return sum;
}

/* All that is alive goes to the other half, (@tag, @id) as @data, or not at all if that is NULL. */
static int move_to_other_half(struct records *records, uint32_t tag, uint32_t id, const void *data,
			      size_t n_bytes)
{
	unsigned char *other = half_at(records, !records->active);
	uint32_t end_bytes = sizeof(struct half_head);
	uint32_t found_tag, found_id;
	size_t cursor = 0, n_found;
	const void *found;

	if (sizeof(struct half_head) + bytes_alive(records, tag, id) +
		    (data ? room_of(n_bytes) : 0) >
	    records->half_bytes)
		return -ENOSPC;

	atomic_store_explicit(&((struct half_head *)other)->checksum, 0, memory_order_relaxed);
	/* a kill after any store below must find the half not whole: keep the compiler from moving
	 * them up */
	atomic_signal_fence(memory_order_seq_cst);
	memset(other + sizeof(struct half_head), 0, records->half_bytes - sizeof(struct half_head));

	while (records_next(records, &cursor, &found_tag, &found_id, &found, &n_found)) {
		if (found_tag == tag && found_id == id)
			continue;
		append(other + end_bytes, found_tag, found_id, found, n_found);
		end_bytes += room_of(n_found);
	}
	if (data) {
		append(other + end_bytes, tag, id, data, n_bytes);
		end_bytes += room_of(n_bytes);
	}

	half_commit((struct half_head *)other, ++records->generation);
	records->active = !records->active;
	records->end_bytes = end_bytes;
	records->is_untidy = false;
	return 0;
}

/* Marks each record of the tag and id before @end as dropped. */
static void drop_before(struct records *records, uint32_t tag, uint32_t id, uint32_t end)
{
	uint32_t offset = sizeof(struct half_head);
	struct found found;

	for (; offset < end && look(records, offset, &found); offset = found.next) {
		struct record_head *head = (void *)(half_at(records, records->active) + offset);

		if (found.is_alive && found.tag == tag && found.id == id)
			atomic_store_explicit(&head->state, STATE_DROPPED, memory_order_release);
	}
}

int records_put(struct records *records, uint32_t tag, uint32_t id, const void *data,
		size_t n_bytes)
{
	uint32_t end = records->end_bytes;

	if (n_bytes > records->half_bytes)
		return -ENOSPC;
	if (records->is_untidy || room_of(n_bytes) > records->half_bytes - end)
		return move_to_other_half(records, tag, id, data ? data : "", n_bytes);

	append(half_at(records, records->active) + end, tag, id, data, n_bytes);
	drop_before(records, tag, id, end);
	records->end_bytes = end + room_of(n_bytes);
	return 0;
}

void records_drop(struct records *records, uint32_t tag, uint32_t id)
{
	/* a copy without it is smaller than what fits already */
	if (records->is_untidy)
		(void)move_to_other_half(records, tag, id, NULL, 0);
	else
		drop_before(records, tag, id, records->end_bytes);
}
