/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ufdctl dirty rate, dirty heatmap: how and where a guest writes, while it does. */

/*
 * Both have a consumer of their own, which is stopped at the end, also on SIGINT and SIGTERM: these
 * are blocked and waited for between two reads. The guest is never paused for them: what devices
 * write to pinned memory may be missing, which is no harm to a look.
 */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/units.h"
#include "dirty-epoch.h"
#include "heatmap.h"
#include "numbers.h"
#include "output.h"
#include "precopy.h"
#include "verbs.h"

#define DEFAULT_BANDWIDTH   (1024 * MIB)
#define DEFAULT_DOWNTIME_MS 300
#define DEFAULT_WIDTH	    80
#define TIME_COLUMNS	    8
#define MAX_NAMED	    8 /* memories in a line of rate */

/* Readable. */
struct live {
	struct session *session;
	const char *guest;
	char consumer[64];
	uint64_t count; /* 0: until a signal */
	double interval_s;
	uint64_t bandwidth;
	uint64_t max_downtime_ms;
	uint64_t width; /* 0: the terminal's */
	bool is_ascii;
	uint64_t began_ns, before_ns; /* CLOCK_MONOTONIC: the baseline, and the read before */
	sigset_t signals;
	int signal; /* that came, or 0 */
};

/* Called for each epoch; @seconds: it lasted. Return: false if nothing more can be written. */
typedef bool (*live_fn)(struct live *live, const struct dirty_epoch *epoch, double seconds,
			void *userdata);

static int take_interval(struct live *live, const char *text)
{
	char *end;

	live->interval_s = strtod(text, &end);
	if (end == text || *end || !(live->interval_s >= 0.01) || live->interval_s > 3600)
		return session_usage("--interval wants seconds from 0.01 to 3600, not '%s'", text);
	return EXIT_DONE;
}

static int take_number(const char *option, uint64_t least, uint64_t *ret)
{
	uint64_t number;

	if (!number_parse(optarg, &number) || number < least)
		return session_usage("--%s wants a number, not '%s'", option, optarg);
	*ret = number;
	return EXIT_DONE;
}

