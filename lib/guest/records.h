/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Tagged records in shared memory, each replaced as a whole: what the ledger keeps beside states.
 *
 * The area has two halves; the one with the higher generation is in use. A record is appended: its
 * bytes first, its checksum, which is also the sign that it exists, last; then the older one of the
 * same tag and id is marked as dropped. If there is no room, what is alive is copied to the other
 * half, whose generation is written last. Killed at any instruction, this leaves the old or the new
 * record: of two that are alive, the later one counts.
 *
 * The area is foreign input when it is opened: no length in it is believed, and opening writes
 * nothing. What is damaged (checksum, length) is skipped and counted; the first change after that
 * copies the rest to the other half, so that new records never lie beside torn ones.
 *
 * One thread at a time; the ledger sees to that.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Embedded; private to the ledger. */
struct records {
	unsigned char *area; /* borrowed; two halves, 8-byte aligned */
	uint32_t half_bytes;
	uint32_t active;    /* index of the half in use */
	uint32_t end_bytes; /* in it, where the next record goes */
	uint64_t generation;
	unsigned int n_damaged; /* found by records_open() */
	bool is_untidy;		/* torn, damaged or doubled records: copy before the next change */
};

enum {
	_RECORDS_OK,
	RECORDS_DAMAGED, /* neither half is whole */
};

/* No records in an area that was all zero. @half_bytes: a multiple of 8. */
void records_format(struct records *records, void *area, uint32_t half_bytes);

/* Return: 0, RECORDS_DAMAGED. */
int records_open(struct records *records, void *area, uint32_t half_bytes);

/* Context: any; does not block or allocate. Return: 0, -ENOSPC with nothing changed. */
int records_put(struct records *records, uint32_t tag, uint32_t id, const void *data,
		size_t n_bytes);
void records_drop(struct records *records, uint32_t tag, uint32_t id);

/* Pointers into the area, 8-byte aligned, good until the next put or drop. Return: 0, -ENOENT. */
int records_get(const struct records *records, uint32_t tag, uint32_t id, const void **ret_data,
		size_t *ret_n_bytes);
bool records_next(const struct records *records, size_t *cursor, uint32_t *ret_tag,
		  uint32_t *ret_id, const void **ret_data, size_t *ret_n_bytes);
