/* SPDX-License-Identifier: MIT */
/* Option structs that grow. */
#include "base/opts.h"

#include <errno.h>
#include <string.h>

int opts_load(void *known, size_t n_known, const void *given)
{
	const unsigned char *bytes = given;
	size_t n_given;

	memset(known, 0, n_known);
	if (!given)
		return 0;

	memcpy(&n_given, given, sizeof(n_given));
	if (n_given < sizeof(n_given))
		return -EINVAL;

	for (size_t i = n_known; i < n_given; i++)
		if (bytes[i])
			return -E2BIG;

	memcpy(known, given, n_given < n_known ? n_given : n_known);
	return 0;
}
