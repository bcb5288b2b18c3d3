/* SPDX-License-Identifier: MIT */
/* Option structs that grow: the first field is their size, zero is every default. */
#pragma once

#include <stddef.h>

/**
 * opts_load() - read an option struct of any age
 * @known:   our struct, overwritten; its first field is its size
 * @n_known: sizeof of it
 * @given:   the caller's struct, or NULL for the defaults
 *
 * Context: Any thread; does not block.
 * Return:  0, -EINVAL if the size cannot be one, -E2BIG for a setting we do not know.
 */
int opts_load(void *known, size_t n_known, const void *given);
