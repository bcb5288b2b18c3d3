/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What Cloud Hypervisor's migration protocol looks like: version 0, spoken by 53.0 and newer. Its other
 * side need not be another Cloud Hypervisor: who keeps what it sends has a snapshot, and who sends that
 * again restores one (offload/).
 *
 *	request	  16 bytes: u16 command, 6 bytes (Start: u16 version), u64 length of the payload
 *	response  16 bytes: u16 status (1: Ok, 2: Error), 6 bytes, u64 length of the payload
 *	range	  16 bytes: u64 guest physical address, u64 length
 *
 * All integers are little-endian; every request is answered by one response. A connection beyond the first
 * begins with a u16 that says what it is for.
 *
 * Context of all: any; no I/O.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/units.h"

struct refusal;

#define CH_HEAD_BYTES	 16 /* of requests, responses and ranges */
#define CH_ROLE_BYTES	 2
#define CH_SLOT_BYTES	 4 /* what comes with the fd of a MemoryFd */
#define CH_VERSION	 0
#define CH_PAGE_BYTES	 4096
#define CH_MAX_MAPPINGS	 64
#define CH_MAX_TEXT	 (64 * MIB) /* of Config and State */
#define CH_MAX_TABLE	 (4 * MIB)  /* of Memory: a quarter of a million ranges */
#define CH_MAX_FAULT	 (GIB)	    /* of a PageFault: no page is larger */
#define CH_ADDRESS_LIMIT (UINT64_C(1) << 52)

enum ch_command {
	CH_START = 1,
	CH_CONFIG = 2,	 /* payload: JSON */
	CH_STATE = 3,	 /* payload: JSON */
	CH_MEMORY = 4,	 /* payload: ranges; the bytes of all of them follow it */
	CH_COMPLETE = 5, /* and run */
	CH_ABANDON = 6,
	CH_MEMORY_FD = 7, /* payload: u32 slot, with one fd */
	CH_COMPLETE_PAUSED = 8,
	CH_PAGE_FAULT = 9, /* payload: one range */
};

enum ch_role {
	CH_ROLE_PRECOPY = 1, /* more Memory, beside the first connection */
	CH_ROLE_FAULT = 2,   /* page faults, asked for by the receiver */
};

/* Beside 0 and -ECANCELED with io.ufd.handoff.BadMessage: only the beginning is there. */
enum { CH_MORE = 1 };

/* Readable. */
struct ch_request {
	enum ch_command command;
	uint64_t n_payload;
};
struct ch_response {
	bool is_ok;
	uint64_t n_payload;
};
struct ch_range {
	uint64_t address; /* guest physical */
	uint64_t length_bytes;
};

/* As the protocol's texts call it. */
const char *ch_command_word(enum ch_command command);

/* A version or a length that no request has is refused. */
int ch_request_read(const void *bytes, size_t n_bytes, struct ch_request *ret,
		    struct refusal *refusal);
void ch_request_write(const struct ch_request *request, uint8_t ret[static CH_HEAD_BYTES]);

int ch_response_read(const void *bytes, size_t n_bytes, struct ch_response *ret,
		     struct refusal *refusal);
void ch_response_write(const struct ch_response *response, uint8_t ret[static CH_HEAD_BYTES]);

struct ch_range ch_range_read(const uint8_t bytes[static CH_HEAD_BYTES]);
void ch_range_write(const struct ch_range *range, uint8_t ret[static CH_HEAD_BYTES]);

uint32_t ch_slot_read(const uint8_t bytes[static CH_SLOT_BYTES]);
void ch_slot_write(uint32_t slot, uint8_t ret[static CH_SLOT_BYTES]);
void ch_role_write(enum ch_role role, uint8_t ret[static CH_ROLE_BYTES]);

/* ---- where memory is ---- */

/* Readable. A piece of guest memory. Several may lie in one file, each at its own offset. */
struct ch_mapping {
	uint32_t slot;
	uint64_t address; /* guest physical */
	uint64_t length_bytes;
	uint64_t file_offset_bytes;
};
struct ch_layout {
	struct ch_mapping mappings[CH_MAX_MAPPINGS];
	size_t n_mappings;
};

/*
 * Of Config's JSON nothing but memory_manager_data.guest_ram_mappings is looked at. What has no mappings,
 * too many, or mappings that are empty, unaligned or overlap is refused.
 */
int ch_layout_read(const char *json, size_t n_json, struct ch_layout *ret, struct refusal *refusal);

/* The one that the whole range lies in, by its index; -1: none. */
int ch_layout_find(const struct ch_layout *layout, const struct ch_range *range);
int ch_layout_find_slot(const struct ch_layout *layout, uint32_t slot);
