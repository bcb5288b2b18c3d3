/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ufdctl image convert, flatten, append, diff. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/units.h"
#include "image-file.h"
#include "image/image-convert.h"
#include "image/image-diff.h"
#include "image/image-foreign.h"
#include "image/image-info.h"
#include "output.h"
#include "verbs.h"

#define MOST_RUNS 1000000

/* Readable. What is to be made of what. */
struct conversion {
	struct image_writer_opts opts;
	enum image_format format;
	const char *memory; /* NULL: all, or the only one */
	const char *parent; /* NULL: none */
	bool is_alone;
	struct image_parent link;
	char hint[PATH_MAX];
};

static void on_progress(void *userdata, uint64_t done_bytes, uint64_t total_bytes)
{
	progress_show(userdata, done_bytes, total_bytes);
}

/* Beside the child by its name alone, so that both may move together; else from the root on. */
static int name_parent(struct conversion *conversion, const struct image *parent, const char *child)
{
	_cleanup_(freep) char *path = NULL, *folder = NULL;
	struct image_layer_info info;
	char text[PATH_MAX];
	const char *slash;
	size_t n;

	image_get_layer(parent, 0, &info);
	if (info.is_flat) {
		fprintf(stderr,
			"ufdctl: %s has no digest to name it by: a parent is a .ufdi image\n",
			conversion->parent);
		return EXIT_FAILED;
	}
	slash = strrchr(child, '/');
	snprintf(text, sizeof(text), "%.*s", slash ? (int)(slash - child) + 1 : 1,
		 slash ? child : ".");
	path = realpath(info.path, NULL);
	folder = realpath(text, NULL);
	if (!path || !folder || strlen(path) >= sizeof(conversion->hint)) {
		fprintf(stderr, "ufdctl: cannot tell where %s is\n", conversion->parent);
		return EXIT_FAILED;
	}
	n = strlen(folder);
	if (strncmp(path, folder, n) == 0 && path[n] == '/' && !strchr(path + n + 1, '/'))
		strcpy(conversion->hint, path + n + 1);
	else
		strcpy(conversion->hint, path);
	memcpy(conversion->link.digest, info.digest, IMAGE_DIGEST_BYTES);
	conversion->link.hint = conversion->hint;
	conversion->opts.parent = &conversion->link;
	return EXIT_DONE;
}

static int write_image(const struct conversion *conversion, struct image *image,
		       struct image *parent, const struct image_file *file,
		       struct image_convert *convert)
{
	uint32_t memory = IMAGE_ALL_MEMORIES;
	const char *why = NULL;
	int r, status = EXIT_DONE;

	if (conversion->memory || conversion->format != IMAGE_UFDI)
		status = image_file_memory(image, conversion->memory, &memory);
	if (status)
		return status;
	if (conversion->format == IMAGE_UFDI)
		r = image_convert(image, memory, file->fd, &conversion->opts, parent, convert,
				  &why);
	else
		r = image_convert_raw(image, memory, file->fd, convert, &why);
	return r < 0 ? image_file_failed(r, why) : EXIT_DONE;
}

static void convert_show(const struct session *session, const json_t *json)
{
	static const struct column columns[] = {
		{ "Format", "format", COLUMN_TEXT },	    { "Data", "data_bytes", COLUMN_BYTES },
		{ "Stored", "stored_bytes", COLUMN_BYTES }, { "File", "file_bytes", COLUMN_BYTES },
		{ "Digest", "digest", COLUMN_TEXT },	    {},
	};

	if (!session->is_quiet)
		output_record(session, columns, json);
}

static void convert_tell(const struct session *session, enum image_format format,
			 const struct image_convert *result)
{
	json_t *json = json_pack("{s:s, s:I, s:I, s:I, s:o}", "format", image_format_name(format),
				 "data_bytes", (json_int_t)result->stats.data_bytes, "stored_bytes",
				 (json_int_t)result->stats.stored_bytes, "file_bytes",
				 (json_int_t)result->stats.file_bytes, "digest",
				 image_file_digest(result->digest));

	if (!output_json(session, json))
		convert_show(session, json);
	json_decref(json);
}

