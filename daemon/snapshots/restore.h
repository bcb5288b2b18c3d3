/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A guest from disk: what serves its pages, and its devices.
 *
 * Context of all: job; they block.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "driver/driver.h"
#include "snapshots/manifest.h"

/**
 * snapshot_check_image() - is its memory what the manifest says, and the chain behind it whole
 *
 * Of version 1 there is nothing to be checked. Return: 0, or -ECANCELED with BadSnapshot, which
 * names the file.
 */
int snapshot_check_image(const char *directory, const struct snapshot_manifest *manifest,
			 struct refusal *refusal);

/* The SPEC of one of its memories. Return: owned; NULL without memory. */
char *snapshot_source(const char *directory, const struct snapshot_manifest *manifest,
		      const struct snapshot_memory *memory);

/*
 * Was a guest restored from it before, and is that somebody's mistake? @ret_text: owned warning, or
 * NULL.
 */
int snapshot_warn_of_twin(const char *directory, const struct snapshot_manifest *manifest,
			  char **ret_text);

/* A guest has been. */
void snapshot_mark_restored(const char *directory, const struct snapshot_manifest *manifest);

/**
 * snapshot_load_and_run() - the last steps of a restore
 * @is_paused:      load only, leave it paused
 * @ret_running_ns: when it ran again, CLOCK_MONOTONIC; 0 if left paused
 *
 * The memories must be served already, by other threads: loading devices touches them.
 *
 * Return: 0, or -ECANCELED with @refusal set.
 */
int snapshot_load_and_run(struct driver *driver, const char *directory, bool is_paused,
			  uint64_t *ret_running_ns, struct refusal *refusal);
