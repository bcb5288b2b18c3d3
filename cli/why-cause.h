/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Finding causes: what the files that do it share. */
#pragma once

#include "why.h"

/* A new cause, with its sentence; NULL when there are too many. */
struct why_cause *why_add(struct why *why, const char *word, enum why_sureness sureness,
			  const char *sentence, ...) __attribute__((format(printf, 4, 5)));
/* @cause: may be NULL. */
void why_remedy(struct why_cause *cause, const char *after, const char *command, ...)
	__attribute__((format(printf, 3, 4)));

/* why-ours.c: of the page that waits longest. Return: true if it is stuck, whatever the pager does. */
bool why_find_page_causes(struct why *why);
/* Does somebody wait for us? */
bool why_has_waiters(const struct why *why);
/* Is there something to fill, and no memory it may go to? */
bool why_is_filling_held(const struct why *why);

/* Does the pager run, as far as we see? */
bool why_is_pager_well(const struct why *why);
const struct view_memory *why_memory(const struct why *why, const struct why_page *page);
void why_describe_page(const struct why *why, const struct why_page *page, char *ret, size_t n_ret);
double why_seconds_since(const struct why *why, uint64_t us);

/* why-source.c: of a page that stalled, and of one that is being read. Return: true if the source is
 * why. */
bool why_find_failing_source(struct why *why, const struct why_page *page);
bool why_find_slow_source(struct why *why, const struct why_page *page);

/* why-pager.c */
void why_find_pager_cause(struct why *why);
