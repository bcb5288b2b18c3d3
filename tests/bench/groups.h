/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which rows there are. */
#pragma once

#include <stdbool.h>

#include "row.h"

#define MAX_ROWS       96

#define GROUP_FAULT    "fault"
#define GROUP_RESTORE  "restore"
#define GROUP_DIRTY    "dirty"
#define GROUP_SNAPSHOT "snapshot"
#define GROUP_HANDOFF  "handoff"

/* The largest memory of any row, and so the size of the saved one. */
uint64_t groups_image_bytes(bool is_quick);

/* Huge pages that rows of hugetlbfs need: those that hold the bytes already, and those to fill. */
#define GROUPS_HUGE_PAGES 96

/* Readable. */
struct rows {
	unsigned int n;
	struct row rows[MAX_ROWS];
};

/* One more; its arms are the caller's to set. */
struct row *groups_add(struct rows *rows, const char *group, bool is_same_cpu, const char *name,
		       ...) __attribute__((format(printf, 4, 5)));

/* Target and gate; 0: none. @is_at_least: both are lower bounds. */
void groups_aim(struct row *row, bool is_at_least, double target, double gate);

/* All rows of a group, with fewer touches if it must be quick. */
void groups_fault(struct rows *rows, bool is_quick);
void groups_restore(struct rows *rows, bool is_quick);
void groups_dirty(struct rows *rows, bool is_quick);

/* ---- groups-snapshot.c ---- */

void groups_snapshot(struct rows *rows, bool is_quick);

/* ---- groups-handoff.c ---- */

void groups_handoff(struct rows *rows, bool is_quick);
