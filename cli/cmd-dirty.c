/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ufdctl dirty: start, read, stop, list. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "dirty-epoch.h"
#include "numbers.h"
#include "output.h"
#include "path.h"
#include "verbs.h"

static void print_warnings(const json_t *reply)
{
	const json_t *text;
	size_t i;

	json_array_foreach(json_object_get(reply, "warnings"), i, text)
		fprintf(stderr, "ufdctl: %s\n", json_string_value(text));
}

/* Options that the verbs share, and the one GUEST behind them. @parameters: not consumed. */
static int parse_guest(const char *verb, int argc, char **argv, json_t *parameters)
{
	if (argc - optind != 1)
		return session_usage("dirty %s wants the name of one guest", verb);
	json_object_set_new(parameters, "name", json_string(argv[optind]));
	return EXIT_DONE;
}

/* ---- start ---- */

static int start_parse(int argc, char **argv, json_t *parameters)
{
	static const struct option options[] = {
		{ "consumer", required_argument, NULL, 'c' },
		{ "quiesce", required_argument, NULL, 'u' },
		{ "qmp", required_argument, NULL, 'Q' },
		{ "all-mappers", no_argument, NULL, 'a' },
		{},
	};
	int value;

	while ((value = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (value == 'c')
			json_object_set_new(parameters, "consumer", json_string(optarg));
		else if (value == 'Q')
			json_object_set_new(parameters, "qmp", path_absolute(optarg));
		else if (value == 'a')
			json_object_set_new(parameters, "all_mappers", json_true());
		else if (value == 'u' &&
			 (strcmp(optarg, "auto") == 0 || strcmp(optarg, "always") == 0 ||
			  strcmp(optarg, "never") == 0))
			json_object_set_new(parameters, "quiesce", json_string(optarg));
		else if (value == 'u')
			return session_usage("--quiesce is auto, always or never, not '%s'",
					     optarg);
		else
			return session_usage("dirty start: bad option");
	}
	return parse_guest("start", argc, argv, parameters);
}

int cmd_dirty_start(struct session *session, int argc, char **argv)
{
	static const struct column columns[] = {
		{ "Tracker", "tracker", COLUMN_TEXT },
		{ "Because", "reason", COLUMN_TEXT },
		{ "Paused for each read", "quiesced", COLUMN_TEXT },
		{},
	};
	json_t *parameters = json_object(), *reply = NULL;
	int status = start_parse(argc, argv, parameters);

	if (status) {
		json_decref(parameters);
		return status;
	}
	status = session_call(session, "io.ufd.dirty.Start", parameters, NULL, 0, &reply);
	if (status == EXIT_DONE && !output_json(session, reply)) {
		if (!session->is_quiet)
			output_record(session, columns, reply);
		print_warnings(reply);
	}
	json_decref(reply);
	return status;
}

/* ---- read ---- */

enum format { FORMAT_RANGES, FORMAT_BITMAP, FORMAT_JSON };

struct dirty_read {
	json_t *parameters; /* owned, until it is sent */
	enum format format;
	const char *path; /* NULL: stdout */
	FILE *file;	  /* owned, unless stdout */
};

static int read_option(struct dirty_read *read, int value)
{
	static const char *const formats[] = { "ranges", "bitmap", "json" };
	uint64_t number;

	switch (value) {
	case 'c':
		json_object_set_new(read->parameters, "consumer", json_string(optarg));
		return EXIT_DONE;
	case 'a':
		if (!number_parse(optarg, &number))
			return session_usage("--acknowledge wants an epoch, not '%s'", optarg);
		json_object_set_new(read->parameters, "acknowledge",
				    json_integer((json_int_t)number));
		return EXIT_DONE;
	case 'f':
		for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++)
			if (strcmp(optarg, formats[i]) == 0) {
				read->format = (enum format)i;
				return EXIT_DONE;
			}
		return session_usage("--format is ranges, bitmap or json, not '%s'", optarg);
	case 'o':
		read->path = optarg;
		return EXIT_DONE;
	default:
		return session_usage("dirty read: bad option");
	}
}

