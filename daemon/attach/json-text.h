/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* JSON that others send: where a text ends that comes in pieces, and its numbers. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	_JSON_TEXT_WHOLE,
	JSON_TEXT_MORE, /* a beginning, or nothing yet */
	JSON_TEXT_BAD,	/* whatever follows, this becomes no text of the kind */
};

/**
 * json_text_end() - the end of an array of objects
 * @ret_end: of a whole one: how many bytes it takes. Of a bad one: where it went wrong
 *
 * Strict about brackets, and about what stands between the objects; what is inside of them is the
 * decoder's to judge, when all is there.
 * Context: any. Return: 0, JSON_TEXT_MORE, JSON_TEXT_BAD.
 */
int json_text_end(const char *bytes, size_t n_bytes, size_t *ret_end);

/* The number of that key, if it is one and not negative. */
bool json_text_uint(const json_t *object, const char *key, uint64_t *ret);
