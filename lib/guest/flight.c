/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The flight recorder: one writer, readers in any process. */
#include "guest/flight.h"

#define TIME_BITS  48
#define KIND_BITS  8
#define PAGE_BITS  40
#define VALUE_BITS 24

static uint64_t low_bits(uint64_t value, unsigned int n_bits)
{
	return value & ((UINT64_C(1) << n_bits) - 1);
}

void flight_note(struct flight *flight, uint64_t time_ns, enum flight_kind kind, uint32_t memory,
		 uint64_t page, int64_t value)
{
	uint64_t n = atomic_load_explicit(&flight->n_written, memory_order_relaxed);
	_Atomic uint64_t *when = &flight->events[n % FLIGHT_N_EVENTS].when;
	_Atomic uint64_t *what = &flight->events[n % FLIGHT_N_EVENTS].what;

	/* no kind while it changes: who sees the new half sees that, or what comes after */
	atomic_store_explicit(when, 0, memory_order_relaxed);
	atomic_store_explicit(what,
			      low_bits(page, PAGE_BITS) | low_bits((uint64_t)value, VALUE_BITS)
								  << PAGE_BITS,
			      memory_order_release); /* pairs with acquire in flight_look() */
	atomic_store_explicit(when,
			      low_bits(time_ns / NSEC_PER_USEC, TIME_BITS) |
				      (uint64_t)kind << TIME_BITS |
				      (uint64_t)memory << (TIME_BITS + KIND_BITS),
			      memory_order_release);
	atomic_store_explicit(&flight->n_written, n + 1, memory_order_release);
}

/* One place of the ring. False: nothing, or it changed meanwhile. */
static bool flight_look(const struct flight *flight, uint64_t n, struct flight_event *ret)
{
	const _Atomic uint64_t *place = &flight->events[n % FLIGHT_N_EVENTS].when;
	uint64_t when = atomic_load_explicit(place, memory_order_acquire);
	uint64_t what = atomic_load_explicit(&flight->events[n % FLIGHT_N_EVENTS].what,
					     memory_order_acquire);

	if (when != atomic_load_explicit(place, memory_order_relaxed))
		return false;
	ret->time_us = low_bits(when, TIME_BITS);
	ret->kind = (uint8_t)(when >> TIME_BITS);
	ret->memory = (uint8_t)(when >> (TIME_BITS + KIND_BITS));
	ret->page = low_bits(what, PAGE_BITS);
	/* a sign comes along */
	ret->value = (int32_t)((int64_t)what >> PAGE_BITS);
	return ret->kind != FLIGHT_NONE;
}

bool flight_next(const struct flight *flight, struct flight_cursor *cursor,
		 struct flight_event *ret)
{
	uint64_t n_written = atomic_load_explicit(&flight->n_written, memory_order_acquire);

	if (!cursor->end)
		cursor->end = n_written;
	if (n_written > FLIGHT_N_EVENTS)
		cursor->at = max_u64(cursor->at, n_written - FLIGHT_N_EVENTS);
	while (cursor->at < cursor->end) {
		struct flight_event event;

		if (!flight_look(flight, cursor->at++, &event))
			continue;
		*ret = event;
		return true;
	}
	cursor->end = 0;
	return false;
}

const char *flight_kind_name(enum flight_kind kind)
{
	static const char *const names[] = {
		[FLIGHT_FAULT] = "fault",
		[FLIGHT_FILLED] = "filled",
		[FLIGHT_READ] = "read",
		[FLIGHT_FAILED] = "failed",
		[FLIGHT_RETRY] = "retry",
		[FLIGHT_REMOVED] = "removed",
		[FLIGHT_STALLED] = "stalled",
		[FLIGHT_POISONED] = "poisoned",
		[FLIGHT_FOREIGN] = "foreign-touch",
		[FLIGHT_STARTED] = "started",
		[FLIGHT_ADOPTED] = "adopted",
		[FLIGHT_COMPLETED] = "completed",
		[FLIGHT_GRADUATED] = "graduated",
		[FLIGHT_MAPPER_GONE] = "process-ended",
		[FLIGHT_HELD] = "held-back",
		[FLIGHT_WRITTEN] = "written",
	};

	if (kind >= sizeof(names) / sizeof(names[0]) || !names[kind])
		return "unknown";
	return names[kind];
}