static int read_parse(struct dirty_read *read, int argc, char **argv)
{
	static const struct option options[] = {
		{ "consumer", required_argument, NULL, 'c' },
		{ "acknowledge", required_argument, NULL, 'a' },
		{ "format", required_argument, NULL, 'f' },
		{ "output", required_argument, NULL, 'o' },
		{},
	};
	int value, status;

	while ((value = getopt_long(argc, argv, "", options, NULL)) != -1) {
		status = read_option(read, value);
		if (status)
			return status;
	}
	if (read->format == FORMAT_BITMAP && !read->path && isatty(1))
		return session_usage("a bitmap is nothing for a terminal: --output FILE");
	return parse_guest("read", argc, argv, read->parameters);
}

/* Before the epoch is read: it would be lost on a file that cannot be written. */
static int open_output(struct dirty_read *read)
{
	read->file = read->path ? fopen(read->path, "we") : stdout;
	if (read->file)
		return EXIT_DONE;
	fprintf(stderr, "ufdctl: cannot write %s: %s\n", read->path, strerror(errno));
	return errno == EACCES ? EXIT_DENIED : EXIT_FAILED;
}

static int close_output(struct dirty_read *read)
{
	FILE *file = TAKE_PTR(read->file);
	int r;

	if (!file)
		return EXIT_DONE;
	r = ferror(file) ? -1 : fflush(file);
	if (file != stdout && fclose(file) != 0)
		r = -1;
	if (r == 0)
		return EXIT_DONE;
	fprintf(stderr,
		"ufdctl: cannot write %s; read the epoch again with --acknowledge of the "
		"one before\n",
		read->path ? read->path : "the output");
	return EXIT_FAILED;
}

static void print_range(void *userdata, const struct dirty_memory *memory, uint64_t offset_bytes,
			uint64_t length_bytes)
{
	fprintf(userdata, "%s %llu %llu\n", memory->name, (unsigned long long)offset_bytes,
		(unsigned long long)length_bytes);
}

static void write_bitmap(FILE *file, const struct dirty_epoch *epoch)
{
	for (size_t i = 0; i < epoch->n_memories; i++)
		for (size_t w = 0; w < epoch->memories[i].n_words; w++) {
			uint64_t word = epoch->memories[i].words[w];

			for (unsigned int b = 0; b < sizeof(word); b++)
				putc((int)(word >> (8 * b) & 0xff), file);
		}
}

struct range_list {
	json_t *memories; /* borrowed: the reply's, where the lists go */
	const struct dirty_epoch *epoch;
};

static void add_range(void *userdata, const struct dirty_memory *memory, uint64_t offset_bytes,
		      uint64_t length_bytes)
{
	const struct range_list *list = userdata;
	json_t *json = json_array_get(list->memories, (size_t)(memory - list->epoch->memories));

	json_array_append_new(json_object_get(json, "ranges"),
			      json_pack("{s:I, s:I}", "offset_bytes", (json_int_t)offset_bytes,
					"length_bytes", (json_int_t)length_bytes));
}

/* The reply with all ranges in it, however many they are. */
static void write_json(const struct session *session, FILE *file, const struct dirty_epoch *epoch)
{
	struct range_list list = { json_object_get(epoch->reply, "memories"), epoch };
	json_t *memory;
	size_t i;

	json_object_del(epoch->reply, "fd");
	json_array_foreach(list.memories, i, memory)
	{
		json_object_del(memory, "fd_offset_bytes");
		json_object_set_new(memory, "ranges", json_array());
	}
	dirty_epoch_ranges(epoch, add_range, &list);
	json_dumpf(epoch->reply, file,
		   session->json == JSON_PRETTY ? JSON_INDENT(2) : JSON_COMPACT);
	putc('\n', file);
}

