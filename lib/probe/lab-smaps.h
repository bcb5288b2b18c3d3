/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Numbers of our own mappings, for the laboratory itself. */
#pragma once

#include "probe/lab.h"

/*
 * What smaps says under @field ("Swap") of all mappings that overlap a range, added up.
 * Context: the experiment's process, any of its threads.
 */
uint64_t lab_smaps_bytes(struct probe_run *run, const void *at, size_t length_bytes,
			 const char *field);
