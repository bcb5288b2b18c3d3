/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The SPEC of a file, taken apart. */
#include "source/file-spec.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define MAX_OFFSET (UINT64_C(1) << 52)

const char *file_spec_path(const char *spec, char path[static PATH_MAX])
{
	const char *rest = spec + strlen("file:");
	size_t n = 0;

	if (strncmp(spec, "file:", strlen("file:")))
		return NULL;
	for (; *rest && (rest[0] != ',' || rest[1] == ','); rest++) {
		if (n == PATH_MAX - 1)
			return NULL;
		path[n++] = *rest;
		if (rest[0] == ',')
			rest++;
	}
	path[n] = '\0';
	return rest;
}

int file_spec_number(const char *text, uint64_t *ret)
{
	const char *units = "KMG", *unit;
	bool is_hex = text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
	unsigned int shift = 0;
	uint64_t number;
	char *end;

	/* strtoull() would take a sign and blanks, too */
	if (text[0] < '0' || text[0] > '9')
		return -EINVAL;
	errno = 0;
	number = strtoull(text, &end, is_hex ? 16 : 10);
	if (errno)
		return -EINVAL;
	if (*end) {
		unit = strchr(units, *end);
		if (!unit || end[1])
			return -EINVAL;
		shift = 10 * (unit - units + 1);
	}
	if (number > MAX_OFFSET >> shift)
		return -EINVAL;
	number <<= shift;
	*ret = number;
	return 0;
}
