/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A guest as its ledger shows it, to somebody who looks from outside while its pager runs, is
 * stopped, or is gone. Everything is copied or mapped read-only; nothing is believed further than
 * its own borders.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/cleanup.h"
#include "guest/flight.h"
#include "guest/guest.h"
#include "guest/ledger.h"
#include "guest/roster.h"
#include "source/source.h"

#define VIEW_SPEC_BYTES 4200

/* Readable. Of a memory that is there; @name "" elsewhere. */
struct view_memory {
	char name[NAME_BYTES];
	enum backing_kind kind;
	uint64_t page_bytes;
	uint64_t n_pages;
	uint64_t source_offset;
	bool is_backing_source;
	uint64_t counts[PAGE_STATES];
	struct page_states states; /* no words if they could not be mapped */
	uint64_t poisoned[MAX_POISONED];
	uint32_t n_poisoned;
	char spec[VIEW_SPEC_BYTES]; /* "" if the ledger does not say */
	uint64_t spec_offset;	    /* the SPEC's own */
	bool has_file;
	struct source_identity file; /* the source's, as it was when it was opened */
};

/* Readable. */
struct view_settings {
	bool is_known;
	bool is_graduated;
	uint32_t policy; /* enum ufd_policy */
	uint64_t deadline_ns;
	bool has_background;
	uint64_t background_rate;
};

/* Readable. */
struct ledger_view {
	const char *name; /* in the ledger */
	const struct board *board;
	const struct flight *flight;
	const struct ledger_messages *messages;
	struct recorded_mapper mappers[MAX_MAPPERS];
	uint32_t n_mappers;
	struct view_memory memories[MAX_MEMORIES];
	struct recorded_mapping mappings[MAX_MAPPINGS];
	uint32_t n_mappings;
	struct view_settings settings;
	unsigned int n_damaged; /* records */
};

/* @ledger: borrowed, for as long as the view lives. Return: 0 or -ENOMEM. */
int ledger_view_new(struct ledger_view **ret, struct ledger *ledger);
struct ledger_view *ledger_view_free(struct ledger_view *view);
DEFINE_CLEANUP(struct ledger_view, ledger_view_free)

/* Is @pid, alive or dead, one of the processes of this ledger's guest? */
bool ledger_has_pid(const struct ledger *ledger, pid_t pid);

/* What lies at an address of a mapper. Return: false if it is none of ours. */
bool ledger_view_find(const struct ledger_view *view, uint32_t mapper, uint64_t address,
		      uint32_t *ret_memory, uint64_t *ret_page);

/* Where a mapper shows a page. Return: false if it does not. */
bool ledger_view_address(const struct ledger_view *view, uint32_t mapper, uint32_t memory,
			 uint64_t page, uint64_t *ret_address);

/* The state of a page; absent if that could not be read. */
enum page_state ledger_view_state(const struct ledger_view *view, uint32_t memory, uint64_t page);

bool ledger_view_is_poisoned(const struct ledger_view *view, uint32_t memory, uint64_t page);

/* Is anything not there yet? */
bool ledger_view_is_complete(const struct ledger_view *view);
