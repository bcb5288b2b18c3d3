/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A table of Check tests as a program.
 *
 * Check writes TAP itself, but knows no skipped tests and tells results only at the end. So each
 * row gets a runner of its own, silent, and its line is written here. A forked test tells that it
 * was skipped, and why, in a shared page.
 */
#include "support/unit.h"

#include <dirent.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/units.h"

enum { EXIT_SKIPPED = 77, MAX_FDS = 1024 };

/* Shared with the forked test. */
struct verdict {
	bool is_skipped;
	char reason[512];
};

struct totals {
	int n_run;
	int n_failed;
	int n_skipped;
};

static struct verdict *verdict;
static char fds_before[MAX_FDS][64];

_Noreturn void unit_skip(const char *reason, ...)
{
	va_list arguments;

	va_start(arguments, reason);
	vsnprintf(verdict->reason, sizeof(verdict->reason), reason, arguments);
	va_end(arguments);
	verdict->is_skipped = true;
	exit(0); /* to Check, a pass */
}

/* What each fd is; an empty string for a closed one. */
static void list_fds(char fds[MAX_FDS][64])
{
	DIR *directory = opendir("/proc/self/fd");
	const struct dirent *entry;

	ck_assert_ptr_nonnull(directory);
	memset(fds, 0, sizeof(fds[0]) * MAX_FDS);
	while ((entry = readdir(directory))) {
		int fd = atoi(entry->d_name);

		if (entry->d_name[0] == '.' || fd == dirfd(directory) || fd >= MAX_FDS)
			continue;
		if (readlinkat(dirfd(directory), entry->d_name, fds[fd], sizeof(fds[fd]) - 1) < 0)
			strcpy(fds[fd], "?");
	}
	closedir(directory);
}

static void remember_fds(void)
{
	list_fds(fds_before);
}

/* What somebody else serves (virtiofs) is closed by a thread beside, a moment later. */
static void compare_fds(void)
{
	uint64_t deadline_ns = clock_now_ns() + 5 * NSEC_PER_SEC;
	static char fds[MAX_FDS][64];

	list_fds(fds);
	while (memcmp(fds, fds_before, sizeof(fds)) && clock_now_ns() < deadline_ns) {
		sched_yield();
		list_fds(fds);
	}
	for (int fd = 0; fd < MAX_FDS; fd++)
		ck_assert_msg(strcmp(fds[fd], fds_before[fd]) == 0,
			      "fd %d was '%s' before and is '%s' after", fd, fds_before[fd],
			      fds[fd]);
}

static SRunner *make_runner(const char *program, const struct unit_test *test, const char *name,
			    int row)
{
	Suite *suite = suite_create(program);
	TCase *one = tcase_create(name);
	SRunner *runner;

	tcase_add_checked_fixture(one, remember_fds, compare_fds);
	tcase_set_timeout(one, 60);
	tcase_add_loop_test(one, test->test, row, row + 1);
	suite_add_tcase(suite, one);
	runner = srunner_create(suite);
	return runner;
}

/* A message may have several lines; TAP takes only those that open with a hash. */
static void print_message(TestResult *result)
{
	printf("# %s:%d: ", tr_lfile(result), tr_lno(result));
	for (const char *at = tr_msg(result); *at; at++)
		fputs(*at == '\n' ? "\n# " : (char[]){ *at, '\0' }, stdout);
	fputs("\n", stdout);
}

static void run_row(const char *program, const struct unit_test *test, int row,
		    struct totals *totals)
{
	char name[128];
	SRunner *runner;
	TestResult **results;

	snprintf(name, sizeof(name), test->n_rows > 1 ? "%s[%d]" : "%s", test->name, row);
	*verdict = (struct verdict){};
	runner = make_runner(program, test, name, row);
	srunner_run_all(runner, CK_SILENT);
	results = srunner_results(runner);

	/* none if the environment selects another */
	for (int i = 0; i < srunner_ntests_run(runner); i++) {
		bool is_failed = tr_rtype(results[i]) != CK_PASS;

		totals->n_run++;
		totals->n_failed += is_failed;
		totals->n_skipped += !is_failed && verdict->is_skipped;
		printf("%s %d - %s", is_failed ? "not ok" : "ok", totals->n_run, name);
		if (!is_failed && verdict->is_skipped)
			printf(" # SKIP %s", verdict->reason);
		fputs("\n", stdout);
		if (is_failed)
			print_message(results[i]);
		fflush(stdout);
	}
	free(results);
	srunner_free(runner);
}

int unit_run(const char *name, const struct unit_test *tests)
{
	const char *harness = getenv("UNIT_TAP");
	struct totals totals = {};

	verdict = mmap(NULL, sizeof(*verdict), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		       -1, 0);
	if (verdict == MAP_FAILED)
		return EXIT_FAILURE;

	fflush(NULL);
	for (; tests->name; tests++)
		for (int row = 0; row < tests->n_rows; row++)
			run_row(name, tests, row, &totals);
	printf("1..%d\n", totals.n_run);
	munmap(verdict, sizeof(*verdict));

	if (totals.n_failed)
		return EXIT_FAILURE;
	if (totals.n_run == totals.n_skipped && !(harness && strcmp(harness, "1") == 0))
		return EXIT_SKIPPED;
	return EXIT_SUCCESS;
}
