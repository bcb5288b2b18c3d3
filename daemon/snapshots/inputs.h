/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The memories that a save copies. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "snapshot/view.h"

struct refusal;
struct registration;

/* Readable. Offsets of the view are the file's, or those of whoever attached the memory. */
struct snapshot_input {
	struct memory_view view; /* owned; its name is the one in images */
	bool is_guests; /* a memory of the guest that is named; else of the process only, and untracked */
	bool is_layered; /* the parent has it: what is not dirty is there */
	uint32_t image_memory;
};

/* Readable. Zero is empty. */
struct snapshot_inputs {
	struct snapshot_input *inputs; /* owned */
	size_t n_inputs;
	struct guest_views *guests; /* owned; what is left of them keeps the states mapped */
	size_t n_guests;
};

void snapshot_inputs_done(struct snapshot_inputs *inputs);

/*
 * What a guest pages, and no more: nobody's devices belong to it. Context: job, without the lock.
 * Return: 0, -ECANCELED.
 */
int snapshot_inputs_of_guest(struct snapshot_inputs *ret, struct registration *guest,
			     struct refusal *refusal);

/**
 * snapshot_inputs_of_process() - every shared memory of a VMM
 * @guest:         the one that is named; may be NULL
 * @registrations: all whose memories may be among them
 *
 * Context: job, without the lock; reads /proc. Return: as above.
 */
int snapshot_inputs_of_process(struct snapshot_inputs *ret, pid_t pid, struct registration *guest,
			       struct registration **registrations, size_t n_registrations,
			       struct refusal *refusal);

/* Are the memories of @guest still those? Context: as above. */
bool snapshot_inputs_are_current(const struct snapshot_inputs *inputs, struct registration *guest);

/* Their names are in the guest's ledger from now on. */
void snapshot_inputs_keep_names(const struct snapshot_inputs *inputs, struct registration *guest);
