/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a guest's demand thread was doing, readable from outside and after its death: the flight
 * recorder (its last FLIGHT_N_EVENTS events, a ring) and the board (what it is busy with now).
 * Both lie in the ledger. Neither is ever read to decide anything about a page: they are for
 * people, so they are written with plain and relaxed stores and may be seen half-changed.
 *
 * One writer, the demand thread. Readers are other threads, and other processes that map the
 * ledger read-only (`ufdctl why` without a daemon).
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/units.h"

#define FLIGHT_N_EVENTS 4096
#define BOARD_N_FILLS	32 /* one a slot of the data plane */
#define BOARD_N_STALLS	64 /* the oldest stalled pages */

/* The numbers are part of the layout: never reused. */
enum flight_kind {
	FLIGHT_NONE,
	FLIGHT_FAULT,	 /* a fault was read; value: thread id, 0 if the kernel does not tell */
	FLIGHT_FILLED,	 /* pages became present; value: how many */
	FLIGHT_READ,	 /* bytes were asked of the source and did not come at once; value: pages */
	FLIGHT_FAILED,	 /* a read or a fill failed; value: positive errno */
	FLIGHT_RETRY,	 /* tried again; value: how often before */
	FLIGHT_REMOVED,	 /* discarded by its owner; value: pages */
	FLIGHT_STALLED,	 /* bytes cannot be had; value: positive errno */
	FLIGHT_POISONED, /* value: pages */
	FLIGHT_FOREIGN,	 /* somebody else touched an absent page */
	FLIGHT_STARTED,	 /* value: pid of the pager */
	FLIGHT_ADOPTED,	 /* from a former process; value: pid of the pager */
	FLIGHT_COMPLETED,
	FLIGHT_GRADUATED,
	FLIGHT_MAPPER_GONE, /* value: pid */
	FLIGHT_HELD,	    /* filling is held back: a memory limit is near; value: MiB left */
	FLIGHT_WRITTEN, /* protected pages are written, as a tracker wants to know; value: how many */
};

/* Readable. Unpacked. */
struct flight_event {
	uint64_t time_us; /* CLOCK_MONOTONIC */
	uint64_t page;
	int32_t value; /* 24 bits */
	uint8_t kind;
	uint8_t memory; /* id */
};

/* In the ledger; 64 KiB and a line. */
struct flight {
	_Atomic uint64_t n_written; /* ever; the next goes to this modulo FLIGHT_N_EVENTS */
	uint64_t reserved[7];
	struct {
		_Atomic uint64_t when; /* time 48 bits, kind 8, memory 8 */
		_Atomic uint64_t what; /* page 40 bits, value 24 */
	} events[FLIGHT_N_EVENTS];
};

/* Context: demand; a few nanoseconds. */
void flight_note(struct flight *flight, uint64_t time_ns, enum flight_kind kind, uint32_t memory,
		 uint64_t page, int64_t value);

/* Starts as zero. */
struct flight_cursor {
	uint64_t at;  /* the next event */
	uint64_t end; /* of this walk; 0 between two */
};

/*
 * The events from old to new, as far as there were any at the first call: a walk comes to its end
 * however fast the writer is. The next call after that begins a walk over what is new. What is
 * overwritten meanwhile is skipped. Return: false after the last.
 * Context: any, any process.
 */
bool flight_next(const struct flight *flight, struct flight_cursor *cursor,
		 struct flight_event *ret);

/* The word for a kind in output; "unknown" for one of a newer release. */
const char *flight_kind_name(enum flight_kind kind);

enum board_state { BOARD_FREE, BOARD_READING, BOARD_WAITING, BOARD_FILLING, BOARD_VERDICT };

/* In the ledger. One fill that is under way. */
struct board_fill {
	_Atomic uint64_t page; /* the first */
	_Atomic uint64_t since_us;
	_Atomic uint64_t read_us; /* when the source was asked; 0: not now */
	_Atomic uint64_t retry_at_us;
	_Atomic uint32_t n_pages;
	_Atomic uint32_t n_tries;
	_Atomic int32_t error; /* of the last try, positive errno */
	_Atomic uint8_t state; /* enum board_state; stored last */
	_Atomic uint8_t cause; /* 0 demand, 1 window, 2 background */
	_Atomic uint8_t memory;
	uint8_t reserved;
};

/* In the ledger. A page whose bytes cannot be had while somebody waits. */
struct board_stall {
	_Atomic uint64_t page;
	_Atomic uint64_t since_us; /* 0: the entry is free; stored last */
	_Atomic uint64_t retry_at_us;
	_Atomic int32_t error;
	_Atomic uint32_t memory;
};

/* In the ledger; within 4 KiB. */
struct board {
	_Atomic uint64_t beat_us; /* CLOCK_MONOTONIC of the thread's last round, asleep or not */
	_Atomic uint32_t pager_pid;
	_Atomic uint32_t is_asleep;	/* waits for something to happen: a late beat is no sign */
	_Atomic uint64_t n_parked;	/* faults that wait for a slot or for the kernel */
	_Atomic uint64_t held_since_us; /* filling is held back (FLIGHT_HELD); 0: it is not */
	uint64_t reserved[4];
	struct board_fill fills[BOARD_N_FILLS];
	struct board_stall stalls[BOARD_N_STALLS];
};
_Static_assert(sizeof(struct board) <= 4096, "the board outgrew its page");