static void print_summary(const struct session *session, const struct dirty_epoch *epoch)
{
	const json_t *reply = epoch->reply;
	uint64_t paused_ns = (uint64_t)json_integer_value(json_object_get(reply, "paused_ns"));
	uint64_t ns = (uint64_t)(json_integer_value(json_object_get(reply, "taken_ns")) -
				 json_integer_value(json_object_get(reply, "begun_ns")));
	char dirty[32], time[32], paused[32];

	output_bytes(session, (uint64_t)json_integer_value(json_object_get(reply, "dirty_bytes")),
		     dirty, sizeof(dirty));
	output_ns(ns, time, sizeof(time));
	output_ns(paused_ns, paused, sizeof(paused));
	fprintf(stderr, "epoch %lld: %s in %s%s%s\n",
		json_integer_value(json_object_get(reply, "epoch")), dirty, time,
		paused_ns ? ", paused for " : "", paused_ns ? paused : "");
}

static void read_print(const struct session *session, const struct dirty_read *read,
		       const struct dirty_epoch *epoch)
{
	switch (read->format) {
	case FORMAT_RANGES:
		dirty_epoch_ranges(epoch, print_range, read->file);
		break;
	case FORMAT_BITMAP:
		write_bitmap(read->file, epoch);
		break;
	case FORMAT_JSON:
		write_json(session, read->file, epoch);
		return; /* warnings and numbers are in it */
	}
	print_warnings(epoch->reply);
	if (!session->is_quiet && !session->no_legend)
		print_summary(session, epoch);
}

int cmd_dirty_read(struct session *session, int argc, char **argv)
{
	_cleanup_(dirty_epoch_done) struct dirty_epoch epoch = {};
	struct dirty_read read = {
		.parameters = json_object(),
		.format = session->json == JSON_OFF ? FORMAT_RANGES : FORMAT_JSON,
	};
	int status = read_parse(&read, argc, argv);

	if (status == EXIT_DONE)
		status = open_output(&read);
	if (status == EXIT_DONE) {
		status = dirty_epoch_read(session, TAKE_PTR(read.parameters), &epoch);
		if (status == EXIT_DONE)
			read_print(session, &read, &epoch);
		if (close_output(&read) != EXIT_DONE && status == EXIT_DONE)
			status = EXIT_FAILED;
	}
	json_decref(read.parameters);
	return status;
}

/* ---- stop, list ---- */

int cmd_dirty_stop(struct session *session, int argc, char **argv)
{
	static const struct option options[] = { { "consumer", required_argument, NULL, 'c' }, {} };
	json_t *parameters = json_object(), *reply = NULL;
	int value, status = EXIT_DONE;

	while (status == EXIT_DONE && (value = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (value == 'c')
			json_object_set_new(parameters, "consumer", json_string(optarg));
		else
			status = session_usage("dirty stop knows --consumer C only");
	}
	if (status == EXIT_DONE)
		status = parse_guest("stop", argc, argv, parameters);
	if (status) {
		json_decref(parameters);
		return status;
	}
	status = session_call(session, "io.ufd.dirty.Stop", parameters, NULL, 0, &reply);
	if (status == EXIT_DONE)
		(void)output_json(session, reply);
	json_decref(reply);
	return status;
}

void dirty_show(const struct session *session, const json_t *list)
{
	static const struct column columns[] = {
		{ "CONSUMER", "name", COLUMN_TEXT },
		{ "TRACKER", "tracker", COLUMN_TEXT },
		{ "EPOCH", "epoch", COLUMN_NUMBER },
		{ "UNREAD", "unread_bytes", COLUMN_BYTES },
		{ "QUIESCE", "quiesce", COLUMN_TEXT },
		{ "ALL MAPPERS", "all_mappers", COLUMN_TEXT },
		{},
	};

	output_table(session, columns, json_object_get(list, "consumers"), "consumers");
}

int cmd_dirty_list(struct session *session, int argc, char **argv)
{
	json_t *reply = NULL;
	int status;

	if (argc != 2)
		return session_usage("dirty list wants the name of one guest");
	status = session_call(session, "io.ufd.dirty.List", json_pack("{s:s}", "name", argv[1]),
			      NULL, 0, &reply);
	if (status == EXIT_DONE && !output_json(session, reply))
		dirty_show(session, reply);
	json_decref(reply);
	return status;
}
