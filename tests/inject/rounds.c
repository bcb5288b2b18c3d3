/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A scenario, run once for each way that one of its calls can fail. */
#include "inject/rounds.h"

#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "inject/coverage.h"
#include "inject/leaks.h"

#define MAX_ROUNDS  20000
#define MAX_WORKERS 8
#define N_RECORDS   3
#define RUN_SECONDS 60
#define CI_PART	    6 /* one in so many of the further ways */
#define SHORT_PART  8 /* one round in so many, where everything is slow */
#define MAX_SHOWN   8 /* failed rounds that are told in full, a scenario */

struct round {
	struct board_plan plan;
	struct board_site *site; /* that the last fault is at; NULL in a record */
};

struct worker {
	pid_t pid;
	const struct round *round;
	FILE *words; /* of the run */
};

struct tally {
	unsigned int n_sites, n_rounds, n_bad;
};

/* A line of code that fails in some scenario. */
struct line {
	enum board_call call;
	uint32_t detail, address;
};

static struct {
	const struct scenario *scenario;
	const char *program;
	struct board *board;
	int board_fd;
	struct round rounds[MAX_ROUNDS];
	unsigned int n_rounds, n_started;
	bool is_planned[BOARD_SITES];
	struct line lines[BOARD_SITES], reached[BOARD_SITES];
	unsigned int n_lines, n_reached;
	struct worker workers[MAX_WORKERS];
	unsigned int n_workers;
	struct tally tallies[N_BOARD_CALLS];
	unsigned int n_bad_records, n_shown;
	uint64_t seed, random;
	bool is_long, is_short;
	int n_tests, n_failed;
} all;

static uint64_t draw(uint64_t below)
{
	all.random ^= all.random << 13;
	all.random ^= all.random >> 7;
	all.random ^= all.random << 17;
	return all.random % below;
}

/* ---- in a run ---- */

void rounds_fail(const char *format, ...)
{
	va_list arguments;

	board_disarm();
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fputs("\n", stderr);
	fflush(stderr);
	_exit(EXIT_FAILURE);
}

void rounds_say(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fputs("\n", stderr);
}

static void run(const struct board_plan *plan)
{
	struct leaks leaks;

	board_quiet(true);
	leaks_remember(&leaks);
	all.scenario->run(all.board, all.board_fd, plan);
	board_disarm();
	if (leaks_report(&leaks))
		rounds_fail("it leaks");
}

/* ---- which rounds ---- */

static void plan_round(struct board_site *site, uint32_t nth, int error)
{
	struct round *round = &all.rounds[all.n_rounds];

	if (all.n_rounds == MAX_ROUNDS || (all.is_short && draw(SHORT_PART)))
		return;
	all.n_rounds++;
	*round = (struct round){ site->found_by, site };
	round->plan.faults[round->plan.n_faults++] = (struct board_fault){ site->key, nth, error };
	all.tallies[site->call].n_rounds++;
}

/* Is the same line of code planned already, reached by another way or in a scenario before? */
static bool is_line_planned(const struct board_site *site)
{
	for (unsigned int i = 0; i < all.n_lines; i++) {
		const struct line *line = &all.lines[i];

		if (line->address == site->frames[0] && line->call == site->call &&
		    line->detail == site->detail)
			return true;
	}
	if (all.n_lines < BOARD_SITES)
		all.lines[all.n_lines++] = (struct line){ site->call, site->detail,
							  site->frames[0] };
	return false;
}

static void plan_site(struct board_site *site)
{
	uint32_t n_calls = atomic_load(&site->n_calls) / N_RECORDS;
	bool is_further = is_line_planned(site);
	int n_more = all.is_long ? 2 : !is_further && !all.scenario->is_brief;

	all.tallies[site->call].n_sites++;
	for (const int *error = board_errors(site->call, site->detail); *error; error++) {
		if (is_further && !all.is_long && (all.scenario->is_brief || draw(CI_PART)))
			continue;
		plan_round(site, 1, *error);
		for (int i = 0; n_calls > 1 && i < n_more; i++)
			plan_round(site, 2 + (uint32_t)draw(n_calls - 1), *error);
	}
}

