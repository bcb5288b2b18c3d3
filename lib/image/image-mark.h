/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A note beside an image that a guest was restored from it: a second one would have the same
 * identity, addresses and random numbers to come. It is the extended attribute user.ufd.restored of
 * the file, else a file NAME.restored in its folder; the image itself is not touched. Any file will
 * do.
 *
 * Context of both: any; blocks on the file system.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/*
 * Return: 0; IMAGE_NOT_MARKED: neither is possible there (read-only, no attributes). Never anything
 * else.
 */
enum { _IMAGE_MARKED, IMAGE_NOT_MARKED };
int image_mark_restored(const char *path);

/*
 * @ret_when_s: the last time, in seconds since 1970. Return: false: never, as far as one can see.
 */
bool image_was_restored(const char *path, int64_t *ret_when_s);
