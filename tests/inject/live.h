/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the wrapped calls gave out and nobody has given back: blocks of memory and mappings. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

/* Any thread. */
void live_add(const void *at, const void *caller);
void live_remove(const void *at);

/* Print what lives, with who asked for it, on stderr. Return: how many. */
size_t live_report(void);