/* Sites that are new since the last time. */
static void plan_sites(void)
{
	unsigned int n_most = all.scenario->is_brief && !all.is_long ? 1 : BOARD_FAULTS;

	for (unsigned int i = 0; i < BOARD_SITES; i++) {
		struct board_site *site = &all.board->sites[i];

		if (all.is_planned[i] || !atomic_load(&site->is_known) ||
		    site->found_by.n_faults == n_most)
			continue;
		plan_site(site);
		all.is_planned[i] = true;
	}
}

/* ---- what comes of them ---- */

static void print_words(FILE *words)
{
	char line[512];

	rewind(words);
	while (fgets(line, sizeof(line), words))
		printf("#   %s%s", line, strchr(line, '\n') ? "" : "\n");
}

static void print_frames(const struct board_site *site)
{
	char command[1024], line[512];
	FILE *lines;
	int n;

	n = snprintf(command, sizeof(command), "addr2line -fspe %s", all.program);
	for (unsigned int i = 0; i < BOARD_DEPTH && site->frames[i]; i++)
		n += snprintf(command + n, sizeof(command) - (size_t)n, " %#x",
			      site->frames[i] - 1);
	lines = popen(command, "re");
	while (lines && fgets(line, sizeof(line), lines))
		printf("#   at %s", line);
	if (lines)
		pclose(lines);
}

