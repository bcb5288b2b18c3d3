/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The end of us: who would lose bytes by it is filled first, the others are left for a successor. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct registration;
struct registry;
struct store;

/* Can we end without harm to this guest, absent pages or not? Context: who has the engine's lock. */
typedef bool (*ending_may_leave_fn)(void *userdata, struct registration *registration);

/* Embedded by whoever stops. */
struct ending {
	ending_may_leave_fn may_leave;
	void *keeping; /* its userdata */
	/* On the loop, at once if there is nothing to do. @n_left guests have absent pages and may not be left. */
	void (*done)(void *userdata, size_t n_left);
	void *userdata;
	uint64_t timeout_ns; /* 0: none */
};

/* Before we stop: fill every guest that may not be left. @ending is borrowed until done. */
void ending_drain(struct registry *registry, const struct ending *ending);

/**
 * ending_leave() - leave every guest that may be left, for a successor
 *
 * After ending_drain(), when the loop has ended. What is complete and may not be left is taken down by
 * registry_free(). Return: how many have absent pages and may not be left: they are as they were.
 */
size_t ending_leave(struct registry *registry, const struct ending *ending, struct store *store);
