/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The kinds of sources, by their SPECs: those of lib/source, and those of rooms above it. */
#pragma once

#include "source/source.h"

/* As source_open() and source_reopen(), of any kind. */
int kinds_source_open(struct source **ret, const char *spec, int fd, const char **ret_error);
int kinds_source_reopen(struct source **ret, const char *spec, int fd, const char **ret_error);
