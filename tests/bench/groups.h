/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which rows there are. */
#pragma once

#include <stdbool.h>

#include "row.h"

#define MAX_ROWS      64

#define GROUP_FAULT   "fault"
#define GROUP_RESTORE "restore"
#define GROUP_DIRTY   "dirty"

/* The largest memory of any row, and so the size of the saved one. */
uint64_t groups_image_bytes(bool is_quick);

/* Huge pages that rows of hugetlbfs need: those that hold the bytes already, and those to fill. */
#define GROUPS_HUGE_PAGES 96

/* Readable. */
struct rows {
	unsigned int n;
	struct row rows[MAX_ROWS];
};

/* All rows of a group, with fewer touches if it must be quick. */
void groups_fault(struct rows *rows, bool is_quick);
void groups_restore(struct rows *rows, bool is_quick);
void groups_dirty(struct rows *rows, bool is_quick);
