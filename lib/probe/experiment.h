/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What an experiment says of itself.
 *
 * An experiment runs in its own process and ends by returning, or by one of the calls that do not
 * return. It says one answer: a short word that the table's `wanted` and `known` are compared with
 * ("kept", "EEXIST", "0x13c"). It frees nothing: its process ends.
 *
 * Context: the experiment's process; probe_step() any of its threads.
 */
#pragma once

#include <errno.h>
#include <string.h>

#include "probe/probe.h"

#define PROBE_PRINTF(f, a) __attribute__((format(printf, f, a)))

/* The answer; the last one counts. At most 63 characters. */
void probe_answer(struct probe_run *run, const char *format, ...) PROBE_PRINTF(2, 3);

/* What was seen beyond the answer, for people: a sentence of at most 250 characters. */
void probe_detail(struct probe_run *run, const char *format, ...) PROBE_PRINTF(2, 3);

/* A line for --verbose: what is being done, what value came back. */
void probe_step(struct probe_run *run, const char *format, ...) PROBE_PRINTF(2, 3);

/* It cannot be tried here, and why: "no huge page is free". Exits the process. */
_Noreturn void probe_skip(struct probe_run *run, const char *format, ...) PROBE_PRINTF(2, 3);

/* The experiment itself broke: what should have worked did not. Exits the process. */
_Noreturn void probe_break(struct probe_run *run, const char *format, ...) PROBE_PRINTF(2, 3);

/* What the experiment stands on. @what: "mmap of 64 KiB". errno is told with it. */
#define probe_must(run, condition, what)                                                         \
	do {                                                                                     \
		if (!(condition))                                                                \
			probe_break(run, "%s did not work (%s), in %s()", what, strerror(errno), \
				    __func__);                                                   \
	} while (0)

/* "EEXIST" for -EEXIST or EEXIST, "ok" for 0. Static. */
const char *probe_errno(int error);
