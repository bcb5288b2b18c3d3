/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ufdctl image info, verify. */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "image-file.h"
#include "image/image-info.h"
#include "image/image-mark.h"
#include "image/image-verify.h"
#include "image/image-writer.h"
#include "output.h"
#include "verbs.h"

#define MOST_SHOWN 20

/* ---- info ---- */

static json_t *memory_json(const struct image *image, uint32_t memory)
{
	static const char *const kinds[] = { "anon", "shmem", "hugetlb", "private" };
	const struct image_memory *info = image_memory(image, memory);
	struct image_content content;

	image_get_content(image, memory, &content);
	return json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I}", "name", info->name, "kind",
			 kinds[info->kind], "length_bytes", (json_int_t)info->length_bytes,
			 "page_bytes", (json_int_t)info->page_bytes, "data_bytes",
			 (json_int_t)content.data_bytes, "zero_bytes",
			 (json_int_t)content.zero_bytes, "absent_bytes",
			 (json_int_t)content.absent_bytes);
}

static json_t *layer_json(const struct image *image, uint32_t layer)
{
	struct image_layer_info info;
	json_t *codecs = json_object();

	image_get_layer(image, layer, &info);
	for (unsigned int i = 0; i < 3; i++)
		if (info.n_frames[i])
			json_object_set_new(
				codecs, image_codec_name(i),
				json_pack("{s:I, s:I, s:I}", "frames", (json_int_t)info.n_frames[i],
					  "stored_bytes", (json_int_t)info.stored_bytes[i],
					  "unpacked_bytes", (json_int_t)info.unpacked_bytes[i]));
	return json_pack("{s:s, s:s, s:o, s:I, s:I, s:I, s:I, s:o}", "path", info.path, "format",
			 info.is_flat ? "raw" : "ufdi", "digest", image_file_digest(info.digest),
			 "generation", (json_int_t)info.generation, "created_s",
			 (json_int_t)info.created_s, "file_bytes", (json_int_t)info.file_bytes,
			 "index_bytes", (json_int_t)info.index_bytes, "frames", codecs);
}

static json_t *info_json(const struct image *image)
{
	json_t *memories = json_array(), *layers = json_array(), *restored = json_null();
	struct image_layer_info top;
	int64_t when_s;

	for (uint32_t i = 0; i < image_n_memories(image); i++)
		json_array_append_new(memories, memory_json(image, i));
	for (uint32_t i = 0; i < image_n_layers(image); i++)
		json_array_append_new(layers, layer_json(image, i));
	image_get_layer(image, 0, &top);
	if (image_was_restored(top.path, &when_s))
		restored = json_integer((json_int_t)when_s);
	return json_pack("{s:o, s:o, s:o, s:o}", "digest", image_file_digest(top.digest),
			 "restored_s", restored, "memories", memories, "layers", layers);
}

static void show_time(const char *title, const json_t *seconds)
{
	time_t at = (time_t)json_integer_value(seconds);
	char text[64];
	struct tm parts;

	if (!json_is_integer(seconds) || !at || !gmtime_r(&at, &parts))
		return;
	strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S UTC", &parts);
	printf("%-14s %s\n", title, text);
}

static void info_show(const struct session *session, const json_t *info)
{
	static const struct column memories[] = {
		{ "Memory", "name", COLUMN_TEXT },
		{ "Kind", "kind", COLUMN_TEXT },
		{ "Length", "length_bytes", COLUMN_BYTES },
		{ "Page", "page_bytes", COLUMN_BYTES },
		{ "Data", "data_bytes", COLUMN_BYTES },
		{ "Zero", "zero_bytes", COLUMN_BYTES },
		{ "Parent's", "absent_bytes", COLUMN_BYTES },
		{},
	};
	static const struct column layers[] = {
		{ "File", "path", COLUMN_TEXT },
		{ "Format", "format", COLUMN_TEXT },
		{ "Size", "file_bytes", COLUMN_BYTES },
		{ "Digest", "digest", COLUMN_TEXT },
		{},
	};
	const json_t *top = json_array_get(json_object_get(info, "layers"), 0);

	show_time("Written", json_object_get(top, "created_s"));
	show_time("Restored", json_object_get(info, "restored_s"));
	output_table(session, memories, json_object_get(info, "memories"), "memories");
	output_table(session, layers, json_object_get(info, "layers"), "files");
}

