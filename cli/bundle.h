/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A support bundle while it grows: a folder of our own, packed by tar(1) at the end and removed.
 *
 * What cannot be had is no error: it is noted, with the reason, in the bundle itself.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/cleanup.h"

struct bundle;

/* @name: of the folder inside the archive. Return: 0 or -errno. */
int bundle_new(struct bundle **ret, const char *name);
struct bundle *bundle_free(struct bundle *bundle);
DEFINE_CLEANUP(struct bundle, bundle_free)

bool bundle_has(const struct bundle *bundle, const char *member);

/* @member: a path inside the bundle; folders are made as needed. */
void bundle_add_text(struct bundle *bundle, const char *member, const char *text);
void bundle_add_json(struct bundle *bundle, const char *member, const json_t *json);
void bundle_add_bytes(struct bundle *bundle, const char *member, const void *bytes, size_t n);

/* A copy of a file, as far as it can be read, 16 MiB at most. */
void bundle_copy(struct bundle *bundle, const char *member, const char *path);

/* Everything a command says, stderr too; it is ended after ten seconds. */
void bundle_run(struct bundle *bundle, const char *member, const char *const *command);

/* What is not in it, and why. */
void bundle_note_missing(struct bundle *bundle, const char *what, const char *reason, ...)
	__attribute__((format(printf, 3, 4)));

/* Borrowed: an array of names; an array of {what, why}. */
json_t *bundle_members(struct bundle *bundle);
json_t *bundle_missing(struct bundle *bundle);

/* @file: "-" is stdout. Return: 0, -ENOENT (no tar), -EIO (tar failed, and said why), -errno. */
int bundle_pack(struct bundle *bundle, const char *file);
