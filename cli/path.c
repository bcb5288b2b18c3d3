/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Paths that travel to the daemon. */
#include "path.h"

#include <limits.h>
#include <stdio.h>
#include <unistd.h>

json_t *path_absolute(const char *path)
{
	char here[PATH_MAX], whole[2 * PATH_MAX];

	if (path[0] == '/' || !getcwd(here, sizeof(here)))
		return json_string(path);
	snprintf(whole, sizeof(whole), "%s/%s", here, path);
	return json_string(whole);
}
