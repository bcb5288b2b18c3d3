/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The bytes of a memory that is saved, and whether they are in what was made of it. */
#pragma once

#include <stdint.h>

struct ram;

/*
 * Of each page a half that no codec makes smaller, and a half of numbers that go up by small steps, as tables and lists of
 * pointers do. No page is zero, no two are the same.
 */
void saved_bytes_fill(const struct ram *ram);

/* One difference ends the program. @file: an image; a plain copy. */
void saved_bytes_check_image(const struct ram *ram, int file, const char *arm);
void saved_bytes_check(const struct ram *ram, const void *copy, const char *arm);
