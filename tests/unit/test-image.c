/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Images: what was written last is what is read, through layers and commits. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/units.h"
#include "image/image-convert.h"
#include "image/image-reader.h"
#include "image/image-writer.h"
#include "support/unit.h"

#define PAGE	4096
#define N_PAGES 600

static char directory[64];

static void make_directory(void)
{
	strcpy(directory, "/tmp/test-image-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(directory));
}

static void remove_directory(void)
{
	char command[128];

	snprintf(command, sizeof(command), "rm -r %s", directory);
	ck_assert_int_eq(system(command), 0);
}

static const char *path_of(const char *name)
{
	static char paths[4][160];
	static unsigned int next;
	char *path = paths[next++ % 4];

	snprintf(path, sizeof(paths[0]), "%s/%s", directory, name);
	return path;
}

static int new_file(const char *name)
{
	int fd = open(path_of(name), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	ck_assert_int_ge(fd, 0);
	return fd;
}

/* ---- a memory as it should be ---- */

/* What a guest holds, and how it changes. */
struct model {
	unsigned char bytes[N_PAGES * PAGE];
	unsigned int seed;
};

/* Some pages compress well, some not at all, some are zero, some in part. */
static void fill_page(struct model *model, unsigned char *page)
{
	unsigned int kind = (unsigned int)rand_r(&model->seed) % 4;
	unsigned int step = kind == 1 ? 1 : 97;

	memset(page, 0, PAGE);
	if (kind == 0)
		return;
	for (unsigned int i = 0; i < PAGE; i += step)
		page[i] = (unsigned char)rand_r(&model->seed);
	if (kind == 3)
		memset(page, 'a' + rand_r(&model->seed) % 20, PAGE / 2);
}

/* A few pieces of a memory change, and are written. */
static void write_round(struct model *model, struct image_writer *writer, uint32_t memory,
			unsigned int n_pieces)
{
	for (unsigned int i = 0; i < n_pieces; i++) {
		uint64_t first = (uint64_t)rand_r(&model->seed) % N_PAGES;
		uint64_t n = min_u64(1 + (uint64_t)rand_r(&model->seed) % 40, N_PAGES - first);

		if (rand_r(&model->seed) % 6 == 0) {
			memset(model->bytes + first * PAGE, 0, n * PAGE);
			ck_assert_int_eq(image_writer_zero(writer, memory, first, n), 0);
			continue;
		}
		for (uint64_t j = 0; j < n; j++)
			fill_page(model, model->bytes + (first + j) * PAGE);
		ck_assert_int_eq(
			image_writer_pages(writer, memory, first, model->bytes + first * PAGE, n),
			0);
	}
}

static void check_memory(struct image *image, const char *name, const struct model *model)
{
	_cleanup_(image_cursor_freep) struct image_cursor *cursor = NULL;
	static unsigned char bytes[N_PAGES * PAGE];
	const char *error = "";
	uint64_t n_said = 0, n_wrong = 0, n;
	uint32_t memory;

	ck_assert(image_find_memory(image, name, &memory));
	ck_assert_uint_eq(image_memory(image, memory)->length_bytes, N_PAGES * PAGE);
	ck_assert_int_eq(image_cursor_new(&cursor, image), 0);
	ck_assert_msg(image_read_pages(cursor, memory, 0, N_PAGES, bytes, &error) == 0, "%s",
		      error);
	ck_assert(!memcmp(bytes, model->bytes, sizeof(bytes)));
	/* one at a time, backwards: other frames are at hand then */
	for (uint64_t i = N_PAGES; i-- > 0;)
		n_wrong += image_read_pages(cursor, memory, i, 1, bytes, &error) ||
			   memcmp(bytes, model->bytes + i * PAGE, PAGE);
	/* what is said to be zero is, and what is not is not */
	for (uint64_t i = 0; i < N_PAGES; i += n) {
		static const unsigned char zeros[PAGE];
		int kind = image_extent(image, memory, i, N_PAGES - i, &n);

		ck_assert(n > 0 && n <= N_PAGES - i);
		for (uint64_t j = i; j < i + n; j++) {
			bool is_zero = !memcmp(model->bytes + j * PAGE, zeros, PAGE);

			n_wrong += kind != (is_zero ? IMAGE_PLACE_ZERO : IMAGE_PLACE_DATA);
			n_said += is_zero;
		}
	}
	ck_assert_uint_eq(n_wrong, 0);
	ck_assert_uint_gt(n_said, 0);
}

static struct image *open_image(const char *name)
{
	struct image *image = NULL;
	const char *error = "";

	ck_assert_msg(image_open(&image, path_of(name), -1, NULL, &error) == 0, "%s", error);
	return image;
}

static const struct {
	enum image_codec codec;
	int level;
} codecs[] = {
	{ IMAGE_RAW, 0 }, { IMAGE_LZ4, 0 }, { IMAGE_ZSTD, 0 }, { IMAGE_ZSTD, 5 }, { IMAGE_ZSTD, -3 }
};

START_TEST(what_was_written_last_is_read)
{
	struct image_writer_opts opts = { .codec = codecs[_i].codec, .level = codecs[_i].level };
	static struct model first = { .seed = 1 }, second = { .seed = 2 };
	struct image_writer *writer = NULL;
	uint32_t a, b;
	int fd;

	make_directory();
	fd = new_file("image");
	ck_assert_int_eq(image_writer_new(&writer, fd, &opts), 0);
	ck_assert_int_eq(
		image_writer_add_memory(writer, "ram", N_PAGES * PAGE, PAGE, IMAGE_SHMEM, &a), 0);
	ck_assert_int_eq(
		image_writer_add_memory(writer, "vram", N_PAGES * PAGE, PAGE, IMAGE_ANON, &b), 0);
	for (unsigned int i = 0; i < 4; i++) {
		struct image *image;

		write_round(&first, writer, a, 30);
		write_round(&second, writer, b, 10);
		write_round(&first, writer, a, 5);
		ck_assert_int_eq(image_writer_commit(writer, NULL), 0);
		image = open_image("image");
		ck_assert_uint_eq(image_n_memories(image), 2);
		check_memory(image, "ram", &first);
		check_memory(image, "vram", &second);
		image_unref(image);
	}
	image_writer_free(writer);
	close(fd);
	remove_directory();
}
END_TEST

/* A layer a round, each with the digest of the one before. */
START_TEST(layers_add_up)
{
	struct image_writer_opts opts = { .codec = codecs[_i].codec, .level = codecs[_i].level };
	struct image_parent parent = {};
	static struct model model = { .seed = 3 };
	char name[16], hint[16];
	struct image *image;
	uint32_t memory;

	make_directory();
	for (unsigned int i = 0; i < 5; i++) {
		struct image_writer *writer = NULL;
		int fd;

		snprintf(name, sizeof(name), "layer%u", i);
		fd = new_file(name);
		ck_assert_int_eq(image_writer_new(&writer, fd, &opts), 0);
		ck_assert_int_eq(image_writer_add_memory(writer, "ram", N_PAGES * PAGE, PAGE,
							 IMAGE_SHMEM, &memory),
				 0);
		write_round(&model, writer, memory, i ? 6 : 60);
		ck_assert_int_eq(image_writer_commit(writer, parent.digest), 0);
		image_writer_free(writer);
		close(fd);
		image = open_image(name);
		check_memory(image, "ram", &model);
		image_unref(image);
		snprintf(hint, sizeof(hint), "%s", name);
		parent.hint = hint;
		opts.parent = &parent;
	}
	remove_directory();
}
END_TEST

START_TEST(an_image_is_continued)
{
	struct image_writer_opts opts = { .codec = codecs[_i].codec };
	struct image_writer *writer = NULL;
	static struct model model = { .seed = 4 };
	const char *error = "";
	struct image *image;
	uint32_t memory;
	int fd;

	make_directory();
	fd = new_file("image");
	ck_assert_int_eq(image_writer_new(&writer, fd, &opts), 0);
	ck_assert_int_eq(
		image_writer_add_memory(writer, "ram", N_PAGES * PAGE, PAGE, IMAGE_SHMEM, &memory),
		0);
	for (unsigned int i = 0; i < 4; i++) {
		write_round(&model, writer, memory, 20);
		ck_assert_int_eq(image_writer_commit(writer, NULL), 0);
		/* what is not committed does not count, wherever its writer ended */
		if (i % 2) {
			static struct model lost = { .seed = 5 };

			write_round(&lost, writer, memory, 20);
		}
		writer = image_writer_free(writer);
		close(fd);
		image = open_image("image");
		check_memory(image, "ram", &model);
		image_unref(image);
		fd = open(path_of("image"), O_RDWR | O_CLOEXEC);
		ck_assert_msg(image_writer_append(&writer, fd, &opts, &error) == 0, "%s", error);
	}
	image_writer_free(writer);
	close(fd);
	remove_directory();
}
END_TEST

/* A base that is full of data, and two layers without any. */
static const struct {
	const char *what;
	const char *name; /* of the memory that the layer between has */
	uint64_t n_pages; /* of it */
	uint64_t n_data;  /* pages that are left when the memory is as it was */
} gone[] = {
	{ "it was there all the time", "ram", 16, 16 },
	{ "it was cut, and has grown again", "ram", 5, 5 },
	{ "it was removed, and is there again", "other", 16, 0 },
};

static void write_layer(const char *name, const char *memory_name, uint64_t n_pages,
			const unsigned char *data, const struct image_parent *parent,
			uint8_t ret_digest[IMAGE_DIGEST_BYTES])
{
	struct image_writer_opts opts = { .codec = IMAGE_LZ4, .parent = parent };
	struct image_writer *writer = NULL;
	int fd = new_file(name);
	uint32_t memory;

	ck_assert_int_eq(image_writer_new(&writer, fd, &opts), 0);
	ck_assert_int_eq(image_writer_add_memory(writer, memory_name, n_pages * PAGE, PAGE,
						 IMAGE_SHMEM, &memory),
			 0);
	if (data)
		ck_assert_int_eq(image_writer_pages(writer, memory, 0, data, n_pages), 0);
	ck_assert_int_eq(image_writer_commit(writer, ret_digest), 0);
	image_writer_free(writer);
	close(fd);
}

START_TEST(what_a_parent_has_not_does_not_come_from_before)
{
	struct image_parent base = { .hint = "base" }, between = { .hint = "between" };
	unsigned char expected[16 * PAGE], bytes[16 * PAGE];
	struct image_cursor *cursor = NULL;
	const char *error = "";
	struct image *image;
	uint64_t n;

	make_directory();
	memset(expected, 'a', sizeof(expected));
	write_layer("base", "ram", 16, expected, NULL, base.digest);
	write_layer("between", gone[_i].name, gone[_i].n_pages, NULL, &base, between.digest);
	write_layer("top", "ram", 16, NULL, &between, NULL);
	memset(expected + gone[_i].n_data * PAGE, 0, (16 - gone[_i].n_data) * PAGE);
	image = open_image("top");
	ck_assert_int_eq(image_cursor_new(&cursor, image), 0);
	ck_assert_int_eq(image_read_pages(cursor, 0, 0, 16, bytes, &error), 0);
	ck_assert_msg(!memcmp(bytes, expected, sizeof(bytes)), "%s", gone[_i].what);
	ck_assert_int_eq(image_extent(image, 0, 0, 16, &n),
			 gone[_i].n_data ? IMAGE_PLACE_DATA : IMAGE_PLACE_ZERO);
	ck_assert_uint_eq(n, gone[_i].n_data ?: 16);
	image_cursor_free(cursor);
	image_unref(image);
	remove_directory();
}
END_TEST

/* Layers of one name in a folder each, and the folder of the parent is gone. */
START_TEST(a_layer_is_not_taken_for_its_own_parent)
{
	struct image_parent parent = { .digest = { 1 }, .hint = "../before/top" };
	struct image *image = NULL;
	const char *error = "";

	make_directory();
	write_layer("top", "ram", 1, NULL, &parent, NULL);
	ck_assert_int_eq(image_open(&image, path_of("./top"), -1, NULL, &error), -ENOENT);
	ck_assert_msg(strstr(error, "missing") && strstr(error, "../before/top"), "%s", error);
	remove_directory();
}
END_TEST

/* Pages of several blocks: what is mixed is data, and no more than that. */
START_TEST(a_page_that_is_there_in_part_is_one_page_of_data)
{
	const struct image_parent parent = { .digest = { 1 }, .hint = "nowhere" };
	const struct image_open_opts alone = { .without_chain = true };
	struct image_writer_opts opts = { .parent = &parent };
	struct image_writer *writer = NULL;
	struct image *image = NULL;
	static const unsigned char block[PAGE] = "x";
	const char *error = "";
	uint32_t memory;
	uint64_t n;
	int fd;

	make_directory();
	fd = new_file("layer");
	ck_assert_int_eq(image_writer_new(&writer, fd, &opts), 0);
	ck_assert_int_eq(image_writer_add_memory(writer, "ram", 8 * 512 * PAGE, 512 * PAGE,
						 IMAGE_HUGETLB, &memory),
			 0);
	ck_assert_int_eq(image_writer_blocks(writer, memory, 0, block, 1), 0);
	ck_assert_int_eq(image_writer_commit(writer, NULL), 0);
	ck_assert_int_eq(image_open(&image, path_of("layer"), -1, &alone, &error), 0);
	ck_assert_int_eq(image_extent(image, 0, 0, 8, &n), IMAGE_PLACE_DATA);
	ck_assert_uint_eq(n, 1);
	ck_assert_int_eq(image_extent(image, 0, 1, 7, &n), IMAGE_PLACE_ABSENT);
	ck_assert_uint_eq(n, 7);
	image_unref(image);
	image_writer_free(writer);
	close(fd);
	remove_directory();
}
END_TEST

struct copying {
	int fd;
	unsigned int n_whole; /* how often it was as long as the memory already */
};

static void on_progress(void *userdata, uint64_t done_bytes, uint64_t total_bytes)
{
	struct copying *copying = userdata;

	copying->n_whole += (uint64_t)lseek(copying->fd, 0, SEEK_END) >= total_bytes;
	ck_assert_uint_le(done_bytes, total_bytes);
}

/* Whoever is killed meanwhile leaves nothing that a VMM would load. */
START_TEST(a_raw_copy_is_as_long_as_the_memory_when_all_is_there)
{
	static unsigned char bytes[64 * PAGE], copy[64 * PAGE];
	struct copying copying = {};
	struct image_convert convert = { .on_progress = on_progress, .userdata = &copying };
	const char *error = "";
	struct image *image;

	make_directory();
	copying.fd = new_file("raw");
	memset(bytes, 'a', 16 * PAGE);
	write_layer("base", "ram", 64, bytes, NULL, NULL);
	image = open_image("base");
	ck_assert_int_eq(image_convert_raw(image, 0, copying.fd, &convert, &error), 0);
	ck_assert_int_eq(pread(copying.fd, copy, sizeof(copy), 0), sizeof(copy));
	ck_assert_int_eq(lseek(copying.fd, 0, SEEK_END), sizeof(copy));
	ck_assert(!memcmp(bytes, copy, sizeof(copy)));
	ck_assert_uint_eq(copying.n_whole, 0);
	image_unref(image);
	close(copying.fd);
	remove_directory();
}
END_TEST

int main(void)
{
	return unit_run("image",
			(struct unit_test[]){
				UNIT_TABLE(what_was_written_last_is_read, codecs),
				UNIT_TABLE(layers_add_up, codecs),
				UNIT_TABLE(an_image_is_continued, codecs),
				UNIT_TABLE(what_a_parent_has_not_does_not_come_from_before, gone),
				UNIT(a_layer_is_not_taken_for_its_own_parent),
				UNIT(a_page_that_is_there_in_part_is_one_page_of_data),
				UNIT(a_raw_copy_is_as_long_as_the_memory_when_all_is_there),
				{},
			});
}