static int live_parse(struct live *live, const char *verb, const struct option *options, int argc,
		      char **argv)
{
	int value, status = EXIT_DONE;

	while (status == EXIT_DONE && (value = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (value == 'n')
			status = take_number("count", 1, &live->count);
		else if (value == 'i')
			status = take_interval(live, optarg);
		else if (value == 'b')
			status = take_number("bandwidth", 1, &live->bandwidth);
		else if (value == 'd')
			status = take_number("max-downtime", 0, &live->max_downtime_ms);
		else if (value == 'w')
			status = take_number("width", 1, &live->width);
		else if (value == 'a')
			live->is_ascii = true;
		else
			status = session_usage("dirty %s: bad option", verb);
	}
	if (status == EXIT_DONE && argc - optind != 1)
		status = session_usage("dirty %s wants the name of one guest", verb);
	if (status == EXIT_DONE) {
		live->guest = argv[optind];
		snprintf(live->consumer, sizeof(live->consumer), "%s-%d", verb, getpid());
	}
	return status;
}

/* ---- the consumer ---- */

static json_t *live_parameters(const struct live *live)
{
	return json_pack("{s:s, s:s}", "name", live->guest, "consumer", live->consumer);
}

static int live_start(struct live *live)
{
	json_t *parameters = live_parameters(live), *reply = NULL;
	int status;

	json_object_set_new(parameters, "quiesce", json_string("never"));
	status = session_call(live->session, "io.ufd.dirty.Start", parameters, NULL, 0, &reply);
	json_decref(reply);
	live->began_ns = live->before_ns = clock_now_ns();
	return status;
}

/* Of a guest that has ended, nothing is left to stop. */
static void live_stop(struct live *live)
{
	json_t *reply = NULL;

	session_call(live->session, "io.ufd.dirty.Stop", live_parameters(live), NULL, 0, &reply);
	json_decref(reply);
}

/* Return: false if a signal came first. */
static bool live_wait(struct live *live)
{
	uint64_t due_ns = live->before_ns + (uint64_t)(live->interval_s * (double)NSEC_PER_SEC);

	for (;;) {
		uint64_t now_ns = clock_now_ns();
		uint64_t left_ns = due_ns > now_ns ? due_ns - now_ns : 0;
		struct timespec left = { .tv_sec = (time_t)(left_ns / NSEC_PER_SEC),
					 .tv_nsec = (long)(left_ns % NSEC_PER_SEC) };
		int signal = sigtimedwait(&live->signals, NULL, &left);

		if (signal > 0) {
			live->signal = signal;
			return false;
		}
		if (errno == EAGAIN)
			return true;
	}
}

static int live_loop(struct live *live, live_fn on_epoch, void *userdata)
{
	for (uint64_t n = 0; (!live->count || n < live->count) && live_wait(live); n++) {
		_cleanup_(dirty_epoch_done) struct dirty_epoch epoch = {};
		uint64_t now_ns;
		int status = dirty_epoch_read(live->session, live_parameters(live), &epoch);
		bool goes_on;

		if (status)
			return status;
		now_ns = clock_now_ns();
		goes_on = on_epoch(live, &epoch,
				   (double)(now_ns - live->before_ns) / (double)NSEC_PER_SEC,
				   userdata);
		live->before_ns = now_ns;
		if (!goes_on || fflush(stdout) != 0)
			return EXIT_DONE; /* whoever read us has gone */
	}
	return EXIT_DONE;
}

static int live_run(struct live *live, live_fn on_epoch, void *userdata)
{
	sigset_t before;
	int status;

	sigemptyset(&live->signals);
	sigaddset(&live->signals, SIGINT);
	sigaddset(&live->signals, SIGTERM);
	sigaddset(&live->signals, SIGHUP);
	sigprocmask(SIG_BLOCK, &live->signals, &before);
	status = live_start(live);
	if (status == EXIT_DONE) {
		status = live_loop(live, on_epoch, userdata);
		if (status != EXIT_NO_GUEST && status != EXIT_NO_DAEMON)
			live_stop(live);
	}
	sigprocmask(SIG_SETMASK, &before, NULL);
	return status;
}

static double elapsed_s(const struct live *live, double seconds)
{
	return (double)(live->before_ns - live->began_ns) / (double)NSEC_PER_SEC + seconds;
}

/* ---- rate ---- */

/* All epochs together. */
struct rate {
	uint64_t *words; /* owned; of all memories behind each other */
	size_t n_words;
	uint64_t n_epochs;
	double sum_s;
	double sum_bytes;
	uint64_t total_bytes;
	uint64_t whole_bytes; /* each page counted once */
	bool has_title;
};

/* Memories may come and go; then it is counted from here on. */
static int rate_add(struct rate *rate, const struct dirty_epoch *epoch, double seconds)
{
	size_t n_words = 0, at = 0;

	for (size_t i = 0; i < epoch->n_memories; i++)
		n_words += epoch->memories[i].n_words;
	if (n_words != rate->n_words) {
		free(rate->words);
		*rate = (struct rate){ .n_words = n_words, .has_title = rate->has_title };
		rate->words = calloc(n_words + 1, sizeof(*rate->words));
	}
	if (!rate->words)
		return -ENOMEM;
	rate->total_bytes = rate->whole_bytes = 0;
	for (size_t i = 0; i < epoch->n_memories; i++) {
		const struct dirty_memory *memory = &epoch->memories[i];

		rate->total_bytes += memory->length_bytes;
		rate->sum_bytes += (double)memory->dirty_bytes;
		for (size_t w = 0; w < memory->n_words; w++, at++) {
			rate->words[at] |= memory->words[w];
			rate->whole_bytes += (uint64_t)__builtin_popcountll(rate->words[at]) *
					     memory->page_bytes;
		}
	}
	rate->n_epochs++;
	rate->sum_s += seconds;
	return 0;
}

static struct precopy rate_estimate(const struct live *live, const struct rate *rate)
{
	const struct precopy_guest guest = {
		.total_bytes = rate->total_bytes,
		.interval_s = rate->sum_s / (double)rate->n_epochs,
		.interval_bytes = rate->sum_bytes / (double)rate->n_epochs,
		.whole_s = rate->sum_s,
		.whole_bytes = (double)rate->whole_bytes,
	};

	return precopy_estimate(&guest, (double)live->bandwidth,
				(double)live->max_downtime_ms / 1e3);
}

static void print_precopy(const struct precopy *precopy)
{
	char down[32], all[32];

	output_ns((uint64_t)(precopy->downtime_s * 1e9), down, sizeof(down));
	output_ns((uint64_t)(precopy->seconds * 1e9), all, sizeof(all));
	if (precopy->converges)
		printf("%u round%s in %s, %s down\n", precopy->n_rounds,
		       precopy->n_rounds == 1 ? "" : "s", all, down);
	else
		printf("does not converge: %s down\n", down);
}

static void print_rate(struct live *live, struct rate *rate, const struct dirty_epoch *epoch,
		       double seconds, const struct precopy *precopy)
{
	char bandwidth[32];
	uint64_t n_pages = 0;
	double bytes = 0;

	if (!rate->has_title && !live->session->no_legend) {
		output_bytes(live->session, live->bandwidth, bandwidth, sizeof(bandwidth));
		printf("%8s  %10s  %8s", "TIME", "PAGES/s", "MIB/s");
		for (size_t i = 0; i < epoch->n_memories && i < MAX_NAMED; i++)
			printf("  %8.24s", epoch->memories[i].name);
		printf("  PRE-COPY AT %s/s\n", bandwidth);
	}
	rate->has_title = true;
	for (size_t i = 0; i < epoch->n_memories; i++) {
		n_pages += epoch->memories[i].dirty_bytes / epoch->memories[i].page_bytes;
		bytes += (double)epoch->memories[i].dirty_bytes;
	}
	printf("%7.1fs  %10.0f  %8.1f", elapsed_s(live, seconds), (double)n_pages / seconds,
	       bytes / (double)MIB / seconds);
	for (size_t i = 0; i < epoch->n_memories && i < MAX_NAMED; i++)
		printf("  %*.1f", (int)max_u64(8, min_u64(24, strlen(epoch->memories[i].name))),
		       (double)epoch->memories[i].dirty_bytes / (double)MIB / seconds);
	fputs("  ", stdout);
	print_precopy(precopy);
}

static void print_rate_json(const struct live *live, const struct dirty_epoch *epoch,
			    double seconds, const struct precopy *precopy)
{
	json_t *memories = json_array(), *line;
	uint64_t n_pages = 0, bytes = 0;

	for (size_t i = 0; i < epoch->n_memories; i++) {
		const struct dirty_memory *memory = &epoch->memories[i];

		n_pages += memory->dirty_bytes / memory->page_bytes;
		bytes += memory->dirty_bytes;
		json_array_append_new(memories,
				      json_pack("{s:s, s:f}", "name", memory->name, "bytes_per_s",
						(double)memory->dirty_bytes / seconds));
	}
	line = json_pack("{s:f, s:f, s:f, s:o, s:{s:b, s:i, s:f, s:f}}", "seconds",
			 elapsed_s(live, seconds), "pages_per_s", (double)n_pages / seconds,
			 "bytes_per_s", (double)bytes / seconds, "memories", memories, "precopy",
			 "converges", precopy->converges, "rounds", (int)precopy->n_rounds,
			 "seconds", precopy->seconds, "downtime_s", precopy->downtime_s);
	(void)output_json(live->session, line);
	json_decref(line);
}

static bool on_rate(struct live *live, const struct dirty_epoch *epoch, double seconds,
		    void *userdata)
{
	struct rate *rate = userdata;
	struct precopy precopy;

	if (rate_add(rate, epoch, seconds) < 0)
		return false;
	precopy = rate_estimate(live, rate);
	if (live->session->json == JSON_OFF)
		print_rate(live, rate, epoch, seconds, &precopy);
	else
		print_rate_json(live, epoch, seconds, &precopy);
	return true;
}

int cmd_dirty_rate(struct session *session, int argc, char **argv)
{
	static const struct option options[] = {
		{ "count", required_argument, NULL, 'n' },
		{ "interval", required_argument, NULL, 'i' },
		{ "bandwidth", required_argument, NULL, 'b' },
		{ "max-downtime", required_argument, NULL, 'd' },
		{},
	};
	struct live live = {
		.session = session,
		.interval_s = 1,
		.bandwidth = DEFAULT_BANDWIDTH,
		.max_downtime_ms = DEFAULT_DOWNTIME_MS,
	};
	struct rate rate = {};
	int status = live_parse(&live, "rate", options, argc, argv);

	if (status == EXIT_DONE)
		status = live_run(&live, on_rate, &rate);
	free(rate.words);
	return status;
}

/* ---- heatmap ---- */

struct map {
	struct heatmap heatmap;
	char line[HEATMAP_MAX_CELLS * HEATMAP_CELL_BYTES];
	bool has_title;
};

static size_t n_cells_of(const struct live *live)
{
	const char *columns = getenv("COLUMNS");
	struct winsize size = {};
	uint64_t width = live->width;

	if (!width && ioctl(1, TIOCGWINSZ, &size) == 0)
		width = size.ws_col;
	if (!width && (!columns || !number_parse(columns, &width)))
		width = DEFAULT_WIDTH;
	width = width > TIME_COLUMNS + 2 ? width - TIME_COLUMNS : 2;
	return min_u64(width, HEATMAP_MAX_CELLS);
}

static void print_map_json(const struct live *live, const struct map *map, double seconds)
{
	json_t *cells = json_array(), *line;

	for (size_t i = 0; i < map->heatmap.n_cells; i++)
		json_array_append_new(cells, json_integer((json_int_t)map->heatmap.dirty_bytes[i]));
	line = json_pack("{s:f, s:I, s:o}", "seconds", elapsed_s(live, seconds), "cell_bytes",
			 (json_int_t)map->heatmap.cell_bytes, "dirty_bytes", cells);
	(void)output_json(live->session, line);
	json_decref(line);
}

static void print_map_title(const struct live *live, struct map *map,
			    const struct dirty_epoch *epoch)
{
	char cell[32];

	heatmap_title(&map->heatmap, epoch, map->line);
	output_bytes(live->session, map->heatmap.cell_bytes, cell, sizeof(cell));
	printf("%*s%s\n", TIME_COLUMNS, "", map->line);
	printf("%*sa column is %s\n", TIME_COLUMNS, "", cell);
}

static bool on_map(struct live *live, const struct dirty_epoch *epoch, double seconds,
		   void *userdata)
{
	struct map *map = userdata;

	heatmap_fill(&map->heatmap, epoch, n_cells_of(live));
	if (live->session->json != JSON_OFF) {
		print_map_json(live, map, seconds);
		return true;
	}
	if (!map->has_title && !live->session->no_legend)
		print_map_title(live, map, epoch);
	map->has_title = true;
	heatmap_line(&map->heatmap, !live->is_ascii && heatmap_has_utf8(), map->line);
	printf("%6.1fs %s\n", elapsed_s(live, seconds), map->line);
	return true;
}

int cmd_dirty_heatmap(struct session *session, int argc, char **argv)
{
	static const struct option options[] = {
		{ "count", required_argument, NULL, 'n' },
		{ "interval", required_argument, NULL, 'i' },
		{ "width", required_argument, NULL, 'w' },
		{ "ascii", no_argument, NULL, 'a' },
		{},
	};
	struct live live = { .session = session, .interval_s = 1 };
	struct map *map = calloc(1, sizeof(*map));
	int status = live_parse(&live, "heatmap", options, argc, argv);

	if (status == EXIT_DONE && !map) {
		fputs("ufdctl: no memory\n", stderr);
		status = EXIT_FAILED;
	}
	if (status == EXIT_DONE)
		status = live_run(&live, on_map, map);
	free(map);
	return status;
}
