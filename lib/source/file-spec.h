/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The SPEC of a file, taken apart: `file:PATH[,offset=N]`. A comma in PATH is written `,,`; N is
 * decimal or 0x hexadecimal, with K, M or G behind it if wanted.
 *
 * Context of all: any; nothing blocks or allocates.
 */
#pragma once

#include <limits.h>
#include <stdint.h>

/* Return: what follows the PATH ("" if nothing does), in @spec; NULL if it is of another kind, or too long. */
const char *file_spec_path(const char *spec, char path[static PATH_MAX]);

/* @text: N. Return: 0, -EINVAL. */
int file_spec_number(const char *text, uint64_t *ret);
