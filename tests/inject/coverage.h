/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Was every call that can fail reached? The program's own code says where they are. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* Somewhere in the program: what is there; the address after a call. */
typedef bool (*coverage_is_reached)(const char *call, uint32_t address);

/**
 * coverage_report() - allocations, ioctls, mappings, threads and rings that no run has come to
 * @program:  its file
 * @unless:   functions that need not be reached here, up to a NULL
 *
 * Prints each as a TAP comment: in which function, in which file. Only code of lib/ and daemon/ counts.
 * A call in tail position leaves no address behind, and counts as reached.
 * Return: how many, or -1 if the program cannot be read (no objdump, sanitizers).
 */
int coverage_report(const char *program, coverage_is_reached is_reached, const char *const *unless);
