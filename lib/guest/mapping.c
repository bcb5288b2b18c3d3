/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A mapping: between addresses in one process and pages of a memory. */
#include "guest/mapping.h"

#include <assert.h>

#include "guest/memory.h"

/* Page sizes are powers of two, and a shift is an order of magnitude cheaper than a division. */
static unsigned int page_shift(const struct mapping *mapping)
{
	return __builtin_ctzll(mapping->memory->page_bytes);
}

uint64_t mapping_page(const struct mapping *mapping, struct hva address)
{
	assert(address.v - mapping->range.start.v < mapping->range.length_bytes);

	return (mapping->offset_bytes + (address.v - mapping->range.start.v)) >>
	       page_shift(mapping);
}

struct hva mapping_address(const struct mapping *mapping, uint64_t page)
{
	assert(mapping_shows(mapping, page));

	return hva_add(mapping->range.start, (page << page_shift(mapping)) - mapping->offset_bytes);
}

bool mapping_shows(const struct mapping *mapping, uint64_t page)
{
	struct page_range shown = mapping_pages(mapping);

	return page - shown.first < shown.count;
}

struct page_range mapping_pages(const struct mapping *mapping)
{
	return (struct page_range){ mapping->offset_bytes >> page_shift(mapping),
				    mapping->range.length_bytes >> page_shift(mapping) };
}

struct page_range mapping_clip(const struct mapping *mapping, struct page_range pages)
{
	struct page_range shown = mapping_pages(mapping);
	uint64_t first = max_u64(shown.first, pages.first);
	uint64_t end = min_u64(shown.first + shown.count, pages.first + pages.count);

	return (struct page_range){ first, end > first ? end - first : 0 };
}
