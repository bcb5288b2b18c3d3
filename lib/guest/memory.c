/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A memory: made from a config, or found again by its record in the ledger. */
#include "guest/memory.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_LENGTH_BYTES (UINT64_C(1) << 52)

/* In the ledger, layout 1. */
struct memory_record {
	uint64_t page_bytes;
	uint64_t length_bytes;
	uint64_t backing_offset;
	uint64_t source_offset;
	uint64_t states_offset;
	uint64_t device, inode;
	uint32_t kind;
	uint32_t is_backing_source;
	char name[NAME_BYTES];
};

static bool config_is_sound(const struct memory_config *config)
{
	uint64_t page_bytes = config->page_bytes;
	size_t n_name = config->name ? strnlen(config->name, NAME_BYTES) : 0;

	return n_name > 0 && n_name < NAME_BYTES && config->kind <= BACKING_PRIVATE &&
	       page_bytes >= (uint64_t)sysconf(_SC_PAGESIZE) &&
	       is_aligned(page_bytes, page_bytes) && config->length_bytes > 0 &&
	       config->length_bytes <= MAX_LENGTH_BYTES &&
	       is_aligned(config->length_bytes, page_bytes) &&
	       is_aligned(config->backing_offset, page_bytes) &&
	       config->backing_offset <= MAX_LENGTH_BYTES &&
	       config->source_offset <= MAX_LENGTH_BYTES;
}

/* All that needs no ledger. */
static int memory_alloc(struct memory **ret, uint32_t id, const struct memory_config *config)
{
	_cleanup_(memory_freep) struct memory *memory = NULL;
	struct stat stat;

	if (!config_is_sound(config) || (config->kind != BACKING_ANON) != (config->backing >= 0))
		return -EINVAL;
	memory = calloc(1, sizeof(*memory));
	if (!memory)
		return -ENOMEM;

	memory->id = id;
	memory->backing = -EBADF;
	memcpy(memory->name, config->name, strlen(config->name));
	memory->kind = config->kind;
	memory->page_bytes = config->page_bytes;
	memory->is_huge = config->page_bytes > (uint64_t)sysconf(_SC_PAGESIZE);
	memory->length_bytes = config->length_bytes;
	memory->backing_offset = config->backing_offset;
	memory->source = config->source;
	memory->source_offset = config->source_offset;
	memory->is_backing_source = config->is_backing_source;
	memory->states.n_pages = config->length_bytes / config->page_bytes;
	memory->n_absent = memory->states.n_pages;

	if (config->kind != BACKING_ANON) {
		memory->backing = fcntl(config->backing, F_DUPFD_CLOEXEC, 3);
		if (memory->backing < 0 || fstat(memory->backing, &stat) < 0)
			return -errno;
		memory->device = stat.st_dev;
		memory->inode = stat.st_ino;
	}
	*ret = TAKE_PTR(memory);
	return 0;
}

static void record_pack(struct memory_record *record, const struct memory *memory)
{
	*record = (struct memory_record){
		.page_bytes = memory->page_bytes,
		.length_bytes = memory->length_bytes,
		.backing_offset = memory->backing_offset,
		.source_offset = memory->source_offset,
		.states_offset = memory->states_offset,
		.device = memory->device,
		.inode = memory->inode,
		.kind = memory->kind,
		.is_backing_source = memory->is_backing_source,
	};
	memcpy(record->name, memory->name, sizeof(record->name));
}

/* Return: 0, -ENOENT, LEDGER_DAMAGED. */
static int record_get(const struct ledger *ledger, uint32_t id, const struct memory_record **ret)
{
	const void *data;
	size_t n_bytes;
	int r;

	r = ledger_get_record(ledger, LEDGER_MEMORY, id, &data, &n_bytes);
	if (r)
		return r;
	if (n_bytes != sizeof(**ret))
		return LEDGER_DAMAGED;
	*ret = data;
	return 0;
}

int memory_new(struct memory **ret, uint32_t id, const struct memory_config *config,
	       struct ledger *ledger)
{
	_cleanup_(memory_freep) struct memory *memory = NULL;
	struct memory_record record;
	void *words;
	int r;

	r = memory_alloc(&memory, id, config);
	if (r)
		return r;
	r = ledger_add_area(ledger, page_states_bytes(memory->states.n_pages),
			    &memory->states_offset, &words);
	if (r)
		return r;

	memory->states.words = words;
	record_pack(&record, memory);
	r = ledger_put_record(ledger, LEDGER_MEMORY, id, &record, sizeof(record));
	if (r) {
		ledger_drop_area(ledger, memory->states_offset);
		return r;
	}
	*ret = TAKE_PTR(memory);
	return 0;
}

int memory_recorded(const struct ledger *ledger, uint32_t id, struct memory_config *ret)
{
	const struct memory_record *record;
	struct memory_config config;
	int r;

	r = record_get(ledger, id, &record);
	if (r)
		return r;

	config = (struct memory_config){
		.name = record->name,
		.kind = record->kind,
		.page_bytes = record->page_bytes,
		.length_bytes = record->length_bytes,
		.backing = -EBADF,
		.backing_offset = record->backing_offset,
		.source_offset = record->source_offset,
		.is_backing_source = record->is_backing_source,
	};
	if (!config_is_sound(&config))
		return LEDGER_DAMAGED;
	*ret = config;
	return 0;
}

int memory_recorded_file(const struct ledger *ledger, uint32_t id, dev_t *ret_device,
			 ino_t *ret_inode)
{
	const struct memory_record *record;
	int r;

	r = record_get(ledger, id, &record);
	if (r)
		return r;
	*ret_device = record->device;
	*ret_inode = record->inode;
	return 0;
}