static void print_bad(const struct worker *worker, int status)
{
	const struct board_site *site = worker->round->site;
	char plan[256];

	if (all.n_shown++ >= MAX_SHOWN)
		return;
	board_print_plan(&worker->round->plan, plan, sizeof(plan));
	printf("# %s: %s%s", all.scenario->name, site ? call_names[site->call] : "nothing",
	       site ? " fails" : " fails, and yet");
	if (WIFSIGNALED(status))
		printf(": signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
	printf("; again by --scenario '%s' --plan '%s'\n", all.scenario->name, plan);
	if (site)
		print_frames(site);
	print_words(worker->words);
}

static void take_result(struct worker *worker, int status)
{
	struct board_site *site = worker->round->site;

	if (status != 0) {
		if (site)
			all.tallies[site->call].n_bad++;
		else
			all.n_bad_records++;
		print_bad(worker, status);
	}
	fclose(worker->words);
	*worker = (struct worker){};
}

static void start_run(struct worker *worker, const struct round *round)
{
	pid_t parent = getpid();

	*worker = (struct worker){ .round = round, .words = tmpfile() };
	if (!worker->words)
		exit(EXIT_FAILURE);
	fflush(NULL);
	worker->pid = fork();
	if (worker->pid)
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(EXIT_FAILURE);
	dup2(fileno(worker->words), STDOUT_FILENO);
	dup2(fileno(worker->words), STDERR_FILENO);
	setlinebuf(stderr);
	alarm(RUN_SECONDS);
	run(&round->plan);
	_exit(EXIT_SUCCESS);
}

static void wait_for_one(void)
{
	int status;
	pid_t pid = wait(&status);

	for (unsigned int i = 0; i < all.n_workers; i++)
		if (all.workers[i].pid == pid && pid > 0)
			take_result(&all.workers[i], status);
}

static bool is_anybody_at_work(void)
{
	for (unsigned int i = 0; i < all.n_workers; i++)
		if (all.workers[i].pid)
			return true;
	return false;
}

static void run_rounds(void)
{
	while (all.n_started < all.n_rounds || is_anybody_at_work()) {
		for (unsigned int i = 0; i < all.n_workers && all.n_started < all.n_rounds; i++)
			if (!all.workers[i].pid)
				start_run(&all.workers[i], &all.rounds[all.n_started++]);
		wait_for_one();
	}
}

/* ---- a scenario ---- */

static void test_line(bool is_good, const char *format, ...)
{
	va_list arguments;

	all.n_tests++;
	all.n_failed += !is_good;
	printf("%s %d - ", is_good ? "ok" : "not ok", all.n_tests);
	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	putchar('\n');
	fflush(stdout);
}

static void run_scenario(const struct scenario *scenario)
{
	all.scenario = scenario;
	all.board = board_new(&all.board_fd);
	all.n_rounds = all.n_started = all.n_bad_records = all.n_shown = 0;
	memset(all.is_planned, 0, sizeof(all.is_planned));
	memset(all.tallies, 0, sizeof(all.tallies));
	all.n_rounds = N_RECORDS; /* zeroed: without a plan */
	memset(all.rounds, 0, N_RECORDS * sizeof(all.rounds[0]));
	run_rounds();
}

static void report_scenario(void)
{
	const char *name = all.scenario->name;

	test_line(!all.n_bad_records, "%s: nothing fails", name);
	for (int call = 1; call < N_BOARD_CALLS; call++) {
		const struct tally *tally = &all.tallies[call];

		if (tally->n_rounds)
			test_line(!tally->n_bad, "%s: %s fails: %u sites, %u rounds, %u bad", name,
				  call_names[call], tally->n_sites, tally->n_rounds, tally->n_bad);
	}
}

/* Lines that runs have come to, whether they failed there or not. */
static void note_reached(void)
{
	for (unsigned int i = 0; i < BOARD_SITES && all.n_reached < BOARD_SITES; i++) {
		const struct board_site *site = &all.board->sites[i];

		if (atomic_load(&site->is_known))
			all.reached[all.n_reached++] = (struct line){ site->call, site->detail,
								      site->frames[0] };
	}
}

static bool is_reached(const char *call, uint32_t address)
{
	for (unsigned int i = 0; i < all.n_reached; i++)
		if (all.reached[i].address == address)
			return true;
	return false;
}

static void test_coverage(const char *const *unless)
{
	int n = all.n_reached && !all.is_short ? coverage_report(all.program, is_reached, unless)
					       : -1;

	if (n < 0)
		test_line(true, "every call was reached # SKIP nothing was run, or only a part, or "
				"there is no objdump");
	else
		test_line(n == 0, "every call was reached, but for %d", n);
}

static void test_scenario(const struct scenario *scenario)
{
	if (scenario->skip_reason) {
		test_line(true, "%s # SKIP %s", scenario->name, scenario->skip_reason);
		return;
	}
	run_scenario(scenario);
	/* what the failures bring to light fails in turn; twice is all a plan holds */
	for (int i = 0; i < BOARD_FAULTS && !all.n_bad_records; i++) {
		plan_sites();
		run_rounds();
	}
	report_scenario();
	note_reached();
	close(all.board_fd);
}

/* Under a debugger, say. */
static int run_plan(const struct scenario *scenario, const char *text)
{
	struct board_plan plan;

	if (!scenario->name || !board_parse_plan(text, &plan)) {
		fputs("no such scenario, or no plan\n", stderr);
		return 2;
	}
	all.scenario = scenario;
	all.board = board_new(&all.board_fd);
	run(&plan);
	puts("all is well");
	return EXIT_SUCCESS;
}

static unsigned int n_workers(void)
{
	const char *jobs = getenv("UFD_JOBS");
	/* most of a run is waiting */
	long n = jobs ? atol(jobs) : 2 * sysconf(_SC_NPROCESSORS_ONLN);

	return n < 1 ? 1 : n > MAX_WORKERS ? MAX_WORKERS : (unsigned int)n;
}

int rounds_run(const struct scenario *scenarios, const char *program, const char *const *unless,
	       int argc, char **argv)
{
	static const struct option options[] = {
		{ "scenario", 1, NULL, 's' }, { "plan", 1, NULL, 'p' }, { "seed", 1, NULL, 'r' }, {}
	};
	static char self[512];
	const char *name = NULL, *plan = NULL;
	int option;

	all.seed = 1;
	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 's':
			name = optarg;
			break;
		case 'p':
			plan = optarg;
			break;
		case 'r':
			all.seed = strtoull(optarg, NULL, 10);
			break;
		default:
			return 2;
		}
	}
	if (readlink("/proc/self/exe", self, sizeof(self) - 1) < 0)
		return EXIT_FAILURE;
	all.program = program ? program : self;
	all.random = all.seed * UINT64_C(0x9e3779b97f4a7c15) | 1;
	all.n_workers = n_workers();
	all.is_long = getenv("UFD_TEST_LONG") != NULL;
	all.is_short = getenv("UFD_TEST_SHORT") != NULL;
	while (scenarios->name && name && strcmp(scenarios->name, name) != 0)
		scenarios++;
	if (plan)
		return run_plan(scenarios, plan);
	for (; scenarios->name; scenarios++) {
		test_scenario(scenarios);
		if (name)
			break;
	}
	if (!name && unless)
		test_coverage(unless);
	printf("1..%d\n", all.n_tests);
	return all.n_failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
