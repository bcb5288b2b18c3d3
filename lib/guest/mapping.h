/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A mapping: one process's view of a memory. A mapper: that process, with its uffd.
 *
 * Context of all: any.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/units.h"

struct memory;

#define MAX_MAPPERS  8
#define MAX_MAPPINGS 1024

/* How far it has come; what each means for a successor: guest/roster.h. Never 0. */
enum mapping_stage {
	MAPPING_ARRIVING = 1,
	MAPPING_OPEN,
	MAPPING_LEAVING,
};

/* Embedded in the guest; readable above. */
struct mapper {
	uint32_t id; /* index in its guest */
	pid_t pid;
	int uffd;    /* owned; -EBADF once the process has ended */
	int pidfd;   /* owned */
	int pagemap; /* owned, or -EBADF until somebody needs it */
	uint64_t features;
	uint64_t start_ticks; /* of the process: see guest/roster.h */
	bool has_own_pagemap; /* the owner passed it: it cannot be opened again */
	_Atomic bool is_gone; /* the process ended; by demand */
};

/* Readable above. Immutable while it is in a table, but for @is_open and @stage. */
struct mapping {
	struct mapper *mapper;
	struct memory *memory;
	struct hva_range range;
	uint64_t offset_bytes;	  /* in the memory, of the range's start */
	bool is_open;		  /* false: faults wait until absence is proved; by demand */
	enum mapping_stage stage; /* as recorded; by who adds and removes */
	uint32_t place;		  /* in the roster */
};

/* The page of the memory that @address (inside the range) shows. */
uint64_t mapping_page(const struct mapping *mapping, struct hva address);

/* Where the mapping shows the memory's page @page; only if mapping_shows(). */
struct hva mapping_address(const struct mapping *mapping, uint64_t page);
bool mapping_shows(const struct mapping *mapping, uint64_t page);

/* All that the mapping shows, and the part of @pages that it shows; count 0 if none. */
struct page_range mapping_pages(const struct mapping *mapping);
struct page_range mapping_clip(const struct mapping *mapping, struct page_range pages);
