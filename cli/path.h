/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Paths that travel to the daemon, which has another working directory. */
#pragma once

#include <jansson.h>

/* @path as it is from the root on; what does not exist yet is fine. A new reference. */
json_t *path_absolute(const char *path);
