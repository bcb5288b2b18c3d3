/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The brackets and strings of a JSON text; its numbers. */
#include "attach/json-text.h"

#include <string.h>

#define MAX_DEPTH 32

/* What is known after each byte. */
struct scan {
	unsigned int depth;
	uint32_t objects; /* a bit a level: it is one, not an array */
	bool is_string, is_escaped;
	char last; /* at the level of the array, beside white space: `[`, `,` or `}`; 0 at first */
	bool is_whole;
};

static bool scan_string(struct scan *scan, unsigned char byte)
{
	if (byte < ' ')
		return false;
	if (scan->is_escaped)
		scan->is_escaped = false;
	else if (byte == '\\')
		scan->is_escaped = true;
	else if (byte == '"')
		scan->is_string = false;
	return true;
}

static bool scan_open(struct scan *scan, char byte)
{
	bool is_object = byte == '{';

	if (scan->depth == MAX_DEPTH || (scan->depth < 2 && is_object != (scan->depth == 1)) ||
	    (scan->depth == 1 && scan->last == '}'))
		return false;
	scan->objects &= ~(UINT32_C(1) << scan->depth);
	scan->objects |= (uint32_t)is_object << scan->depth;
	scan->depth++;
	if (scan->depth == 1)
		scan->last = byte;
	return true;
}

static bool scan_close(struct scan *scan, char byte)
{
	bool is_object = byte == '}';

	if (scan->depth == 0 || (scan->objects >> (scan->depth - 1) & 1) != is_object ||
	    (scan->depth == 1 && scan->last == ','))
		return false;
	scan->depth--;
	if (scan->depth == 1)
		scan->last = byte;
	scan->is_whole = scan->depth == 0;
	return true;
}

/* Of a level above the objects: only commas between them. */
static bool scan_between(struct scan *scan, char byte)
{
	if (scan->depth != 1 || byte != ',' || scan->last != '}')
		return false;
	scan->last = byte;
	return true;
}

static bool scan_byte(struct scan *scan, char byte)
{
	if (scan->is_string)
		return scan_string(scan, (unsigned char)byte);
	if (byte != '\0' && strchr(" \t\r\n", byte))
		return true;
	if (byte == '{' || byte == '[')
		return scan_open(scan, byte);
	if (byte == '}' || byte == ']')
		return scan_close(scan, byte);
	if (scan->depth < 2)
		return scan_between(scan, byte);
	scan->is_string = byte == '"';
	/* numbers, true, false and null */
	return byte != '\0' && strchr("\",:+-.0123456789Eaeflnrstu", byte);
}

int json_text_end(const char *bytes, size_t n_bytes, size_t *ret_end)
{
	struct scan scan = {};

	for (size_t i = 0; i < n_bytes; i++) {
		if (!scan_byte(&scan, bytes[i])) {
			*ret_end = i;
			return JSON_TEXT_BAD;
		}
		if (scan.is_whole) {
			*ret_end = i + 1;
			return 0;
		}
	}
	return JSON_TEXT_MORE;
}

bool json_text_uint(const json_t *object, const char *key, uint64_t *ret)
{
	const json_t *value = json_object_get(object, key);

	if (!json_is_integer(value) || json_integer_value(value) < 0)
		return false;
	*ret = (uint64_t)json_integer_value(value);
	return true;
}