int cmd_image_info(struct session *session, int argc, char **argv)
{
	static const struct option options[] = { { "alone", no_argument, NULL, 'a' }, {} };
	_cleanup_(image_unrefp) struct image *image = NULL;
	struct image_open_opts opts = {};
	json_t *info;
	int value, status;

	while ((value = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (value != 'a')
			return session_usage("image info knows --alone only");
		opts.without_chain = true;
	}
	if (argc - optind != 1)
		return session_usage("image info wants one IMAGE");
	status = image_file_open(&image, argv[optind], &opts);
	if (status)
		return status;
	info = info_json(image);
	if (!output_json(session, info))
		info_show(session, info);
	json_decref(info);
	return EXIT_DONE;
}

/* ---- verify ---- */

struct verifying {
	struct progress progress;
	const struct session *session;
	const struct image *image;
	json_t *broken; /* owned */
	uint64_t n_broken;
};

static void on_broken(void *userdata, uint32_t memory, uint64_t offset_bytes, uint64_t length_bytes,
		      const char *why)
{
	struct verifying *verifying = userdata;
	const char *name = image_memory(verifying->image, memory)->name;

	if (verifying->n_broken++ >= MOST_SHOWN)
		return;
	json_array_append_new(verifying->broken,
			      json_pack("{s:s, s:I, s:I, s:s}", "memory", name, "offset_bytes",
					(json_int_t)offset_bytes, "length_bytes",
					(json_int_t)length_bytes, "why", why));
	if (verifying->session->json == JSON_OFF)
		fprintf(stderr, "ufdctl: memory %s, offset 0x%" PRIx64 ": %s\n", name, offset_bytes,
			why);
}

static void on_progress(void *userdata, uint64_t done_bytes, uint64_t total_bytes)
{
	progress_show(&((struct verifying *)userdata)->progress, done_bytes, total_bytes);
}

static void verify_show(const struct session *session, const struct image_verify *verify,
			const struct verifying *verifying)
{
	char read[32], broken[32];

	output_bytes(session, verify->n_read_bytes, read, sizeof(read));
	output_bytes(session, verify->n_broken_bytes, broken, sizeof(broken));
	if (verifying->n_broken)
		printf("%s read, %s in %" PRIu64 " pages are broken\n", read, broken,
		       verifying->n_broken);
	else if (!session->is_quiet)
		printf("%s read, all is sound\n", read);
}

int cmd_image_verify(struct session *session, int argc, char **argv)
{
	struct verifying verifying = { { session, "reading", clock_now_ns(), 0, false }, session };
	struct image_verify verify = { .on_broken = on_broken,
				       .on_progress = on_progress,
				       .userdata = &verifying };
	_cleanup_(image_unrefp) struct image *image = NULL;
	json_t *json;
	int r, status;

	if (argc != 2 || argv[1][0] == '-')
		return session_usage("image verify wants one IMAGE");
	status = image_file_open(&image, argv[1], NULL);
	if (status)
		return status;
	verifying.image = image;
	verifying.broken = json_array();
	r = image_verify(image, &verify);
	progress_end(&verifying.progress);
	json = json_pack("{s:o, s:I, s:I, s:o}", "digest", image_file_digest(image_digest(image)),
			 "read_bytes", (json_int_t)verify.n_read_bytes, "broken_bytes",
			 (json_int_t)verify.n_broken_bytes, "broken", verifying.broken);
	if (r < 0)
		status = image_file_failed(r, NULL);
	else if (!output_json(session, json))
		verify_show(session, &verify, &verifying);
	json_decref(json);
	return status ?: verifying.n_broken ? EXIT_FAILED : EXIT_DONE;
}
