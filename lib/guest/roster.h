/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The roster: who maps what, as records of the ledger. A mapper has one record; mappings share one for
 * each ROSTER_CHUNK places, and a place is theirs for life.
 *
 *	stage	 | what the kernel may have		| leaves by
 *	---------+--------------------------------------+--------------------------------------
 *	arriving | nothing, or a registration of which	| absence proved -> open
 *		 | nobody was told			| refused -> free
 *	open	 | a registration, and pages of ours	| to be removed -> leaving
 *	leaving	 | a registration, whole or in part	| unregistered, heard out -> free
 *
 * A stage is written before the kernel is asked for what it allows. So what a successor finds arriving
 * or leaving it unregisters and wakes, and what is open it serves. To hear out is to apply every message that
 * came before the end of the registration: discards count in all mappings of a memory.
 *
 * The ledger is foreign input: numbers and lengths that are read here are checked against each other
 * by whoever adopts (pager/adopt.c), not here.
 *
 * Context of all: any, one thread at a time (the model's lock); do not block or allocate.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/units.h"
#include "guest/mapping.h"

#define ROSTER_CHUNK 32

struct guest_view;
struct ledger;

/* Readable. */
struct recorded_mapper {
	pid_t pid;
	uint64_t
		start_ticks; /* of the process, as in /proc/PID/stat: a pid may come again, these not */
	uint64_t features; /* of its uffd */
	bool has_pagemap;  /* the owner passed one */
};

/* Readable. */
struct recorded_mapping {
	uint32_t place;
	uint32_t mapper, memory; /* ids */
	enum mapping_stage stage;
	struct hva_range range;
	uint64_t offset_bytes;
};

/* Return: 0, -ENOSPC. */
int roster_put_mapper(struct ledger *ledger, uint32_t id, const struct recorded_mapper *mapper);

/* Return: 0, -ENOENT, LEDGER_DAMAGED. */
int roster_get_mapper(const struct ledger *ledger, uint32_t id, struct recorded_mapper *ret);

/* A place that no mapping of @view has. Return: 0, GUEST_FULL. */
int roster_find_place(const struct guest_view *view, uint32_t *ret_place);

/* Write the mappings of @view that share a record with @place. Return: 0, -ENOSPC. */
int roster_put(struct ledger *ledger, const struct guest_view *view, uint32_t place);

/**
 * roster_next() - each recorded mapping in turn
 * @cursor: starts at 0
 *
 * Return: 0, -ENOENT after the last, LEDGER_DAMAGED.
 */
int roster_next(const struct ledger *ledger, uint32_t *cursor, struct recorded_mapping *ret);
