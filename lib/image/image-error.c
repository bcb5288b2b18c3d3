/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Why an image cannot be had. */
#include "image/image-error.h"

#include <stdarg.h>

#include "base/sentence.h"

int image_fail(const char **ret_error, int r, const char *format, ...)
{
	va_list args;

	if (!ret_error)
		return r;
	va_start(args, format);
	*ret_error = sentence_make(format, args);
	va_end(args);
	return r;
}