static int convert(struct session *session, struct conversion *conversion, const char *from,
		   const char *to)
{
	const struct image_open_opts opts = { .without_chain = conversion->is_alone };
	struct progress progress = { session, "copying", clock_now_ns(), 0, false };
	struct image_convert result = { .on_progress = on_progress, .userdata = &progress };
	_cleanup_(image_unrefp) struct image *image = NULL, *parent = NULL;
	_cleanup_(image_file_done) struct image_file file = { .fd = -EBADF };
	int status;

	status = image_file_open(&image, from, &opts);
	if (status == EXIT_DONE && conversion->parent)
		status = image_file_open(&parent, conversion->parent, NULL);
	if (status == EXIT_DONE && parent)
		status = name_parent(conversion, parent, to);
	if (status == EXIT_DONE)
		status = image_file_make(&file, to);
	if (status == EXIT_DONE)
		status = write_image(conversion, image, parent, &file, &result);
	progress_end(&progress);
	if (status == EXIT_DONE)
		status = image_file_keep(&file);
	if (status)
		return status;
	if (file.fd == STDOUT_FILENO)
		return EXIT_DONE;
	convert_tell(session, conversion->format, &result);
	return EXIT_DONE;
}

static int take_option(struct conversion *conversion, int value, bool is_flatten)
{
	switch (value) {
	case 'c':
		if (image_codec_parse(optarg, &conversion->opts.codec, &conversion->opts.level))
			return session_usage(
				"--compress is none, lz4, zstd or zstd:LEVEL, not '%s'", optarg);
		return EXIT_DONE;
	case 'm':
		conversion->memory = optarg;
		return EXIT_DONE;
	case 't':
		if (is_flatten || !image_format_parse(optarg, &conversion->format))
			return session_usage("--to is ufdi, raw, firecracker or cloud-hypervisor");
		return EXIT_DONE;
	case 'p':
		conversion->parent = optarg;
		return is_flatten ? session_usage("image flatten gives an image without parent")
				  : EXIT_DONE;
	case 'a':
		conversion->is_alone = true;
		return is_flatten ? session_usage("image flatten takes the whole chain")
				  : EXIT_DONE;
	default:
		return session_usage("image %s: bad option", is_flatten ? "flatten" : "convert");
	}
}

static int convert_verb(struct session *session, int argc, char **argv, bool is_flatten)
{
	static const struct option options[] = {
		{ "compress", required_argument, NULL, 'c' },
		{ "memory", required_argument, NULL, 'm' },
		{ "to", required_argument, NULL, 't' },
		{ "parent", required_argument, NULL, 'p' },
		{ "alone", no_argument, NULL, 'a' },
		{},
	};
	struct conversion conversion = { .opts.codec = IMAGE_LZ4 };
	int value, status;

	while ((value = getopt_long(argc, argv, "", options, NULL)) != -1) {
		status = take_option(&conversion, value, is_flatten);
		if (status)
			return status;
	}
	if (argc - optind != 2)
		return session_usage("image %s wants IMAGE FILE",
				     is_flatten ? "flatten" : "convert");
	if (conversion.format != IMAGE_UFDI &&
	    (conversion.parent || strcmp(argv[optind + 1], "-") == 0))
		return session_usage("only a .ufdi image can have a parent, or go to a pipe");
	if (conversion.is_alone && conversion.format == IMAGE_UFDI)
		return session_usage("--alone is for --to raw and --to firecracker");
	return convert(session, &conversion, argv[optind], argv[optind + 1]);
}

int cmd_image_convert(struct session *session, int argc, char **argv)
{
	return convert_verb(session, argc, argv, false);
}

int cmd_image_flatten(struct session *session, int argc, char **argv)
{
	return convert_verb(session, argc, argv, true);
}

/* ---- append ---- */

static int append(struct session *session, const struct image_writer_opts *opts, const char *from,
		  const char *to)
{
	struct progress progress = { session, "copying", clock_now_ns(), 0, false };
	struct image_convert result = { .on_progress = on_progress, .userdata = &progress };
	_cleanup_(image_unrefp) struct image *image = NULL, *old = NULL;
	_cleanup_(closep) int fd = -EBADF;
	const char *why = NULL;
	int r, status;

	status = image_file_open(&image, from, NULL);
	if (status)
		return status;
	fd = open(to, O_RDWR | O_CLOEXEC | O_NOCTTY);
	if (fd < 0) {
		fprintf(stderr, "ufdctl: cannot open %s: %s\n", to, strerror(errno));
		return errno == EACCES ? EXIT_DENIED : EXIT_FAILED;
	}
	r = image_open(&old, to, fd, NULL, &why);
	if (r == 0)
		r = image_append(image, fd, old, opts, &result, &why);
	progress_end(&progress);
	if (r < 0)
		return image_file_failed(r, why);
	convert_tell(session, IMAGE_UFDI, &result);
	return EXIT_DONE;
}

