/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A table of Check tests as a program: one process a test, TAP on stdout. */
#pragma once

#include <check.h>

#define N_ROWS(table) ((int)(sizeof(table) / sizeof((table)[0])))

/* Readable. Tables end with an entry without name. */
struct unit_test {
	const char *name;
	const TTest *test;
	int n_rows; /* runs; the test sees the row as _i */
};

#define UNIT(fn)           \
	{                  \
#fn, fn, 1 \
	}
#define UNIT_TABLE(fn, table)          \
	{                              \
#fn, fn, N_ROWS(table) \
	}

/**
 * unit_run() - run every row of every test in a process of its own
 *
 * A test that leaves more or other fds open than it found fails. 60 seconds a row.
 * CK_RUN_CASE=NAME (or "NAME[ROW]" in a table) selects one; CK_FORK=no is for debuggers.
 *
 * Return: the program's exit status: 0; 1 if a test failed; 77 if all were skipped (but 0 with
 *         UNIT_TAP=1 in the environment: a TAP harness knows from the output, and takes any other
 *         status for a crash).
 */
int unit_run(const char *name, const struct unit_test *tests);

/* End this test as skipped. From the test's own process only. */
_Noreturn void unit_skip(const char *reason, ...) __attribute__((format(printf, 1, 2)));
