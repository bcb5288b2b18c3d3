/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The VM that is served. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/cleanup.h"

struct frontend_offer;
struct refusal;
struct visitor;
struct vm;

/* Readable. What the user asked for. */
struct vm_options {
	int file; /* of the memory; borrowed */
	bool has_no_background;
};

/**
 * vm_start() - take over what @visitor offers, and serve
 *
 * After a failure nothing is unregistered: the VM waits, and reads nothing wrong.
 * Context: blocks for moments. Return: 0, or -ECANCELED with @refusal set.
 */
int vm_start(struct vm **ret, const struct vm_options *options, const struct visitor *visitor,
	     const struct frontend_offer *offer, struct refusal *refusal);

/* Stops serving, and leaves a VM that lives as it is: whatever is absent, it waits for. Return: NULL. */
struct vm *vm_free(struct vm *vm);
DEFINE_CLEANUP(struct vm, vm_free)

/* Both are readable when there is something to do: the latter means that the VM has ended. */
int vm_events_fd(const struct vm *vm);
int vm_pidfd(const struct vm *vm);

/* Say what has happened. */
void vm_dispatch(struct vm *vm);

/*
 * Fill what is absent, so that the VM needs nobody any more. Return: 0 when it does not, VM_FILLING
 * when @timeout_ns have passed, -ESRCH if it has ended.
 */
enum { VM_FILLING = 1 };
int vm_finish(struct vm *vm, uint64_t timeout_ns);

/* The sentences at its end. */
void vm_say_counts(const struct vm *vm);