int cmd_image_append(struct session *session, int argc, char **argv)
{
	static const struct option options[] = {
		{ "compress", required_argument, NULL, 'c' },
		{},
	};
	struct conversion conversion = { .opts.codec = IMAGE_LZ4 };
	int value, status;

	while ((value = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (value != 'c')
			return session_usage("image append: bad option");
		status = take_option(&conversion, value, false);
		if (status)
			return status;
	}
	if (argc - optind != 2)
		return session_usage("image append wants IMAGE FILE");
	return append(session, &conversion.opts, argv[optind], argv[optind + 1]);
}

/* ---- diff ---- */

/* Readable. The runs of one memory, joined. */
struct difference {
	json_t *runs; /* owned */
	uint64_t first, count, total;
};

static void end_run(struct difference *difference)
{
	if (difference->count && json_array_size(difference->runs) < MOST_RUNS)
		json_array_append_new(
			difference->runs,
			json_pack("{s:I, s:I}", "offset_bytes",
				  (json_int_t)(difference->first * IMAGE_BLOCK_BYTES),
				  "length_bytes",
				  (json_int_t)(difference->count * IMAGE_BLOCK_BYTES)));
	difference->count = 0;
}

static int on_run(void *userdata, uint64_t block, uint64_t n_blocks, const void *data)
{
	struct difference *difference = userdata;

	if (block != difference->first + difference->count)
		end_run(difference);
	if (!difference->count)
		difference->first = block;
	difference->count += n_blocks;
	difference->total += n_blocks * IMAGE_BLOCK_BYTES;
	return 0;
}

/* Memories of one name; with two raw files, of any. */
static int diff_memory(struct image *a, uint32_t a_memory, struct image *b, json_t *rows,
		       uint64_t *total)
{
	struct difference difference = { .runs = json_array() };
	const char *name = image_memory(a, a_memory)->name, *why = NULL;
	uint32_t b_memory;
	int r;

	if (!image_find_memory(b, name, &b_memory)) {
		if (image_n_memories(a) != 1 || image_n_memories(b) != 1) {
			json_decref(difference.runs);
			fprintf(stderr, "ufdctl: the second image has no memory %s\n", name);
			return EXIT_FAILED;
		}
		b_memory = 0;
	}
	r = image_diff(a, a_memory, b, b_memory, on_run, &difference, &why);
	end_run(&difference);
	*total += difference.total;
	json_array_append_new(rows,
			      json_pack("{s:s, s:I, s:o}", "memory", name, "differ_bytes",
					(json_int_t)difference.total, "ranges", difference.runs));
	return r < 0 ? image_file_failed(r, why) : EXIT_DONE;
}

static void diff_show(const struct session *session, const json_t *rows)
{
	const json_t *row, *run;
	size_t i, j;

	json_array_foreach(rows, i, row)
	{
		json_array_foreach(json_object_get(row, "ranges"), j, run)
		{
			char text[32];
			uint64_t offset = (uint64_t)json_integer_value(
				json_object_get(run, "offset_bytes"));

			output_bytes(
				session,
				(uint64_t)json_integer_value(json_object_get(run, "length_bytes")),
				text, sizeof(text));
			printf("%s 0x%" PRIx64 " %s\n",
			       json_string_value(json_object_get(row, "memory")), offset, text);
		}
	}
}

int cmd_image_diff(struct session *session, int argc, char **argv)
{
	_cleanup_(image_unrefp) struct image *a = NULL, *b = NULL;
	json_t *rows, *json;
	uint64_t total = 0;
	char text[32];
	int status;

	if (argc != 3 || argv[1][0] == '-')
		return session_usage("image diff wants two IMAGEs");
	status = image_file_open(&a, argv[1], NULL);
	if (status == EXIT_DONE)
		status = image_file_open(&b, argv[2], NULL);
	if (status)
		return status;
	rows = json_array();
	for (uint32_t i = 0; image_n_memories(b) > 1 && i < image_n_memories(b); i++) {
		uint32_t memory;

		if (!image_find_memory(a, image_memory(b, i)->name, &memory)) {
			fprintf(stderr, "ufdctl: the first image has no memory %s\n",
				image_memory(b, i)->name);
			status = EXIT_FAILED;
		}
	}
	for (uint32_t i = 0; status == EXIT_DONE && i < image_n_memories(a); i++)
		status = diff_memory(a, i, b, rows, &total);
	json = json_pack("{s:I, s:o}", "differ_bytes", (json_int_t)total, "memories", rows);
	if (status == EXIT_DONE && !output_json(session, json)) {
		diff_show(session, rows);
		output_bytes(session, total, text, sizeof(text));
		if (!session->no_legend)
			printf("%s differ\n", total ? text : "No pages");
	}
	json_decref(json);
	return status;
}
