/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* SPEC: how a source is written, in every command, file and call. */
#pragma once

#include "source/source.h"

/**
 * source_open() - a source from its SPEC
 * @spec:      `zero`, `backing`, or `file:PATH[,offset=N]`; a comma in PATH is written `,,`; N is
 *	       decimal or 0x hexadecimal, with K, M or G behind it if wanted
 * @fd:        for `file:` without a PATH: its open file, borrowed; else -1
 * @ret_error: set on failure: a text that names the file and the cause, static or the thread's own,
 *	       good until this thread's next call; may be NULL
 *
 * Context: any; opens the file, which may block. Return: 0, -EINVAL (the SPEC), -errno of the file.
 */
int source_open(struct source **ret, const char *spec, int fd, const char **ret_error);

/*
 * One that was open before: as source_open(), but for `file:` the open file @fd is always the one that
 * counts, whatever lies at the PATH by now.
 */
int source_reopen(struct source **ret, const char *spec, int fd, const char **ret_error);
