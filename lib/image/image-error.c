/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Why an image cannot be had. */
#include "image/image-error.h"

#include <limits.h>
#include <stdarg.h>
#include <stdio.h>

static _Thread_local char texts[2][2 * PATH_MAX + 512];
static _Thread_local unsigned int next_text;

int image_fail(const char **ret_error, int r, const char *format, ...)
{
	char *text = texts[next_text]; /* the one before may be among the arguments */
	va_list args;

	next_text ^= 1;
	va_start(args, format);
	vsnprintf(text, sizeof(texts[0]), format, args);
	va_end(args);
	if (ret_error)
		*ret_error = text;
	return r;
}
