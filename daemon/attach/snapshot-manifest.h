/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * manifest.json of a plain snapshot, as those who write one see it.
 *
 * Context of all: job.
 */
#pragma once

#include "attach/snapshot.h"

/* io.ufd.guest.BadSnapshot. Return: always -ECANCELED. */
int snapshot_refuse(struct refusal *refusal, const char *directory, const char *message, ...)
	__attribute__((format(printf, 3, 4)));

/* Give each memory its place in memory.raw. Return: 0, -ENOMEM, -EOVERFLOW. */
int snapshot_manifest_lay_out(struct snapshot_manifest *manifest,
			      const struct snapshot_input *inputs, size_t n_inputs);

/* @machine: consumed. Return: the text, owned by the caller; NULL if memory is short. */
char *snapshot_manifest_text(const struct snapshot_manifest *manifest, json_t *machine);

/* A file of the directory, for reading. */
int snapshot_open_file(const char *directory, const char *name, int *ret_fd,
		       struct refusal *refusal);