int memory_recorded_states(struct ledger *ledger, uint32_t id, struct page_states *ret,
			   uint64_t *ret_offset)
{
	const struct memory_record *record;
	uint64_t n_pages;
	void *words;
	int r;

	r = record_get(ledger, id, &record);
	if (r)
		return r;
	if (!record->page_bytes || record->length_bytes > MAX_LENGTH_BYTES)
		return LEDGER_DAMAGED;
	n_pages = record->length_bytes / record->page_bytes;
	r = ledger_map_area(ledger, record->states_offset, page_states_bytes(n_pages), &words);
	if (r)
		return r;
	*ret = (struct page_states){ .words = words, .n_pages = n_pages };
	*ret_offset = record->states_offset;
	return 0;
}

int memory_new_forgotten(struct memory **ret, uint32_t id)
{
	struct memory *memory = calloc(1, sizeof(*memory));

	if (!memory)
		return -ENOMEM;
	memory->id = id;
	memory->page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
	memory->backing = -EBADF;
	memory->is_forgotten = true;
	*ret = memory;
	return 0;
}

/* Counts. Looks only at those parts of the states that were ever written. */
static void memory_count(struct memory *memory, const struct ledger *ledger)
{
	uint64_t pages_per_byte = PAGES_PER_WORD / sizeof(uint64_t);
	uint64_t n_pages = memory->states.n_pages;
	uint64_t at = memory->states_offset;
	uint64_t end = at + page_states_bytes(n_pages);
	uint64_t length;

	for (; ledger_next_data(ledger, at, end, &at, &length); at += length) {
		uint64_t counts[PAGE_STATES];
		struct page_range range;

		range.first = (at - memory->states_offset) * pages_per_byte;
		range.count = min_u64(length * pages_per_byte, n_pages - range.first);
		page_states_count(&memory->states, range, counts);
		memory->n_absent -= counts[PAGE_PRESENT] + counts[PAGE_REMOVED];
	}
}

static int memory_adopt_poisoned(struct memory *memory, const struct ledger *ledger)
{
	const void *data;
	size_t n_bytes;

	if (ledger_get_record(ledger, LEDGER_POISON, memory->id, &data, &n_bytes))
		return 0;
	if (n_bytes > sizeof(memory->poisoned) || n_bytes % sizeof(uint64_t))
		return LEDGER_DAMAGED;
	memcpy(memory->poisoned, data, n_bytes);
	memory->n_poisoned = n_bytes / sizeof(uint64_t);
	return 0;
}

int memory_adopt(struct memory **ret, uint32_t id, const struct memory_config *config,
		 struct ledger *ledger)
{
	_cleanup_(memory_freep) struct memory *memory = NULL;
	const struct memory_record *record;
	struct memory_record expected;
	void *words;
	int r;

	r = record_get(ledger, id, &record);
	if (r)
		return r;
	r = memory_alloc(&memory, id, config);
	if (r)
		return r;

	memory->states_offset = record->states_offset;
	record_pack(&expected, memory);
	if (memcmp(&expected, record, sizeof(expected)))
		return -EINVAL;
	r = ledger_map_area(ledger, memory->states_offset,
			    page_states_bytes(memory->states.n_pages), &words);
	if (r)
		return r;

	memory->states.words = words;
	memory_count(memory, ledger);
	r = memory_adopt_poisoned(memory, ledger);
	if (r)
		return r;
	*ret = TAKE_PTR(memory);
	return 0;
}

struct memory *memory_free(struct memory *memory)
{
	if (!memory)
		return NULL;

	closep(&memory->backing);
	free(memory);
	return NULL;
}

void memory_mark_dirty(struct memory *memory, struct page_range pages)
{
	dirty_maps_mark(&memory->dirty, pages);
	/* pairs with the acquire in file_look_take() */
	atomic_fetch_add_explicit(&memory->n_marked, 1, memory_order_release);
}

int memory_add_maps(struct memory *memory, struct ledger *ledger, uint32_t slot)
{
	uint64_t n_pages = memory_n_pages(memory), offset;
	void *area;
	int r = ledger_add_area(ledger, dirty_map_bytes(n_pages), &offset, &area);

	if (r < 0)
		return r;
	dirty_maps_place(&memory->dirty, slot, area, offset, n_pages);
	return 0;
}

int memory_adopt_maps(struct memory *memory, struct ledger *ledger, uint32_t slot,
		      uint64_t area_offset)
{
	uint64_t n_pages = memory_n_pages(memory);
	void *area;
	int r = ledger_map_area(ledger, area_offset, dirty_map_bytes(n_pages), &area);

	if (r)
		return r;
	dirty_maps_place(&memory->dirty, slot, area, area_offset, n_pages);
	return 0;
}

void memory_drop_maps(struct memory *memory, struct ledger *ledger, uint32_t slot)
{
	struct dirty_map *map = &memory->dirty.maps[slot];

	if (map->pending)
		ledger_drop_area(ledger, map->area_offset);
	*map = (struct dirty_map){};
}

bool memory_add_poisoned(struct memory *memory, struct ledger *ledger, uint64_t page)
{
	if (memory_is_poisoned(memory, page))
		return true;
	if (memory->n_poisoned == MAX_POISONED)
		return false;

	memory->poisoned[memory->n_poisoned] = page;
	if (ledger_put_record(ledger, LEDGER_POISON, memory->id, memory->poisoned,
			      (memory->n_poisoned + 1) * sizeof(uint64_t)))
		return false;
	memory->n_poisoned++;
	return true;
}

bool memory_is_poisoned(const struct memory *memory, uint64_t page)
{
	for (uint32_t i = 0; i < memory->n_poisoned; i++)
		if (memory->poisoned[i] == page)
			return true;
	return false;
}
