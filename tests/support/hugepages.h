/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Huge pages for tests: taken from the host, and given back whatever becomes of the test. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define HUGE_BYTES (UINT64_C(2) << 20)

/**
 * hugepages_reserve() - raise the pool of 2 MiB pages by @n for this program's life
 *
 * A process of its own gives them back when this program ends, even by SIGKILL. Programs that do so
 * at the same time do not disturb each other. To be called in main(), before unit_run(), once.
 *
 * Return: false if the host has no such pages, or not so many, or we may not ask.
 */
bool hugepages_reserve(unsigned int n);

/* What hugepages_reserve() said, known to the forked tests too. */
bool hugepages_are_reserved(void);
